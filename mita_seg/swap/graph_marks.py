"""Marks in the autograd graph of a call, for a part of the call that is computed again.

Gradient checkpointing runs a part of a model once more in the backward pass, maybe in another
thread and after other calls of the model. Only the graph ties that second run to its own call.
"""

import sys
from collections.abc import Hashable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import Node


def mark(tensor: Tensor, key: Hashable, value: Hashable) -> bool:
    """Mark the call that made a tensor.

    The mark is put on the tensor's node of the graph. If gradients are off, there is no node. Then
    the mark is put on the autograd functions whose forward pass is running, such as reentrant
    checkpointing.

    Returns:
        Whether there was anything to mark.
    """
    nodes: list[Any]
    if tensor.grad_fn is not None:
        nodes = [tensor.grad_fn]
    elif torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        nodes = []
    else:
        nodes = list(_running_forward_passes())
    for node in nodes:
        metadata_of(node).setdefault(key, set()).add(value)
    return bool(nodes)


def marks_behind(node: Node | None, key: Hashable) -> set:
    """The marks nearest to a node, itself included, on all ways back to the inputs."""
    if node is None:
        return set()
    found: set = set()
    marked: list[Node] = []
    consumers: dict[Node, list[Node]] = {node: []}
    pending = [node]
    while pending:
        node = pending.pop()
        if marks := metadata_of(node).get(key):
            found |= marks
            marked.append(node)
            continue
        for parent, _ in node.next_functions:
            if parent in consumers:
                consumers[parent].append(node)
            elif parent is not None:
                consumers[parent] = [node]
                pending.append(parent)
    if len(found) == 1:  # mark the nodes on the way, too, so that the next search is short
        while marked:
            for node in consumers.pop(marked.pop(), ()):
                metadata_of(node)[key] = set(found)
                marked.append(node)
    return found


def metadata_of(node: Any) -> dict:
    """What a node keeps for others; its type is declared as a method."""
    return node.metadata


def running_node() -> Node | None:
    """The node of the graph whose backward pass this thread is in; None outside of any."""
    return torch._C._current_autograd_node()


def _running_forward_passes() -> Iterator[FunctionCtx]:
    """Contexts of the autograd functions whose forward() is on the stack; they are their nodes."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        # Reading the variables of every frame would take long.
        if code.co_name == 'forward' and code.co_argcount and code.co_varnames[0] != 'self':
            context = frame.f_locals.get(code.co_varnames[0])
            if isinstance(context, FunctionCtx):
                yield context
        frame = frame.f_back
