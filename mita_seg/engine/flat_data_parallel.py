"""Data-parallel training that averages all gradients in one operation."""

import operator
from contextlib import contextmanager
from itertools import chain

import torch
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, distributed, nn


@MODEL_WRAPPERS.register_module()
class FlatDataParallel(nn.Module):
    """Each process has a copy of the model, and gradients are averaged when backward has ended.

    DistributedDataParallel begins to sum gradients while others are still computed, and pays with
    a hook and a copy of each gradient. Where backward is one CUDA graph no gradient is there before
    the others, so that here all are copied into one tensor at once and summed in one operation.
    Gradients of several iterations (``accumulative_counts``) are summed in the last one.

    Only ``train_step`` averages gradients, as MMEngine's runners call it. Weights and buffers of
    the first process go to the others when the wrapper is built.

    Args:
        module (nn.Module): The model, on the device of this process.

    Raises:
        RuntimeError: The processes of a launcher have not been joined; or, from backward, a weight
            that is trained has no gradient.
    """

    def __init__(self, module):
        if not distributed.is_initialized():
            raise RuntimeError(
                'FlatDataParallel needs processes that have been joined: start the training with '
                'a launcher, as tools/dist_train.sh does'
            )
        super().__init__()
        self.module = module
        self._weights = list(module.parameters())
        self._trained: list[nn.Parameter] = []  # those that `_flat` has room for
        self._flat: list[tuple[Tensor, list[nn.Parameter], list[Tensor]]] = []
        self._averages = True
        for tensor in chain(module.parameters(), module.buffers()):
            distributed.broadcast(tensor.detach(), src=0)

    def forward(self, *args, **kwargs):
        """What the model gives; see its own ``forward``."""
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self):
        """Leave out the average in iterations that begin here; MMEngine's OptimWrapper uses it."""
        before, self._averages = self._averages, False
        try:
            yield
        finally:
            self._averages = before

    def train_step(self, data, optim_wrapper):
        """Forward, backward, and the optimizer's step with gradients averaged over all processes.

        Args:
            data: A batch of the data loader.
            optim_wrapper (OptimWrapper): Of the optimizer.

        Returns:
            dict[str, Tensor]: The losses of this process, for the log.
        """
        with optim_wrapper.optim_context(self):
            data = self.module.data_preprocessor(data, training=True)
            losses = self.module._run_forward(data, mode='loss')
            averages = self._averages
        loss, log_vars = self.module.parse_losses(losses)
        if averages:
            loss.register_hook(self._average_at_the_end)
        optim_wrapper.update_params(loss)
        return log_vars

    def val_step(self, data):
        """Predictions for a batch of validation."""
        return self.module.val_step(data)

    def test_step(self, data):
        """Predictions for a batch of testing."""
        return self.module.test_step(data)

    def _average_at_the_end(self, _):
        # Called at the beginning of backward. As for torch's own wrappers: what is queued runs when
        # every gradient is there, on the streams of whoever called backward.
        torch.autograd.Variable._execution_engine.queue_callback(self._average_gradients)

    @torch.no_grad()
    def _average_gradients(self):
        trained = [weight for weight in self._weights if weight.requires_grad]
        if any(weight.grad is None for weight in trained):
            self._refuse_missing()
        if len(trained) != len(self._trained) or any(map(operator.is_not, trained, self._trained)):
            self._make_room(trained)
        for flat, weights, views in self._flat:
            torch._foreach_copy_(views, [weight.grad for weight in weights])
            distributed.all_reduce(flat)
            flat.div_(distributed.get_world_size())
            for weight, view in zip(weights, views, strict=True):
                weight.grad = view

    def _make_room(self, trained: list[nn.Parameter]):
        """One tensor for the gradients of each dtype, kept from step to step."""
        self._trained, self._flat = trained, []
        for dtype in dict.fromkeys(weight.dtype for weight in trained):  # the same order everywhere
            weights = [weight for weight in trained if weight.dtype == dtype]
            sizes = [weight.numel() for weight in weights]
            flat = weights[0].new_empty(sum(sizes))
            parts = zip(flat.split(sizes), weights, strict=True)
            self._flat.append((flat, weights, [part.view(w.shape) for part, w in parts]))

    def _refuse_missing(self):
        missing = [
            name
            for name, weight in self.module.named_parameters()
            if weight.requires_grad and weight.grad is None
        ]
        raise RuntimeError(
            f'no gradient for {len(missing)} weights, {missing[0]} among them. FlatDataParallel '
            'needs one for every weight that is trained; else set model_wrapper_cfg = dict('
            "type='MMDistributedDataParallel', find_unused_parameters=True)"
        )
