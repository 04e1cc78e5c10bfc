"""Aids for training MiTA attention from the weights of a model with full attention.

For any model with MiTA attentions, swapped ones included. Needs torch alone; MMEngine's hooks on
top of it are in :mod:`mita_seg.engine`.
"""

from mita_seg.layers.mita_attention import Stage

from .annealing import Annealing
from .calibration import best_offsets, observe_offsets
from .distillation import Distillation, make_teacher
from .stages import FULL, read_stages, with_full_attention, write_stages

__all__ = [
    'FULL',
    'Annealing',
    'Distillation',
    'Stage',
    'best_offsets',
    'make_teacher',
    'observe_offsets',
    'read_stages',
    'with_full_attention',
    'write_stages',
]
