"""MiTA attention for semantic segmentation with MMSegmentation."""

__version__ = '0.1.0'

_LAZY = ('restore_attention', 'swap_attention')  # `import mita_seg` alone imports no torch


def __getattr__(name: str):
    if name in _LAZY:
        from mita_seg import swap

        return getattr(swap, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted((*globals(), *_LAZY))
