"""``--amp`` for every device."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bfloat16 autocast on the CPU, where MMEngine's AmpOptimWrapper refuses to run.

    bfloat16 has the range of float32, so the loss needs no scaling.
    """

    @contextmanager
    def optim_context(self, model):
        """Run the forward pass of a training step under autocast."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def enable_amp(cfg):
    """Switch a config to automatic mixed precision, in place.

    Args:
        cfg (Config): The config.

    Raises:
        ValueError: Its ``optim_wrapper`` is of a type that cannot be switched.
    """
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind in ('AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        return
    if kind != 'OptimWrapper':
        raise ValueError(f"--amp needs optim_wrapper.type='OptimWrapper', the config has {kind!r}")
    if torch.cuda.is_available():
        cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
