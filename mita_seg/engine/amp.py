"""``--amp`` for every device, and the precision that a config trains in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def enable_amp(cfg):
    """Switch a config to automatic mixed precision, in place.

    On the CPU, where MMEngine's AmpOptimWrapper refuses to run, to bfloat16 without loss scaling.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: Its ``optim_wrapper`` is of a type that cannot be switched.
    """
    kind = _kind(cfg.optim_wrapper)
    if kind in ('AmpOptimWrapper', 'BFloat16OptimWrapper'):
        return
    if kind != 'OptimWrapper':
        raise ValueError(f"--amp needs optim_wrapper.type='OptimWrapper', the config has {kind!r}")
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'


def training_precision(optim_wrapper, device) -> AbstractContextManager:
    """The autocast, if any, that an optimizer wrapper runs the forward pass in.

    Unlike building the wrapper, this works where it can't train: AmpOptimWrapper on a CPU.

    Args:
        optim_wrapper (dict | None): Its config.
        device (str): Type of the device, ``'cuda'`` or ``'cpu'``.

    Returns:
        A context to be entered once.
    """
    optim_wrapper = optim_wrapper or {}
    kind = _kind(optim_wrapper)
    if kind == 'BFloat16OptimWrapper':
        return torch.autocast(device, torch.bfloat16)
    if kind == 'AmpOptimWrapper':
        dtype = optim_wrapper.get('dtype')
        return torch.autocast(device, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return nullcontext()


def _kind(optim_wrapper):
    """Name of the class of an optimizer wrapper, which a config may give as the class itself."""
    kind = optim_wrapper.get('type', 'OptimWrapper')
    return kind.rsplit('.', 1)[-1] if isinstance(kind, str) else kind.__name__
