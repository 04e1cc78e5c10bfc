"""From our layout to that of MMSegmentation's stock classes."""

import re

import torch

from .conversion import Conversion
from .key_map import name_for_mmseg

_LACKING = {
    r'(^|\.)register_tokens$': 'registers',
    r'\.attn\.gate\.': 'gate',
    r'\.attn\.dwc\.': 'depthwise convolution (DWC)',
    r'\.attn\.[qk]_norm\.': 'normalisation of queries and keys',
    r'\.mask_norm\.scale$': "learned scale of the masks (mask_norm='scale')",
}


def to_mmseg(conversion: Conversion) -> None:
    """Give weights of ours the names of MMSegmentation, in place.

    Raises:
        ValueError: The stock classes have no place for a weight, without which the model would
            compute something else.
    """
    for name in conversion.weights:
        for pattern, what in _LACKING.items():
            if re.search(pattern, name):
                raise ValueError(
                    f"target 'mmseg' cannot hold {name}: the stock classes have no {what}"
                )
    for name, value in list(conversion.weights.items()):
        if name.endswith('.attn.qkv.weight'):
            _match_biases(conversion, name.removesuffix('.qkv.weight'), value)
    for name in list(conversion.weights):
        part = next((part for part in ('backbone.', 'decode_head.') if name.startswith(part)), '')
        conversion.rename(name, part + name_for_mmseg(name.removeprefix(part)))
    if conversion.settings.pop('attn_cfg', None):
        conversion.notes.append(
            'These weights were trained with MiTA attention; the stock classes compute full '
            'attention with them (mita_seg.models.build_swapped puts MiTA back).'
        )


def _match_biases(conversion: Conversion, attention: str, qkv: torch.Tensor) -> None:
    """The stock attention has both biases or neither; ours always has that of the output."""
    qkv_bias, output_bias = f'{attention}.qkv.bias', f'{attention}.proj.bias'
    if qkv_bias in conversion.weights or output_bias not in conversion.weights:
        return
    if conversion.weights[output_bias].any():
        zeros = torch.zeros_like(qkv[:, 0])
        conversion.replace(
            [f'{attention}.qkv.weight'], {f'{attention}.qkv.weight': qkv, qkv_bias: zeros}
        )
        conversion.notes.append(f'{qkv_bias} is added as zeros: {output_bias} needs it there.')
    else:
        conversion.leave_out(output_bias, 'zero, as in a stock attention without biases')
