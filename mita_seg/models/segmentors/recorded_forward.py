"""A forward pass that is replayed as a CUDA graph for inputs of sizes that come often."""

import operator
from collections import Counter
from collections.abc import Callable
from itertools import chain
from threading import Lock
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

# What runs eagerly before: sizes that do not come often are not worth a recording.
_EAGER_RUNS = 2
_MOST_GRAPHS = 8


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    output: Tensor

    def replay(self, inputs: Tensor) -> Tensor:
        self.inputs.copy_(inputs)
        self.graph.replay()
        return self.output.clone()


class RecordedForward:
    """Runs a function of a module and a tensor, replayed where that gives the same.

    Small models on a large GPU spend their time on launching kernels; a graph launches all at once.
    Replayed are calls without gradients in eval mode on CUDA, for the first eight sizes that come a
    third time. Everything else runs as it would: hooks, other modes of torch, and a function that
    cannot be recorded. After a change of a module's attributes, or of where its weights lie, all is
    recorded anew; new values of the weights are followed. Threads take turns.

    Args:
        function: From (module, inputs) to one tensor; its work depends on the inputs' shape alone.
    """

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        self._function = function
        self._lock = Lock()
        self._recordable = True
        self.clear()

    def clear(self) -> None:
        """Forget all recordings, and give back their memory."""
        self._watch: _Watch | None = None
        self._runs: Counter = Counter()
        self._recordings: dict[tuple, _Recording] = {}

    def __call__(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """What the function returns; nothing else writes to it."""
        if not (self._recordable and _is_plain_inference(module, inputs)):
            return self._function(module, inputs)
        with self._lock:
            if self._watch is None or not self._watch.sees_no_change():
                self.clear()
                self._watch = _Watch(module)
            if self._watch.sees_hooks():
                return self._function(module, inputs)
            key = (inputs.shape, inputs.dtype, inputs.device, *_autocast())
            if key not in self._recordings:
                self._runs[key] += 1
                if self._runs[key] > _EAGER_RUNS and len(self._recordings) < _MOST_GRAPHS:
                    self._record(key, module, inputs)
            if key in self._recordings:
                return self._recordings[key].replay(inputs)
        return self._function(module, inputs)

    def _record(self, key: tuple, module: nn.Module, inputs: Tensor) -> None:
        inputs = inputs.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # The libraries allocate what they need for a stream when it is first used.
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._function(module, inputs)
            torch.cuda.current_stream().wait_stream(side)
            # The loader's thread may allocate pinned memory meanwhile.
            with torch.cuda.graph(graph, stream=side, capture_error_mode='thread_local'):
                output = self._function(module, inputs)
        except RuntimeError as error:
            self._recordable = False
            reason = str(error).splitlines()[0]
            print_log(f'inference is not recorded as a CUDA graph: {reason}', 'current')
            return
        self._recordings[key] = _Recording(graph, inputs, output)


def _is_plain_inference(module: nn.Module, inputs: Tensor) -> bool:
    """Whether all that the function does is to launch kernels."""
    return (
        inputs.is_cuda
        and not module.training
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.cuda.is_current_stream_capturing()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and not global_hooks._global_forward_hooks
        and not global_hooks._global_forward_pre_hooks
    )


class _Watch:
    """Notices a change of what a recording depends on beside its inputs and the weights' values.

    These are attributes and parts of the modules, such as settings and patched methods, where
    weights and buffers lie, and hooks. A model has thousands of attributes, so a look is a few
    loops that do not run in Python.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self._dicts: list[dict] = [part.__dict__ for part in parts]
        for name in ('_modules', '_parameters', '_buffers'):
            self._dicts += (part.__dict__[name] for part in parts)
        self._tensors = [*module.parameters(), *module.buffers()]
        self._hooks = [part._forward_hooks for part in parts]
        self._hooks += [part._forward_pre_hooks for part in parts]
        # The objects themselves, which keeps others from taking their addresses.
        self._objects = self._list_objects()
        self._places = self._list_places()

    def _list_objects(self) -> list:
        return list(chain.from_iterable(map(dict.values, self._dicts)))

    def _list_places(self) -> list[int]:
        return list(map(Tensor.data_ptr, self._tensors))

    def sees_no_change(self) -> bool:
        objects = self._list_objects()
        return (
            len(objects) == len(self._objects)
            and all(map(operator.is_, objects, self._objects))
            and self._list_places() == self._places
        )

    def sees_hooks(self) -> bool:
        return any(self._hooks)


def _autocast() -> tuple:
    return torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
