"""Layer by layer towards a teacher with full attention and the weights before training."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mita_seg.analysis.observe import mita_layers

from .stages import FULL

TARGETS = ('attention', 'block')
_LEAST_SIZE = 0.1  # of a target token, relative to the mean


def make_teacher(model: nn.Module) -> nn.Module:
    """A frozen copy of a model, in eval mode, whose MiTA attentions compute full attention.

    Raises:
        ValueError: The model has no MiTA attention.
    """
    layers = mita_layers(model)
    teacher = copy.deepcopy(model)
    teacher.eval()  # which MMSegmentation's VisionTransformer answers with None
    teacher.requires_grad_(False)
    for name in layers:
        teacher.get_submodule(name).set_stage(FULL)  # type: ignore[operator]
    return teacher


class Distillation:
    """Compares the layers of a model with those of its teacher on the same input.

    The loss is the mean over layers and tokens of the squared distance between the outputs of
    student and teacher, divided by the squared norm of the teacher's: no token with a large norm
    outweighs the others. (A norm below a third or so of the usual counts as that.) It is computed
    in float32; the teacher runs in the precision of the caller, under its autocast.

    Example::

        distillation = Distillation(model, make_teacher(model))  # before training
        for batch, labels in loader:
            loss = task_loss(model(batch), labels) + distillation.loss()
            ...
        distillation.close()  # nothing is left in the model, and the teacher may go

    Modules are watched by forward hooks. They see nothing of layers in a compiled function: train
    eagerly while distilling.

    Args:
        student: The model, or a part of it that is called as a module; the loss takes its input.
        teacher: From :func:`make_teacher`, of the same model or part.
        target: ``'attention'``, the output of each attention with its projections, or ``'block'``,
            that of the transformer block around it.

    Raises:
        ValueError: An unknown target, or a student without MiTA attention, or with one that is in
            no block of a list of blocks.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, target: str = 'attention') -> None:
        check_target(target)
        self.teacher = teacher
        self._inputs: tuple[tuple, dict] | None = None
        self._outputs: dict[str, Tensor] = {}
        self._targets: dict[str, Tensor] = {}
        self._handles = [student.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for name in target_modules(student, target):
            for model, noted in ((student, self._outputs), (teacher, self._targets)):
                hook = self._note(name, noted, by_student=model is student)
                self._handles.append(model.get_submodule(name).register_forward_hook(hook))

    def loss(self) -> Tensor:
        """The loss of the student's last forward pass, without unit; runs the teacher.

        Raises:
            RuntimeError: There was no forward pass with gradients since the last call, or its
                layers were not seen: they are compiled.
        """
        if self._inputs is None or not self._outputs:
            raise RuntimeError(
                'distillation saw no forward pass of the student with gradients: call the student '
                'itself, in eager mode, once before each loss'
            )
        (args, kwargs), self._inputs = self._inputs, None
        try:
            with torch.no_grad():
                self.teacher(*args, **kwargs)
            errors = [
                relative_error(self._outputs[name], self._targets[name]) for name in self._outputs
            ]
            return torch.stack(errors).mean()
        finally:
            self._outputs.clear()
            self._targets.clear()

    def close(self) -> None:
        """Remove the hooks and let go of the teacher."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._outputs.clear()
        self._inputs = None
        del self.teacher

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._outputs.clear()
        self._inputs = (args, kwargs) if torch.is_grad_enabled() else None

    def _note(self, name: str, noted: dict[str, Tensor], by_student: bool) -> Callable:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Not in validation, nor when a checkpointed block is computed again.
            if by_student and self._inputs is None:
                return
            noted[name] = output[0] if isinstance(output, tuple) else output

        return hook


def check_target(target: str) -> None:
    """target is one of `TARGETS`, else ValueError."""
    if target not in TARGETS:
        known = ' or '.join(map(repr, TARGETS))
        raise ValueError(f'target must be {known}, got {target!r}')


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens [..., C] of |output - target|^2 / |target|^2, a float32 scalar."""
    output, target = output.float(), target.float()
    size = target.square().sum(-1)
    size = size.clamp(min=_LEAST_SIZE * size.mean())
    tiny = torch.finfo(torch.float32).tiny
    return ((output - target).square().sum(-1) / size.clamp(min=tiny)).mean()


def target_modules(model: nn.Module, target: str) -> list[str]:
    """Names of the modules whose outputs are compared, one for each MiTA attention.

    Args:
        model: A model with MiTA attentions.
        target: One of `TARGETS`.
    """
    names = {}
    for layer in mita_layers(model):
        name = layer.removesuffix('.mita.attention')  # of a swapped module, which has projections
        names[_block_around(model, name) if target == 'block' else name] = None
    return list(names)


def _block_around(model: nn.Module, name: str) -> str:
    """The nearest module around one that is listed among others."""
    parts = name.split('.')[:-1]
    while parts:
        parent = model.get_submodule('.'.join(parts[:-1]))
        if isinstance(parent, nn.ModuleList | nn.Sequential):
            return '.'.join(parts)
        parts.pop()
    raise ValueError(f"target='block' needs attention in a list of blocks, {name!r} is in none")
