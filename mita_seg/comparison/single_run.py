"""One run in a process of its own: train (or go on training), evaluate, predict a few images."""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from mmcv import imread
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook

from mita_seg.checkpoint import find_newest
from mita_seg.checkpoint.matching import require_matching_checkpoint
from mita_seg.checkpoint.structure import meta_of
from mita_seg.engine.peak_memory import PeakMemoryHook, peak_memory
from mita_seg.utils.cli import (
    build_runner,
    check_initial_weights,
    ends_on_full_disk,
    leave_out_pretrained,
    user_errors,
)
from mita_seg.utils.files import read_json, replacing, write_json

from .measure import describe_environment
from .workers import DISK_FULL, end_with_parent

_SAMPLES = 4  # test images whose predictions are drawn
_SECONDS_BETWEEN_WRITES = 0.5  # of the progress


def main(argv=None):
    """Run one (config, seed) and leave ``evaluation.json`` and ``samples.npz`` in its folder."""
    parser = argparse.ArgumentParser(prog='mita_seg.comparison.single_run')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--config', required=True)
    parser.add_argument('--folder', type=Path, required=True)
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--checkpoint', type=Path)
    args = parser.parse_args(argv)

    cfg = Config.fromfile(args.config)
    cfg.work_dir = str(args.folder)
    cfg.launcher, cfg.resume = 'none', False
    cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    saving.pop('out_dir', None)  # all that belongs to a run is in its folder
    name = args.folder.parent.name
    with user_errors(name):
        found = None if args.checkpoint else find_newest(args.folder, saving)
        latest, content = found or (args.checkpoint, None)
        train = args.checkpoint is None and not _is_trained(content, cfg)
        del found, content  # all weights, and the optimizer's state
        if not latest:
            check_initial_weights(cfg)
    if latest:
        # Its own checkpoint goes before the config's load_from, where training only begins.
        cfg.load_from, cfg.resume = str(latest), train
        # The checkpoint holds every weight: pretrained ones need not be fetched.
        leave_out_pretrained(cfg)

    runner = build_runner(cfg)
    memory = PeakMemoryHook()
    progress = ProgressHook(args.folder / 'progress.json', memory)
    for hook in (memory, progress):
        runner.register_hook(hook)
    # As tools/train.py does, training may start from a model for other classes.
    require_matching_checkpoint(runner, name, backbone_only=not latest)
    if train:
        runner.train()
        latest, _ = find_newest(args.folder, saving) or (None, None)
        if latest is None:
            sys.exit('training left no checkpoint: the config needs a CheckpointHook')
    torch.backends.cudnn.benchmark = False  # as tools/test.py, so that evaluation repeats
    metrics = runner.test()
    save_samples(runner, args.folder / 'samples.npz')
    write_json(
        args.folder / 'evaluation.json',
        {
            **{name: round(float(metrics[name]), 2) for name in ('mIoU', 'aAcc', 'mAcc')},
            'peak_mem_mb': round(progress.peak_mem_mb or peak_memory() / 2**20, 1),
            'checkpoint': os.path.relpath(latest, args.work_dir),
            'environment': describe_environment(timed=False),
        },
    )


def _is_trained(checkpoint, cfg):
    """Whether a checkpoint is the last one of its training."""
    done = {unit: meta_of(checkpoint).get(unit) for unit in ('iter', 'epoch')}
    return any(
        isinstance(count, int) and count >= cfg.train_cfg.get(f'max_{unit}s', float('inf'))
        for unit, count in done.items()
    )


class ProgressHook(Hook):
    """Writes state, iteration, loss and remaining seconds to a file.

    Args:
        path (str | os.PathLike): The file, ``progress.json`` of a run.
        memory (PeakMemoryHook): Registered in the same runner; its figure is kept in the file.
    """

    priority = 'LOWEST'

    def __init__(self, path, memory):
        self.path = path
        self.memory = memory
        self.written = 0.0
        self.started = self.first = None
        # Kept from the process that trained, if this one only evaluates.
        self.peak_mem_mb = (read_json(path) or {}).get('peak_mem_mb')

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Start the clock at the first iteration of this process."""
        if self.started is None:
            self.started, self.first = time.monotonic(), runner.iter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Report an iteration."""
        if time.monotonic() - self.written < _SECONDS_BETWEEN_WRITES:
            return
        done = runner.iter + 1
        seconds = (time.monotonic() - self.started) / (done - self.first)
        loss = (outputs or {}).get('loss')
        self._write(
            'training',
            done,
            runner.max_iters,
            loss=None if loss is None else float(loss),
            eta_s=seconds * (runner.max_iters - done),
        )

    def after_train(self, runner):
        """Keep the peak memory of training."""
        if self.started is not None:
            self.peak_mem_mb = self.memory.peak_bytes / 2**20
        self._write('trained', runner.iter, runner.max_iters)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Report an evaluated batch."""
        if time.monotonic() - self.written >= _SECONDS_BETWEEN_WRITES:
            self._write('evaluating', batch_idx + 1, len(runner.test_dataloader))

    def _write(self, state, step, steps, **more):
        self.written = time.monotonic()
        progress = {'state': state, 'step': step, 'steps': steps, 'peak_mem_mb': self.peak_mem_mb}
        write_json(self.path, {**progress, **more})


def save_samples(runner, path):
    """Predict some evenly spread test images and keep all that a picture of them needs.

    Args:
        runner (Runner): A runner with a trained model and a test data loader.
        path (str | os.PathLike): The ``.npz`` file: ``image{i}`` `[h, w, 3]` (RGB, uint8),
            ``label{i}`` and ``prediction{i}`` `[h, w]` (uint8; 255 = not labelled), ``names``,
            ``classes`` `[K]` and ``palette`` `[K, 3]`.
    """
    dataset = runner.test_dataloader.dataset
    indices = np.unique(np.linspace(0, len(dataset) - 1, _SAMPLES).round().astype(int)).tolist()
    arrays = {
        'names': np.array([dataset.get_data_info(i)['img_path'] for i in indices]),
        'classes': np.array(dataset.metainfo['classes']),
        'palette': np.array(dataset.metainfo['palette'], dtype=np.uint8),
    }
    runner.model.eval()
    for position, index in enumerate(indices):
        with torch.no_grad():
            sample = runner.model.test_step(pseudo_collate([dataset[index]]))[0]
        # With OpenCV, whose channels run blue, green, red; as LoadCheckedImage reads it, or else
        # turned by its EXIF orientation as LoadImageFromFile does.
        image = imread(sample.img_path, 'color_ignore_orientation')
        if image.shape[:2] != sample.pred_sem_seg.shape:
            image = imread(sample.img_path)
        arrays[f'image{position}'] = image[..., ::-1]
        arrays[f'label{position}'] = _pixels(sample.gt_sem_seg)
        arrays[f'prediction{position}'] = _pixels(sample.pred_sem_seg)
    with replacing(path, 'wb') as file:
        np.savez_compressed(file, **arrays)


def _pixels(segmentation):
    return segmentation.data.squeeze(0).cpu().numpy().astype(np.uint8)


if __name__ == '__main__':
    end_with_parent()
    with ends_on_full_disk('single_run', DISK_FULL):
        main()
