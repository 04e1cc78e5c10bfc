"""Checkpoints of which a whole one is there at any moment."""

import os
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log

from mita_seg.utils.files import replacing


class WholeCheckpointHook(CheckpointHook):
    """CheckpointHook that removes old checkpoints only when the new one is in place.

    The stock hook makes room first, so that a run with ``max_keep_ckpts=1`` that is killed while it
    saves has lost everything. For a moment there is one checkpoint more than `max_keep_ckpts` here.
    ResumableRunner, which it needs, uses it for every CheckpointHook. It takes the same arguments.
    """

    def before_train(self, runner):
        """Remove what a killed run has left half written."""
        known = runner.message_hub.runtime_info.get('keep_ckpt_ids', [])
        # A checkpoint that was resumed says what is to be removed; it may be anybody's.
        if not isinstance(known, list) or any(type(step) is not int for step in known):
            runner.message_hub.update_info('keep_ckpt_ids', [])
        super().before_train(runner)
        if not is_main_process():
            return
        left = [*Path(runner.work_dir).glob('last_checkpoint.*.tmp')]
        if '://' not in str(self.out_dir):
            left += Path(self.out_dir).glob(f'.*{Path(self.filename_tmpl).suffix}.tmp')
        for path in left:
            path.unlink(missing_ok=True)

    def _save_checkpoint_with_step(self, runner, step, meta):
        outdated = self._make_outdated(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.exact_resume.gather()
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            with replacing(os.path.join(runner.work_dir, 'last_checkpoint')) as file:
                file.write(str(self.last_ckpt))
            for old in outdated:
                name = self.filename_tmpl.format(old)
                self._remove(self.file_backend.join_path(self.out_dir, name))
        if outdated:
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _make_outdated(self, runner, step):
        """Count a new checkpoint in; the steps of those that are one too many then."""
        # The best checkpoint makes the hook save the last one again.
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return []
        steps = [*self.keep_ckpt_ids, step]
        self.keep_ckpt_ids.append(step)  # which forgets the first
        # A run that is resumed from the new one removes what this one had no time for.
        runner.message_hub.update_info('keep_ckpt_ids', steps)
        return steps[: -self.max_keep_ckpts]

    def _save_best_checkpoint(self, runner, metrics):
        outdated = []
        stock, self.file_backend = self.file_backend, _RemovesLater(self.file_backend, outdated)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = stock
        best = {getattr(self, 'best_ckpt_path', None)}
        best.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in set(outdated) - best:
            if self._is_own_best(path):
                self._remove(path)
            else:
                print_log(f'not removed, since it is none of this run: {path!r}', 'current')

    def _remove(self, path):
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)

    def _is_own_best(self, path):
        """Whether a path, which a resumed checkpoint may have named, is a best one of this run."""
        folder, name = os.path.split(str(path))
        if not name.startswith('best_'):
            return False
        if '://' in str(self.out_dir):
            return folder == str(self.out_dir)
        return os.path.realpath(folder) == os.path.realpath(self.out_dir)


class _RemovesLater:
    """A file backend that only notes what it is to remove."""

    def __init__(self, backend, noted):
        self.backend = backend
        self.remove = self.rmtree = noted.append

    def __getattr__(self, name):
        return getattr(self.backend, name)
