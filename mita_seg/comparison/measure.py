"""Counting and timing the compared models, one at a time in a process of its own."""

import argparse
import functools
import sys
import traceback
from pathlib import Path

import torch
from torch.utils.data._utils.pin_memory import pin_memory

from mita_seg.engine.amp import training_precision
from mita_seg.utils import environment
from mita_seg.utils.cli import ends_on_full_disk, leave_out_pretrained, register_parts
from mita_seg.utils.files import read_json, write_json
from mita_seg.utils.full_disk import find_full_disk
from mita_seg.utils.timing import Timer

from .workers import DISK_FULL, end_with_parent

_REPEATS = 20
_MIN_REPEATS = 5
_SECONDS = 6.0


def main(argv=None):
    """Complete runs: add size, FLOPs and times to what their workers found.

    A run that fails leaves the others alone; the tracebacks end the log.
    """
    parser = argparse.ArgumentParser(prog='mita_seg.comparison.measure')
    parser.add_argument('--no-training', action='store_true')
    parser.add_argument('folders', nargs='+', type=Path)
    args = parser.parse_args(argv)
    failures = []
    measure_once = functools.cache(measure)  # the same for every seed
    for folder in args.folders:
        try:
            measured = measure_once(folder.parent / 'config.py', train=not args.no_training)
            complete(folder, measured)
        except Exception as error:
            if find_full_disk(error):
                raise
            failures.append(f'{folder}:\n{traceback.format_exc()}')
    if failures:
        sys.exit('\n'.join(failures))


def complete(folder, measured):
    """Write the ``result.json`` of an evaluated run.

    Args:
        folder (Path): Folder of the run.
        measured (dict): What :func:`measure` returns for its config.
    """
    evaluation = read_json(folder / 'evaluation.json')
    write_json(
        folder / 'result.json',
        {
            'config': folder.parent.name,
            'seed': int(folder.name.removeprefix('seed')),
            **evaluation,
            **measured,
            'environment': describe_environment(),
        },
    )


def describe_environment(timed=True):
    """Describe device, versions, threads, date and how the figures were taken.

    Args:
        timed (bool): Whether the figures have times among them.

    Returns:
        dict[str, str | int]: For ``environment`` in ``results.json``.
    """
    return {
        **environment.describe_environment(),
        'timing': (
            'after all training, one model at a time, without data loading' if timed else 'not yet'
        ),
        'peak_mem_mb': (
            'peak of the CUDA allocator in training (--test-only: in evaluation)'
            if torch.cuda.is_available()
            else 'peak resident set of the training (--test-only: evaluating) process'
        ),
    }


def measure(config, train=True):
    """Count and time the model of a config at its crop size.

    Args:
        config (str | os.PathLike): The config file.
        train (bool): Time training iterations too.

    Returns:
        dict: ``params``; ``flops_model`` and ``flops_decoder`` (one multiply-add = 1, one image);
        ``latency_ms``, the median forward pass of one image in the precision
        that the config trains in (evaluation runs in float32); ``iter_ms``, the median training
        iteration at the config's batch size without data loading, or None.
    """
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    register_parts()
    cfg = Config.fromfile(config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    torch.manual_seed(0)
    torch.compiler.reset()  # else the compiler gives up on the ninth model of a process
    # Counts and times do not depend on the weights, so nothing is loaded.
    leave_out_pretrained(cfg)
    model = MODELS.build(cfg.model)
    model = model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()
    height, width = crop_size(cfg)
    image = torch.randn(1, 3, height, width, device=model.data_preprocessor.device)
    return {
        'params': sum(parameter.numel() for parameter in model.parameters()),
        **count_flops(model, image),
        'latency_ms': _time_forward(cfg.get('optim_wrapper'), model, image),
        'iter_ms': _time_training(cfg, model, height, width) if train else None,
    }


def count_flops(model, image):
    """Multiply-adds of the whole model and of its decode head.

    Args:
        model (BaseSegmentor): A segmentor in eval mode.
        image (Tensor): `[1, 3, h, w]`.

    Returns:
        dict[str, int]: ``flops_model`` and ``flops_decoder``.
    """
    from mmengine.analysis import FlopAnalyzer

    counter = FlopAnalyzer(model, (image,))
    counter.unsupported_ops_warnings(False)
    counter.uncalled_modules_warnings(False)
    by_module = counter.by_module()
    return {'flops_model': int(by_module['']), 'flops_decoder': int(by_module['decode_head'])}


def crop_size(cfg):
    """Height and width of the images that a config trains on."""
    size = cfg.model.get('data_preprocessor', {}).get('size') or cfg.get('crop_size')
    if size is None:
        raise ValueError(
            'the crop size is neither in model.data_preprocessor.size nor in crop_size'
        )
    return size


def _load_batch(loader, classes, batch, height, width):
    """A batch of random images, as a data loader with these settings hands it over."""
    from mmengine.registry import FUNCTIONS
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    options = dict(loader.get('collate_fn') or {'type': 'pseudo_collate'})
    collate = options.pop('type')
    collate = collate if callable(collate) else FUNCTIONS.get(collate)
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)
    labels = torch.randint(0, classes, (batch, 1, height, width))
    labels = labels.to(torch.uint8 if collate is FUNCTIONS.get('join_samples') else torch.int64)
    sizes = {'img_shape': (height, width), 'ori_shape': (height, width)}
    samples = [
        {
            'inputs': image.permute(2, 0, 1),
            'data_samples': SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=sizes),
        }
        for image, label in zip(images, labels, strict=True)
    ]
    data = collate(samples, **options)
    if loader.get('pin_memory') and torch.cuda.is_available():
        data = pin_memory(data)
    return data


def _time_forward(optim_wrapper, model, image):
    def forward():
        with torch.no_grad(), training_precision(optim_wrapper, image.device.type):
            model(image, mode='tensor')

    return _median_ms(forward)


def _time_training(cfg, model, height, width):
    batch = cfg.train_dataloader.batch_size
    return _median_ms(make_training_iteration(cfg, model, batch, height, width))


def make_training_iteration(cfg, model, batch, height, width):
    """Make a function that runs one training iteration on random images, without data loading.

    Args:
        cfg (Config): With ``optim_wrapper``.
        model (BaseSegmentor): Where it is to be trained; put into training mode.
        batch (int): Images.
        height, width (int): Of an image, pixels.

    Returns:
        Callable[[], dict]: The complete step of MMSegmentation: preprocessing, forward, the loss at
        full resolution, backward and the optimizer. The batch is made once, joined and pinned as
        the config's loader does it.
    """
    from mmengine.optim import build_optim_wrapper

    data = _load_batch(cfg.train_dataloader, model.decode_head.num_classes, batch, height, width)
    model.train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    return lambda: model.train_step(data, optimizer)


def _median_ms(function):
    """Median duration in milliseconds; fewer repeats when each one takes long."""
    timer = Timer(function, 'cuda' if torch.cuda.is_available() else 'cpu', calls=1)
    seconds = timer.median(_REPEATS, fewest=_MIN_REPEATS, seconds=_SECONDS)
    return round(1000 * seconds, 3)


if __name__ == '__main__':
    end_with_parent()
    with ends_on_full_disk('measure', DISK_FULL):
        main()
