"""Distillation as a hook: first iterations towards a teacher with full attention."""

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from mita_seg.finetuning import Distillation, make_teacher
from mita_seg.finetuning.distillation import check_target

from .unwrapped import run_eagerly, unwrapped_model

_KEY = 'mita_teacher'  # in checkpoints


@HOOKS.register_module()
class DistillMiTAHook(Hook):
    """Add to the losses of the first iterations how far the layers are from full attention's.

    The teacher is a frozen copy of the part before training, with full attention in place of MiTA;
    the loss is that of :class:`mita_seg.finetuning.Distillation`, logged as ``distill.loss``.
    From iteration `end` on there is the task's loss alone, and the teacher is freed.

    Until then an iteration takes a forward pass of the part more, and memory for a second copy of
    its weights; CompiledEncoderDecoder trains eagerly. Checkpoints hold the teacher's weights until
    then, so that a resumed run has the same teacher.

    Args:
        end (int): The first iteration without distillation; with gradients of several batches added
            up, each batch is an iteration.
        target (str): ``'attention'`` or ``'block'``: which outputs are compared.
        loss_weight (float): Factor of the loss, above 0.
        part (str): Name of the module of the model whose layers are compared. It must be called as
            a module in training, as backbones are (and decode heads are not).

    Raises:
        TypeError: A number of the wrong type.
        ValueError: A value out of range; or, when training begins, a model without such a part, a
            part without MiTA attention, or a resumed checkpoint without teacher.
    """

    def __init__(self, end, target='attention', loss_weight=1.0, part='backbone'):
        if type(end) is not int or end < 1:
            raise ValueError(f'end must be an int of at least 1, got {end!r}')
        check_target(target)
        if isinstance(loss_weight, bool) or not isinstance(loss_weight, int | float):
            raise TypeError(f'loss_weight must be a number, got {loss_weight!r}')
        if not loss_weight > 0:
            raise ValueError(f'loss_weight must be above 0, got {loss_weight!r}')
        self.end = end
        self.target = target
        self.loss_weight = loss_weight
        self.part = part
        self._distillation = self._handle = self._saved = None

    def before_train(self, runner):
        """Make the teacher, unless the iterations are over."""
        saved, self._saved = self._saved, None
        model = unwrapped_model(runner)
        try:
            part = model.get_submodule(self.part)
        except AttributeError as error:
            raise ValueError(f'part must name a module of the model, got {self.part!r}') from error
        if runner.iter >= self.end:
            return
        teacher = make_teacher(part)
        if runner.iter > 0:
            if saved is None:
                raise ValueError(
                    f'the checkpoint of iteration {runner.iter} holds no teacher, which '
                    f'DistillMiTAHook(end={self.end}) needs to go on: it was saved without the hook'
                )
            teacher.load_state_dict(saved)
        self._distillation = Distillation(part, teacher, self.target)
        self._handle = model.register_forward_hook(self._add_loss, with_kwargs=True)
        run_eagerly(model, 'distillation', True)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Let go of the teacher when it is time."""
        if runner.iter >= self.end:
            self._stop(runner)

    def after_train(self, runner):
        """Leave nothing in the model."""
        self._stop(runner)

    def before_save_checkpoint(self, runner, checkpoint):
        """Add the teacher's weights while it is there."""
        if self._distillation is not None and runner.iter < self.end:
            state = self._distillation.teacher.state_dict()
            checkpoint[_KEY] = {name: tensor.cpu() for name, tensor in state.items()}

    def after_load_checkpoint(self, runner, checkpoint):
        """Keep the teacher's weights, should the run be resumed."""
        self._saved = checkpoint.get(_KEY)

    def _stop(self, runner):
        if self._distillation is None:
            return
        self._handle.remove()
        self._distillation.close()
        self._distillation = self._handle = None
        run_eagerly(unwrapped_model(runner), 'distillation', False)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # for the graphs that may be recorded now
        print_log(f'Iteration {runner.iter}: distillation is over', 'current')

    def _add_loss(self, model, args, kwargs, output):
        if kwargs.get('mode') != 'loss' or not torch.is_grad_enabled():
            return None
        return {**output, 'distill.loss': self.loss_weight * self._distillation.loss()}
