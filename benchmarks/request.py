"""What the command line asks for, checked before any work."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mita_seg.utils.cli import load_config
from mita_seg.utils.quiet import import_mmseg_quietly

from .backends import Backend, choose_backends
from .cases import (
    CPU_CASES,
    CPU_CROPS,
    CUDA_CASES,
    CUDA_CROPS,
    Case,
    Crop,
    parse_case,
    parse_crop,
)

OPERATOR, KERNELS, MODEL, TRAINING, ALL = 'operator', 'kernels', 'model', 'training', 'all'
_CONFIG = 'configs/mita_segmenter/mita-segmenter_vit-{}_full_8xb1-160k_ade20k-512x512.py'


@dataclass
class Request:
    """What is measured, and how; empty lists are what was not asked for."""

    device: torch.device
    dtype: torch.dtype
    rounds: int  # samples of each time
    cases: list[Case] = field(default_factory=list)  # of the operator
    backends: list[Backend] = field(default_factory=list)  # of the operator
    kernel_cases: list[Case] = field(default_factory=list)  # of the kernels
    config: str = ''  # of the model
    crops: list[Crop] = field(default_factory=list)  # of the model
    trainings: list[Any] = field(default_factory=list)  # configs


def read_request(args, root):
    """Check what was asked for and fill in the defaults.

    Args:
        args (argparse.Namespace): The command line of ``tools/benchmark.py``.
        root (Path): The folder that holds ``configs``.

    Returns:
        Request: What is to be done.

    Raises:
        ValueError: It cannot be done.
        FileNotFoundError: A config or its data do not exist.
    """
    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    cuda = device.type == 'cuda'
    if cuda and not torch.cuda.is_available():
        raise ValueError("--device must be 'cpu' where torch finds no CUDA device, got 'cuda'")
    dtype = getattr(torch, args.dtype or ('bfloat16' if cuda else 'float32'))
    request = Request(device, dtype, args.rounds)
    asked = (OPERATOR, KERNELS, MODEL) if args.what == ALL else (args.what,)
    sizes = CUDA_CASES if cuda else CPU_CASES
    crops = CUDA_CROPS if cuda else CPU_CROPS
    if args.cases:
        sizes = [parse_case(text) for text in args.cases]
    if args.crops:
        crops = [parse_crop(text) for text in args.crops]
    request.backends = choose_backends(args.backends, device, dtype)
    if OPERATOR in asked:
        request.cases = list(sizes)
    if KERNELS in asked and cuda:
        request.kernel_cases = list(sizes)
    elif args.what == KERNELS:
        raise ValueError(
            "--device must be 'cuda' for kernels, which only a GPU runs; got "
            f'{device.type!r}' + ('' if args.device else ', as torch finds no CUDA device')
        )
    if MODEL in asked or TRAINING in asked:
        _require_mmseg()
    if MODEL in asked:
        request.crops = list(crops)
        request.config = args.config or str(root / _CONFIG.format('s' if cuda else 't'))
        load_config(request.config)
    if TRAINING in asked:
        request.trainings = _read_trainings(args, device)
    return request


def _require_mmseg():
    import_mmseg_quietly()
    try:
        import mita_seg.models  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error}. `benchmark.py operator` needs PyTorch alone') from error


def _read_trainings(args, device):
    from .training import prepare_training

    if device.type == 'cpu' and torch.cuda.is_available():
        raise ValueError(
            "--device must be 'cuda' for training, since MMEngine trains on a CUDA device if there "
            "is one; got 'cpu'. CUDA_VISIBLE_DEVICES='' hides it"
        )
    names = [Path(config).stem for config in args.configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'config given twice: {", ".join(twice)}')
    folder = Path(args.out) / TRAINING
    return [
        prepare_training(config, args.cfg_options, folder, args.iters) for config in args.configs
    ]
