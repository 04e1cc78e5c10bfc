"""LayerScale, folded into the linear layer before it."""

import re

from .conversion import Conversion

# DINOv2 and timm; DeiT III.
_GAMMA = re.compile(r'(layers\.\d+)\.(?:ls([12])\.gamma|gamma_([12]))')
_LAST = {'1': 'attn.proj', '2': 'ffn.layers.1'}


def fold_layer_scale(conversion: Conversion) -> None:
    """Multiply the last linear layer of every branch by the branch's LayerScale, in place.

    gamma * (W x + b) = (gamma W) x + gamma b, with gamma [C] on the rows of W: the same function,
    up to the rounding of the products. Our blocks have no LayerScale of their own.

    Source: Touvron et al., arXiv 2103.17239.

    Raises:
        ValueError: A LayerScale has no linear layer to go to.
    """
    folded = 0
    for name, gamma in list(conversion.weights.items()):
        match = _GAMMA.fullmatch(name)
        if not match:
            continue
        last = f'{match[1]}.{_LAST[match[2] or match[3]]}'
        if f'{last}.weight' not in conversion.weights:
            raise ValueError(f'{name} is there but {last}.weight is not')
        for key in (f'{last}.weight', f'{last}.bias'):
            value = conversion.weights.get(key)
            if value is not None:
                rows = gamma[:, None] if value.ndim == 2 else gamma
                conversion.absorb(key, name, (rows * value).to(value.dtype))
        conversion.discard(name)
        folded += 1
    if folded:
        conversion.notes.append(
            f'LayerScale of {folded} branches is folded into the linear layer before it: the same '
            'function up to rounding, but it cannot be taken out again.'
        )
