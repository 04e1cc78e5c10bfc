"""Training batches that depend on nothing but the seed and their number.

A loader's workers draw random numbers one batch after the other, so that an augmentation depends on
all that a worker did before, and on how many there are. Here every batch is loaded with generators
seeded from its number: a run that is resumed at some batch goes on exactly as if it had never
stopped, whatever the number of workers, and without loading what it has seen already.
"""

import copy
from itertools import islice

from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .random_state import kept_random_state, seed_generators


def begin_late(loader):
    """Make a data loader's next iterators take nothing before their first batch is asked for.

    MMEngine 0.10.7's loop takes an iterator when it is built, whose workers would load batches, and
    use up a sampler without end, before :func:`number_batches` can number them.

    Args:
        loader (DataLoader): Anything else is left as it is.
    """
    if isinstance(loader, DataLoader):
        loader._get_iterator = lambda: _LateIterator(loader)


class _LateIterator:
    """An iterator of a loader that is made when it is used."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.iterator)

    def __getattr__(self, name):
        if name == 'iterator':
            self.iterator = type(self.loader)._get_iterator(self.loader)
            return self.iterator
        return getattr(self.iterator, name)


def number_batches(loop, seed):
    """Seed every batch of a training loop from its number.

    Args:
        loop (BaseLoop): A loop that has not begun. Of its data loader, batches of an
            IterableDataset, or single samples in place of batches, stay as they are.
        seed (int): Seed of the run.

    Returns:
        NumberedBatches | None: The batch sampler, which can leave out batches.
    """
    loader = loop.dataloader
    if not isinstance(loader, DataLoader) or loader.batch_sampler is None:
        return None
    if isinstance(loader.dataset, IterableDataset):
        return None
    batches = NumberedBatches(loader, loop)
    # What an iterator takes from the loader when it is made. The loader itself keeps its own, which
    # others may look at, and which it does not allow to be replaced.
    view = copy.copy(loader)
    view.__dict__.update(
        dataset=_SeededDataset(loader.dataset, (seed, get_rank())), batch_sampler=batches
    )

    def get_iterator():
        with kept_random_state():  # an iterator draws a seed for its workers
            return type(loader)._get_iterator(view)

    loader._get_iterator = get_iterator
    loader._iterator = None
    if isinstance(loop, IterBasedTrainLoop):
        loop.dataloader_iterator = _EndlessBatches(loop, batches)
    return batches


class NumberedBatches:
    """A batch sampler whose batches carry their number in the training, from 0.

    Attributes:
        skipped (int): How many batches the next pass leaves out at its beginning.
    """

    def __init__(self, loader, loop):
        self.loader = loader
        self.batch_sampler = loader.batch_sampler
        self.samplers = (loader.sampler, getattr(loader.batch_sampler, 'sampler', None))
        self.loop = loop
        self.skipped = 0
        self.begun = None

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        indices = self.begun or islice(self.batch_sampler, self.skipped, None)
        self.begun, self.skipped = None, 0
        # An iterator is made when all batches before have been used.
        for number, batch in enumerate(indices, self.loop.iter):
            yield _NumberedIndices(batch, number)

    def advance(self, count):
        """Leave out batches, over as many epochs as they take; no data are loaded.

        Returns:
            int: The epochs that have passed.
        """
        epoch = 0
        while True:
            self.begun = iter(self.batch_sampler)
            passed = sum(1 for _ in islice(self.begun, count))
            count -= passed
            if not count:
                return epoch
            if not passed:
                raise ValueError('the sampler of train_dataloader yields no batch')
            epoch += 1
            self.set_epoch(epoch)

    def release(self):
        """End the worker processes; the garbage collector would wait seconds for each of them."""
        self.loader._iterator = None
        endless = getattr(self.loop, 'dataloader_iterator', None)
        if isinstance(endless, _EndlessBatches):
            endless.iterator = None

    def set_epoch(self, epoch):
        """Tell the sampler, which shuffles anew."""
        for sampler in self.samplers:
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
                return


class _NumberedIndices(list):
    """The indices of a batch."""

    def __init__(self, indices=(), number=0):
        super().__init__(indices)
        self.number = number


class _SeededDataset:
    """A data set that loads a batch with generators seeded from its number."""

    def __init__(self, dataset, entropy):
        self.dataset = dataset
        self.entropy = entropy

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]

    def __getitems__(self, indices):
        if get_worker_info() is not None:
            return self._load(indices)
        # The model's dropout goes on where it was.
        with kept_random_state():
            return self._load(indices)

    def _load(self, indices):
        seed_generators(*self.entropy, indices.number)
        load = getattr(self.dataset, '__getitems__', None)
        return load(indices) if load else [self.dataset[index] for index in indices]

    def __getattr__(self, name):
        if name == 'dataset':  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


class _EndlessBatches:
    """The batches of an iteration-based loop, epoch after epoch, in place of MMEngine's."""

    def __init__(self, loop, batches):
        self.loop = loop
        self.batches = batches
        self.iterator = None
        self.epoch = 0
        self.given = 0

    def __iter__(self):
        return self

    def skip_iter(self, count):
        """Leave out the batches of the iterations before a resumed one."""
        self.given = count

    def __next__(self):
        if self.given < self.loop.iter and not getattr(self.loop, 'fast_forward_on_resume', False):
            self.given += 1  # upstream's way of leaving out
            return None
        if self.iterator is None:
            self.epoch = self.batches.advance(self.given)
            self.iterator = iter(self.loop.dataloader)
        self.given += 1
        try:
            return next(self.iterator)
        except StopIteration:
            self.epoch += 1
            self.batches.set_epoch(self.epoch)
            self.iterator = iter(self.loop.dataloader)
            return next(self.iterator)
