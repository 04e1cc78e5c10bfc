"""MMEngine's runner, whose training can be interrupted at any moment."""

import os

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import BaseLoop, Runner

from mita_seg.checkpoint import verify_checkpoint
from mita_seg.utils.files import taking_place

from .exact_resume import ExactResumeHook
from .seeded_batches import begin_late, number_batches
from .whole_checkpoint import WholeCheckpointHook


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """Runner that goes on after an interruption exactly as without one.

    A checkpoint is written to a temporary name, read back and moved into place before an old one
    goes (:class:`WholeCheckpointHook`, which takes the place of every CheckpointHook). It is plain
    data and holds the random state of every process (:class:`ExactResumeHook`). Training batches
    depend on nothing but the seed and their number (:func:`number_batches`).

    Attributes:
        batches (NumberedBatches | None): The batch sampler of the training loop.
    """

    batches = None

    def register_hooks(self, default_hooks=None, custom_hooks=None):
        """Register the hooks of a config, and ours after them."""
        super().register_hooks(default_hooks, custom_hooks)
        self.exact_resume = ExactResumeHook()
        self.register_hook(self.exact_resume)

    def register_hook(self, hook, priority=None):
        """Register a hook; one of ours in place of a stock CheckpointHook."""
        if isinstance(hook, dict):
            settings = dict(hook)
            priority = settings.pop('priority', None) if priority is None else priority
            hook = HOOKS.build(settings)
            if type(hook) is CheckpointHook:
                hook = WholeCheckpointHook(**{k: v for k, v in settings.items() if k != 'type'})
        super().register_hook(hook, priority)

    def build_train_loop(self, loop):
        """Build the training loop, whose batches are seeded from their numbers."""
        if isinstance(loop, BaseLoop):
            return super().build_train_loop(loop)
        given = self._train_dataloader
        if isinstance(given, dict):  # built as a loop would
            diff_rank_seed = self._randomness_cfg.get('diff_rank_seed', False)
            self._train_dataloader = self.build_dataloader(given, self.seed, diff_rank_seed)
        begin_late(self._train_dataloader)
        try:
            built = super().build_train_loop(loop)
        finally:
            self._train_dataloader = given
        self.batches = number_batches(built, self.seed)
        return built

    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        """Save a checkpoint, so that it is there whole or not at all."""
        if '://' in str(out_dir):
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
        elif is_main_process():
            temporary = os.path.join(out_dir, f'.{filename}.tmp')
            with taking_place(temporary, os.path.join(out_dir, filename)):
                super().save_checkpoint(out_dir, os.path.basename(temporary), *args, **kwargs)
                verify_checkpoint(temporary)
                with open(temporary, 'rb') as file:
                    os.fsync(file.fileno())  # or the old one would go before this is on the disk
