"""Weights of other implementations, converted to ours and back, with an account of every name.

:func:`convert` runs the steps: ``sources`` finds the weights in a checkpoint and tells its layout;
``augreg``, ``mita_deit``, ``special_tokens``, ``layer_scale`` and ``input_channels`` each convert
one peculiarity of a source to the form of our models; ``key_map`` renames; ``position_embedding``
resizes; ``target`` makes the wanted layout; ``conversion_report`` describes the result. Needs
PyTorch, and safetensors for files of that kind.
"""

from .conversion import Conversion
from .conversion_report import report_lines
from .convert import TARGETS, convert
from .settings import model_settings
from .sources import SOURCES, detect_source
from .write import write_weights

__all__ = [
    'SOURCES',
    'TARGETS',
    'Conversion',
    'convert',
    'detect_source',
    'model_settings',
    'report_lines',
    'write_weights',
]
