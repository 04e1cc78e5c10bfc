"""Attention modules that no family knows, recognised by their looks."""

from collections.abc import Iterable

from torch import nn

_HEADS = ('num_heads', 'num_attention_heads', 'n_heads', 'n_head', 'nhead', 'heads')
# These have other queries than tokens of patches; nobody expects them to be swapped.
_OTHER_QUERIES = ('pool', 'cross', 'class')


def find_unknown(model: nn.Module, known: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Modules that look like multi-head self-attention, by name, in the order of the model.

    Args:
        model: The model.
        known: Its attention modules that some family knows. Modules inside them, and modules
            around them, are left out.
    """
    known = list(known)
    inside = {part for one in known for part in one.modules()}
    unknown = {}
    for name, module in model.named_modules():
        if module in inside or not _looks_like_attention(module, name.rpartition('.')[2]):
            continue
        if not any(part in known for part in module.modules()):
            unknown[name] = module
            inside.update(module.modules())
    return unknown


def _looks_like_attention(module: nn.Module, name: str) -> bool:
    called = f'{name} {type(module).__name__}'.lower()
    return (
        any(isinstance(getattr(module, heads, None), int) for heads in _HEADS)
        and ('attention' in called or 'attn' in called)
        and not any(word in called for word in _OTHER_QUERIES)
    )
