"""MMSegmentation's names for what this package does in its own way.

``_scope_='mita_seg'`` in the config of a transform looks its name up here first. MMSegmentation's
tools tell the transforms of a pipeline by their names, so that ours carry the stock ones here, and
nowhere else. MMEngine imports this module by itself when it meets the scope.
"""

from mmengine.registry import Registry
from mmseg.registry import TRANSFORMS as _MMSEG_TRANSFORMS

TRANSFORMS = Registry(
    'transform', parent=_MMSEG_TRANSFORMS, scope='mita_seg', locations=['mita_seg.datasets']
)
