"""The state of every random number generator of a process."""

import contextlib
import random

import numpy as np
import torch


def random_state():
    """Take the state of Python's, NumPy's and PyTorch's generators, the current GPU's included.

    Returns:
        dict: ``python``, ``numpy``, ``torch`` and, where CUDA is in use, ``cuda``; plain data.
    """
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    state = {
        'python': (version, torch.tensor(words), gauss),
        'numpy': (name, torch.tensor(keys.astype(np.int64)), *rest),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state):
    """Put the generators back into a state from :func:`random_state`."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextlib.contextmanager
def kept_random_state():
    """Leave the generators of the CPU at the end of the block as they were at its start."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


def seed_generators(*entropy):
    """Seed the generators of the CPU with some non-negative integers."""
    for_python, for_numpy, for_torch = np.random.SeedSequence(entropy).generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    # Not torch.manual_seed, which seeds the GPUs too.
    torch.default_generator.manual_seed(for_torch)
