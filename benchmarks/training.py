"""The training loop of a config as a user runs it: data, optimizer, schedule, logging."""

import gc
import math
import statistics
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook

from mita_seg.datasets import check_data
from mita_seg.engine.peak_memory import PeakMemoryHook
from mita_seg.utils.cli import build_runner, leave_out_pretrained, load_config
from mita_seg.utils.timing import read_clock

from .correctness import WrongResult
from .timing import OK, free_cached_memory, noting_status


def prepare_training(path, options, folder, iters):
    """Read a config and leave of it what a few iterations of training need.

    Validation, checkpoints, pictures and pretrained weights are left out.

    Args:
        path (str): The config file.
        options (dict, optional): From ``--cfg-options``.
        folder (str | os.PathLike): The logs go to a folder in it, of the config's name.
        iters (int): Training iterations.

    Returns:
        Config: For :func:`benchmark_training`.

    Raises:
        FileNotFoundError: The config or its data do not exist.
        ValueError: It is no valid config, or its loop does not count iterations.
    """
    cfg = load_config(path, options)
    if 'max_iters' not in (cfg.get('train_cfg') or {}):
        raise ValueError(
            f'config {path!r}: train_cfg must count iterations (max_iters), '
            f'got {cfg.get("train_cfg")}'
        )
    cfg.default_scope = cfg.get('default_scope', 'mmseg')
    check_data(cfg, ('train_dataloader',))
    leave_out_pretrained(cfg)
    cfg.train_cfg.max_iters = iters
    for name in ('val', 'test'):
        cfg[f'{name}_cfg'] = cfg[f'{name}_dataloader'] = cfg[f'{name}_evaluator'] = None
    hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}
    hooks.pop('visualization', None)
    cfg.default_hooks = hooks
    cfg.load_from, cfg.resume, cfg.launcher = None, False, 'none'
    cfg.randomness = {'seed': 0, **cfg.get('randomness', {})}
    cfg.work_dir = str(Path(folder) / Path(path).stem)
    return cfg


def benchmark_training(cfg, device):
    """Train for some iterations and time the second half of them.

    Args:
        cfg (Config): From :func:`prepare_training`.
        device (torch.device): Where MMEngine trains.

    Returns:
        list[dict]: One row: ``config``, its name; ``batch``; ``iterations``; ``status`` and
        ``reason``; ``iteration_ms``, the mean of the second half; ``data_wait_ms``, the median of
        what its iterations waited for data; ``peak_bytes`` of the CUDA allocator beyond what was
        allocated before, None on the CPU; ``last_loss``. What was not measured is None.
    """
    row = {
        'config': Path(cfg.work_dir).name,
        'batch': cfg.train_dataloader.batch_size,
        'iterations': cfg.train_cfg.max_iters,
        'status': OK,
        'reason': '',
        'iteration_ms': None,
        'data_wait_ms': None,
        'peak_bytes': None,
        'last_loss': None,
    }
    with noting_status(row):
        row.update(_train(cfg, device))
    gc.collect()  # the runner lies in cycles, and its data workers end with it
    free_cached_memory(device)
    return [row]


class _Clock(Hook):
    """Takes the time after two iterations, when the device has finished them.

    Args:
        iterations (Sequence[int]): How many are done then.
        device (torch.device): Where they run.
    """

    priority = 'LOWEST'  # after the other hooks of an iteration

    def __init__(self, iterations, device):
        self.iterations, self.device, self.marks = iterations, device, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx + 1 in self.iterations:
            self.marks.append(read_clock(self.device))


def _train(cfg, device):
    iters = cfg.train_cfg.max_iters
    half = iters // 2
    # MMEngine hands out loggers, histories and visualizers of a process by their names.
    name = f'benchmark_{time.monotonic_ns()}'
    cfg.experiment_name = name
    if cfg.get('visualizer'):
        cfg.visualizer.name = name
    torch.backends.cudnn.benchmark = False  # what the config before may have set
    torch.compiler.reset()  # the compiler gives up on the ninth model of a process
    cuda = device.type == 'cuda'
    before = torch.cuda.memory_allocated() if cuda else None
    runner = build_runner(cfg)
    clock = _Clock((half, iters), device)
    memory = PeakMemoryHook()
    for hook in (clock, memory):
        runner.register_hook(hook)
    runner.train()
    start, end = clock.marks
    waits, _ = runner.message_hub.get_scalar('train/data_time').data
    loss = float(runner.message_hub.get_scalar('train/loss').current())
    if not math.isfinite(loss):
        raise WrongResult(f'the loss is {loss} after {iters} iterations')
    return {
        'iteration_ms': 1000 * (end - start) / (iters - half),
        'data_wait_ms': 1000 * statistics.median(waits[half:].tolist()),
        'peak_bytes': memory.peak_bytes - before if cuda else None,
        'last_loss': loss,
    }
