"""Going on after an interruption exactly as without one."""

import logging

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop

from mita_seg.checkpoint import plain_checkpoint

from .random_state import kept_random_state, random_state, restore_random_state


class ExactResumeHook(Hook):
    """Keeps the random state of every process in checkpoints, which it makes plain data.

    ResumableRunner registers it. Validation draws from the same generators as training, but a
    resumed run does not repeat it; so it leaves them as it found them.
    """

    priority = 'LOWEST'

    def __init__(self):
        self.before_validation = None
        self.states = None
        self.saved = None
        self.told = set()

    def gather(self):
        """Take the state of every process for the next checkpoint; each has to call this."""
        self.states = all_gather_object(self._state())

    def before_save_checkpoint(self, runner, checkpoint):
        """Add the states, and leave plain data."""
        if not self.states and 'optimizer' in checkpoint and get_world_size() == 1:
            self.states = [self._state()]  # of a CheckpointHook that does not gather them
        if self.states:
            checkpoint['random_state'] = {
                'processes': self.states,
                'batches_per_epoch': _length(runner.train_dataloader),
            }
            self.states = None
        plain = plain_checkpoint(checkpoint, self._warn)
        checkpoint.clear()
        checkpoint.update(plain)

    def after_load_checkpoint(self, runner, checkpoint):
        """Keep the states of a checkpoint, should it be resumed.

        Raises:
            ValueError: They are none.
        """
        self.saved = checkpoint.get('random_state')
        if self.saved:
            _try_states(self.saved)

    def before_train(self, runner):
        """Find out now what no checkpoint could hold; place a resumed run within its epoch."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = {'state_dict': model.state_dict(), 'optimizer': runner.optim_wrapper.state_dict()}
        plain_checkpoint(state, self._warn)

        if runner.iter == 0:
            self.saved = None
        elif not self.saved:
            print_log('The checkpoint holds no random state; another one follows.', 'current')
        elif isinstance(runner.train_loop, EpochBasedTrainLoop) and runner.batches is not None:
            length = _length(runner.train_dataloader)
            if length and length == self.saved['batches_per_epoch']:
                runner.batches.skipped = max(0, runner.iter - runner.epoch * length)

    def before_train_epoch(self, runner):
        """Restore the state of this process in the first epoch of a resumed run."""
        saved, self.saved = self.saved, None
        if not saved:
            return
        if get_rank() < len(saved['processes']):
            restore_random_state(saved['processes'][get_rank()])
        else:
            print_log('The checkpoint holds the random states of fewer processes.', 'current')

    def after_train(self, runner):
        """Let go of the worker processes."""
        if runner.batches is not None:
            runner.batches.release()

    def before_val(self, runner):
        """Note the state before validation."""
        self.before_validation = random_state()

    def after_val(self, runner):
        """Go back to it."""
        restore_random_state(self.before_validation)
        self.before_validation = None

    def _state(self):
        return self.before_validation or random_state()

    def _warn(self, sentence):
        if sentence not in self.told:
            self.told.add(sentence)
            print_log(sentence, logger='current', level=logging.WARNING)


def _try_states(saved):
    """Restore every state once: a file may hold anything."""
    with kept_random_state():
        try:
            for state in saved['processes']:
                restore_random_state({k: v for k, v in state.items() if k != 'cuda'})
            int(saved['batches_per_epoch'] or 0)
        except Exception as error:
            raise ValueError(
                f'its random_state is none ({type(error).__name__}: {error})'
            ) from error


def _length(loader):
    try:
        return len(loader)
    except TypeError:  # of a sampler without end
        return None
