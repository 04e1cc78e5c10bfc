"""Logging that does not make every iteration wait for the device."""

import math

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """RuntimeInfoHook that reads the losses of many iterations at once.

    The stock hook reads every loss of every iteration, so that the program can't prepare an
    iteration while the device computes the one before. This one keeps them on the device. The log
    holds the same figures.

    Args:
        interval (int, optional): Iterations between readings: the LoggerHook's interval, or a
            divisor of it. By default the LoggerHook's; 50 without one.

    Raises:
        ValueError: `interval` is neither None nor a positive int.
    """

    def __init__(self, interval=None):
        if interval is not None and (not isinstance(interval, int) or interval < 1):
            raise ValueError(f'interval must be a positive int or None, got {interval!r}')
        self.interval = interval
        self.kept = {}

    def before_train(self, runner):
        """Take over the LoggerHook's interval."""
        super().before_train(runner)
        if self.interval is None:
            intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
            self.interval = math.gcd(*intervals) or 50

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Keep what the iteration returned; read all that was kept when it is time."""
        values = dict(outputs or {})
        grad_norm = getattr(runner.optim_wrapper, 'grad_norm', None)
        if grad_norm is not None:
            values['grad_norm'] = grad_norm
        for name, value in values.items():
            self.kept.setdefault(name, []).append(torch.as_tensor(value).detach())
        if self.every_n_inner_iters(batch_idx, self.interval) or self.is_last_train_iter(runner):
            self._read(runner.message_hub)

    def _read(self, message_hub):
        for name, values in self.kept.items():
            for value in torch.stack([value.reshape(()) for value in values]).tolist():
                message_hub.update_scalar(f'train/{name}', value)
        self.kept = {}
