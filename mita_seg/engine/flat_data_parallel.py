"""Data-parallel training that averages all gradients when backward has ended."""

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
    the others, so that here they are copied into a few large tensors (buckets), each summed in one
    operation. Gradients of several iterations (``accumulative_counts``) are summed in the last one.

    Only ``train_step`` averages gradients, as MMEngine's runners call it. Weights and buffers of
    the first process go to the others when the wrapper is built.

    Args:
        module (nn.Module): The model, on the device of this process.
        bucket_cap_mb (int | float): About how large a bucket is, in MiB, above 0. One is copied
            while the one before is summed.

    Raises:
        TypeError, ValueError: `bucket_cap_mb` is not a number above 0.
        RuntimeError: The processes of a launcher have not been joined; or, from backward, a weight
            that is trained has no gradient.
    """

    def __init__(self, module, bucket_cap_mb=64):
        if isinstance(bucket_cap_mb, bool) or not isinstance(bucket_cap_mb, int | float):
            raise TypeError(f'bucket_cap_mb must be a number, got {bucket_cap_mb!r}')
        if not bucket_cap_mb > 0:
            raise ValueError(f'bucket_cap_mb must be above 0, got {bucket_cap_mb}')
        if not distributed.is_initialized():
            raise RuntimeError(
                'FlatDataParallel needs processes that have been joined: start the training with '
                'a launcher, as tools/dist_train.sh does'
            )
        super().__init__()
        self.module = module
        self._bucket_cap = bucket_cap_mb * 2**20
        self._weights = list(module.parameters())
        self._trained: list[nn.Parameter] = []  # those that `_buckets` has room for
        self._buckets: list[tuple[Tensor, list[nn.Parameter], list[Tensor]]] = []
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
        nccl = distributed.get_backend() == 'nccl'  # others cannot average
        operation = distributed.ReduceOp.AVG if nccl else distributed.ReduceOp.SUM
        sums = []
        for flat, weights, views in self._buckets:  # the next is copied while this one is summed
            torch._foreach_copy_(views, [weight.grad for weight in weights])
            sums.append(distributed.all_reduce(flat, operation, async_op=True))
        for summed, (flat, weights, views) in zip(sums, self._buckets, strict=True):
            summed.wait()
            if not nccl:
                flat.div_(distributed.get_world_size())
            for weight, view in zip(weights, views, strict=True):
                weight.grad = view

    def _make_room(self, trained: list[nn.Parameter]):
        """A few tensors for the gradients, each of one dtype, kept from step to step."""
        self._trained, self._buckets = trained, []
        for weights in _divide(trained, self._bucket_cap):
            sizes = [weight.numel() for weight in weights]
            flat = weights[0].new_empty(sum(sizes))
            parts = zip(flat.split(sizes), weights, strict=True)
            self._buckets.append((flat, weights, [part.view(w.shape) for part, w in parts]))

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


def _divide(weights: list[nn.Parameter], num_bytes: float) -> list[list[nn.Parameter]]:
    """Buckets of one dtype and about `num_bytes`, in an order that is the same everywhere."""
    buckets: list[list[nn.Parameter]] = []
    for dtype in dict.fromkeys(weight.dtype for weight in weights):
        room = 0.0
        for weight in weights:
            if weight.dtype != dtype:
                continue
            if room <= 0:
                buckets.append([])
                room = num_bytes
            buckets[-1].append(weight)
            room -= weight.nbytes
    return buckets
