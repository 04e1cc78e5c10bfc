"""The authors' MiTA-DeiT: what is not as in DeiT.

Source: the code published with arXiv 2602.01219.
"""

import re

from .conversion import Conversion

# With these the attention computes what the published code computes. The published models are
# trained so: 5x5 landmarks and k = 25.
PUBLISHED_ATTENTION = {
    'type': 'MiTAAttention',
    'landmarks': (5, 5),
    'topk': 25,
    'landmark_scale': 'inverse_dim',
    'pooled_tokens': 'all_but_last',
}

_GATED = re.compile(r'(layers\.\d+\.attn)\.qkvg\.(weight|bias)')


def split_gate(conversion: Conversion) -> None:
    """Split every ``qkvg`` [4C, ...], in the order q, k, v, g, into ``qkv`` and ``gate``, in place.

    Raises:
        ValueError: The rows are not four equal parts.
    """
    split = False
    for name, value in list(conversion.weights.items()):
        match = _GATED.fullmatch(name)
        if not match:
            continue
        attention, kind = match.groups()
        if value.shape[0] % 4:
            raise ValueError(f'{name} must have 4 x C rows, got shape {list(value.shape)}')
        qkv, gate = value.split([value.shape[0] * 3 // 4, value.shape[0] // 4])
        conversion.replace(
            [name], {f'{attention}.qkv.{kind}': qkv, f'{attention}.gate.{kind}': gate}
        )
        split = True
    if split:
        conversion.notes.append(
            'The code published for the gated variant cannot run, so nothing confirms that the '
            'output with these weights is what the authors computed.'
        )
