"""Exported models by ONNX Runtime on a CPU, beside the models in PyTorch.

    python -m benchmarks.exported [--threads 2] [--repeats 7]

prints a table of equal labels and times for ViT-T at 512x512, one image at a time, with random
weights of the size of trained ones.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from torch import Tensor

from mita_seg.export.check import make_images
from mita_seg.export.formats import open_onnx, write_onnx
from mita_seg.export.model import WholeImage, expected_output
from mita_seg.export.program import export_program
from mita_seg.utils.cli import leave_out_pretrained, load_config

CONFIGS = Path(__file__).resolve().parent.parent / 'configs/mita_segmenter'
NAMES = ('full', 'mita-dec', 'mita-encdec')
SIZE = (512, 512)
_SCALE = 3.0  # of initial weights: then classes differ by more than rounding


class Exported(NamedTuple):
    """A model and its file, both from images [B, 3, H, W] to labels [B, H, W]."""

    eager: Callable[[Tensor], Tensor]
    onnx: Callable[[Tensor], Tensor]


def find_config(name: str) -> Config:
    """The config of ViT-T on ADE20K with this attention."""
    (path,) = CONFIGS.glob(f'*_vit-t_{name}_*.py')
    return load_config(str(path))


def build(cfg: Config) -> BaseSegmentor:
    """A model with random weights, the same every time, in eval mode."""
    init_default_scope('mmseg')
    leave_out_pretrained(cfg)
    torch.manual_seed(0)
    logging.disable(logging.INFO)  # a line for each weight
    model = MODELS.build(cfg.model)
    model.init_weights()
    logging.disable(logging.NOTSET)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(_SCALE)
    return model.eval()


def export_to_onnx(segmentor: BaseSegmentor, size: tuple[int, int], path: str) -> Exported:
    """Export a model of images of a size, to labels, as ``tools/export.py --labels`` does.

    Args:
        segmentor: The model.
        size: Height and width, pixels.
        path: The file to write.
    """
    program = export_program(WholeImage(segmentor, labels=True), 3, size)
    write_onnx(program, path, {'output': 'labels'})

    @torch.no_grad()
    def eager(images: Tensor) -> Tensor:
        return expected_output(segmentor, images, True)

    return Exported(eager, open_onnx(path))


def equal_labels(exported: Exported, size: tuple[int, int], count: int) -> list[float]:
    """The share of pixels of the same label in each of `count` images."""
    shares = []
    for seed in range(count):
        images = make_images((1, 3, *size), seed)
        equal = exported.eager(images) == exported.onnx(images)
        shares.append(equal.double().mean().item())
    return shares


def latencies(runs: Sequence[Callable], images: Tensor, repeats: int) -> list[list[float]]:
    """Times of calls in milliseconds, in turn, of each `repeats` after two that do not count."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(2 + repeats):
        for each, run in zip(times, runs, strict=True):
            begin = time.perf_counter()
            run(images)
            each.append(1e3 * (time.perf_counter() - begin))
    return [each[2:] for each in times]


def main() -> None:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='of both')
    parser.add_argument('--repeats', type=int, default=7, help='calls whose median is taken')
    parser.add_argument('--images', type=int, default=8, help='whose labels are compared')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print('| model | equal labels, % (lowest) | PyTorch, ms (lowest) | ONNX Runtime, ms (lowest) |')
    print('|---|---|---|---|')
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            exported = export_to_onnx(build(find_config(name)), SIZE, f'{folder}/model.onnx')
            shares = [100 * share for share in equal_labels(exported, SIZE, args.images)]
            images = make_images((1, 3, *SIZE))
            times = latencies(exported, images, args.repeats)
        figures = [f'{statistics.mean(shares):.4f} ({min(shares):.4f})']
        figures += [f'{statistics.median(each):.0f} ({min(each):.0f})' for each in times]
        print('|', ' | '.join([f'`{name}`', *figures]), '|', flush=True)


if __name__ == '__main__':
    main()
