"""MiTA attention for semantic segmentation with MMSegmentation."""

__version__ = '0.1.0'

# `import mita_seg` alone imports no torch.
_LAZY = {
    'FullAttention': 'mita_seg.layers',
    'MiTAAttention': 'mita_seg.layers',
    'load_segmentor': 'mita_seg.inference',
    'mita_attention': 'mita_seg.ops',
    'pooled_mita_attention': 'mita_seg.ops',
    'restore_attention': 'mita_seg.swap',
    'swap_attention': 'mita_seg.swap',
}


def __getattr__(name: str):
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted((*globals(), *_LAZY))
