"""Models for MMSegmentation. Importing this module registers them in its registry."""

from importlib.util import find_spec

_missing = [name for name in ('mmengine', 'mmcv', 'mmseg') if find_spec(name) is None]
if _missing:
    raise ImportError(
        f'mita_seg.models needs MMSegmentation, but {", ".join(_missing)} cannot be found: install '
        'mita_seg with its extra "mmseg" (the maintained OpenMMLab packages), or install upstream '
        'mmsegmentation, mmcv and mmengine, but never both families'
    )

from mita_seg.checkpoint import guard_mmengine_loading  # noqa: E402
from mita_seg.complexity import flops  # noqa: E402

from .backbones import MiTAVisionTransformer  # noqa: E402
from .batch_preprocessor import BatchSegDataPreProcessor  # noqa: E402
from .builder import build_attention, build_transformer_block  # noqa: E402
from .decode_heads import FusedLossFCNHead, MiTAMaskTransformerHead, PixelLosses  # noqa: E402
from .segmentors import CompiledEncoderDecoder  # noqa: E402
from .swapped import build_swapped  # noqa: E402

flops.register()
guard_mmengine_loading()

__all__ = [
    'BatchSegDataPreProcessor',
    'CompiledEncoderDecoder',
    'FusedLossFCNHead',
    'MiTAMaskTransformerHead',
    'MiTAVisionTransformer',
    'PixelLosses',
    'build_attention',
    'build_swapped',
    'build_transformer_block',
]
