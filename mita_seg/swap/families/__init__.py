"""One file per family of models: its attention modules, and where it embeds patches.

A family file may have

- ``ADAPTER``, an :class:`~mita_seg.swap.families.adapter.Adapter` for its attention modules;
- ``find_grid(host)``, which hooks a model of the family where it embeds patches and returns the
  hook, or None for any other module.
"""

import sys
from importlib import import_module
from types import ModuleType

# The module that defines what a family file adapts. A model of a package that was never imported
# can't exist, so no optional package is imported for the sake of asking.
_DEFINED_IN = {
    'layers': 'mita_seg.layers',
    'pytorch': 'torch',
    'mmcv': 'mmcv.cnn.bricks.transformer',
    'mmseg': 'mmseg.models',
    'timm': 'timm.models.vision_transformer',
    'torchvision': 'torchvision.models.vision_transformer',
    'huggingface': 'transformers.modeling_utils',
}


def loaded_families() -> list[ModuleType]:
    """The family files of the packages that this process has imported."""
    return [
        import_module(f'{__name__}.{family}')
        for family, module in _DEFINED_IN.items()
        if module in sys.modules
    ]
