"""MMEngine's runner, whose training can be interrupted at any moment."""

import logging
import os
import sys
from functools import partial

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import BaseLoop, Runner

from mita_seg.checkpoint import verify_checkpoint
from mita_seg.utils.files import taking_place, write_config
from mita_seg.utils.full_disk import find_full_disk, naming

from .exact_resume import ExactResumeHook
from .seeded_batches import begin_late, number_batches
from .whole_checkpoint import WholeCheckpointHook
from .whole_pictures import write_whole_files


@RUNNERS.register_module()
class ResumableRunner(Runner):
    """Runner that goes on after an interruption exactly as without one.

    A checkpoint is written to a temporary name, read back and moved into place before an old one
    goes (:class:`WholeCheckpointHook`, which takes the place of every CheckpointHook). It is plain
    data and holds the random state of every process (:class:`ExactResumeHook`). Training batches
    depend on nothing but the seed and their number (:func:`number_batches`).

    When a disk is full, the first write that fails ends the run, and its error names the file, or
    at least the folder. Stock logging and pictures go on without a word or with many.

    Attributes:
        batches (NumberedBatches | None): The batch sampler of the training loop.
    """

    batches = None

    def call_hook(self, fn_name, **kwargs):
        """Call the hooks, which write all files but the config."""
        with naming(self.work_dir):
            super().call_hook(fn_name, **kwargs)

    def build_logger(self, *args, **kwargs):
        """Build the logger, whose files raise when they cannot be written."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = partial(_handle_error, handler)
        return logger

    def build_visualizer(self, visualizer=None):
        """Build the visualizer; its local files are whole."""
        built = super().build_visualizer(visualizer)
        write_whole_files(built)
        return built

    @master_only
    def dump_config(self):
        """Write the config to the work directory."""
        name = self.cfg.filename or f'{self.timestamp}.py'
        path = os.path.join(self.work_dir, os.path.basename(name))
        write_config(path, self.cfg)

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


def _handle_error(handler, record):
    """``handleError`` of a log file; the stock one prints a traceback for every line."""
    error = sys.exc_info()[1]
    if find_full_disk(error) is None:
        type(handler).handleError(handler, record)
        return
    with naming(handler.baseFilename):
        raise error
