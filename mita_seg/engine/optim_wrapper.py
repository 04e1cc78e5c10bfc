"""Mixed precision without loss scaling."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """bfloat16 autocast on any device, in steps that never wait for the device.

    bfloat16 has the range of float32, so the loss needs no scaling; MMEngine's AmpOptimWrapper
    needs a GPU and waits for its loss scaler in every step. OptimWrapper reads the norm of the
    gradients in every step too; here it stays on the device, in `grad_norm`, for
    :class:`DeferredRuntimeInfoHook` to log.

    Args:
        **kwargs: As for OptimWrapper: `optimizer`, `clip_grad`, `accumulative_counts`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.grad_norm = None

    @contextmanager
    def optim_context(self, model):
        """Run the forward pass of a training step under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield

    def _clip_grad(self):
        parameters = [
            parameter
            for group in self.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        # None where values are clipped instead of the norm.
        self.grad_norm = self.clip_func(parameters, **self.clip_grad_kwargs)
