"""Annealing as a hook: a training begins with full attention and ends with MiTA attention."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from mita_seg.finetuning import Annealing, read_stages, write_stages

from .unwrapped import run_eagerly, unwrapped_model

_KEY = 'mita_stages'  # in checkpoints


@HOOKS.register_module()
class AnnealMiTAHook(Hook):
    """Let the MiTA attentions of a model go from full attention to what its config says, in stages.

    See :class:`mita_seg.finetuning.Annealing`, which has the same arguments. Validation during
    annealing is that of the current stage. CompiledEncoderDecoder trains eagerly until the final
    settings and is compiled once, then.

    A resumed run goes on in the stage of its iteration. A checkpoint that is saved before the end
    holds the stage: `tools/test.py` and others with this hook in their config evaluate it as the
    training did, with a line in the log. Where the hook is missing, and in
    :mod:`mita_seg.inference`, it computes the final settings.

    Args:
        end (int): The first iteration of the final settings.
        begin (int): Full attention until this iteration.
        values (Sequence[int], optional): Keys per expert of the stages after full attention.
        num_stages (int): Changes, from 1 to 12.
        largest (int): Keys per expert of the first stage after full attention.
        weakest (float): Offset of the shared expert's logits then, at most 0.

    Raises:
        TypeError: A number of the wrong type.
        ValueError: A number out of range, or, when training begins, a model without MiTA attention.
    """

    def __init__(self, end, begin=0, values=None, num_stages=8, largest=1024, weakest=-4.0):
        self.options = {
            'end': end,
            'begin': begin,
            'values': values,
            'num_stages': num_stages,
            'largest': largest,
            'weakest': weakest,
        }
        Annealing.check(**self.options)
        self.annealing = None

    def before_train(self, runner):
        """Set the stage of the first iteration, or of the one where a resumed run goes on."""
        self.annealing = Annealing(unwrapped_model(runner), **self.options)
        self._step(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Set the stage."""
        self._step(runner)

    def before_save_checkpoint(self, runner, checkpoint):
        """Add the stages, if any."""
        stages = read_stages(unwrapped_model(runner))
        if stages:
            checkpoint[_KEY] = stages

    def after_load_checkpoint(self, runner, checkpoint):
        """Compute what the checkpoint's run did."""
        stages = checkpoint.get(_KEY, {})
        write_stages(unwrapped_model(runner), stages)
        if stages:
            print_log('The checkpoint was saved while annealing: its stage is computed.', 'current')

    def _step(self, runner):
        if not self.annealing.step(runner.iter):
            return
        run_eagerly(unwrapped_model(runner), 'annealing', not self.annealing.finished)
        print_log(f'Iteration {runner.iter}: {self.annealing.describe()}', 'current')
