"""Checkpoints: read without running the code that a pickle may carry, and written to be read.

``loading`` reads a file of any format, with the objects that ``pickled`` lets a pickle hold;
``download`` fetches one; ``guard`` sends MMEngine through them; ``plain`` makes what is to be
written readable; ``resumable`` finds what a training run can go on from. Imports without torch.
"""

from .guard import guard_mmengine_loading
from .loading import DamagedCheckpoint, load_checkpoint_safely, verify_checkpoint
from .plain import plain_checkpoint
from .resumable import find_newest, find_resumable

__all__ = [
    'DamagedCheckpoint',
    'find_newest',
    'find_resumable',
    'guard_mmengine_loading',
    'load_checkpoint_safely',
    'plain_checkpoint',
    'verify_checkpoint',
]
