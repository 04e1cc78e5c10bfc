"""``--amp`` for every device."""

import torch

from mita_seg import engine  # noqa: F401  (registers BFloat16OptimWrapper)


def enable_amp(cfg):
    """Switch a config to automatic mixed precision, in place.

    On the CPU, where MMEngine's AmpOptimWrapper refuses to run, to bfloat16 without loss scaling.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: Its ``optim_wrapper`` is of a type that cannot be switched.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind in ('AmpOptimWrapper', 'BFloat16OptimWrapper'):
        return
    if kind != 'OptimWrapper':
        raise ValueError(f"--amp needs optim_wrapper.type='OptimWrapper', the config has {kind!r}")
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
