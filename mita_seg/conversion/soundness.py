"""Whether the weights of a file can be converted at all: a damaged file may have anything."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Names of any layout -> number of dimensions; the first that fits.
_DIMENSIONS = [
    (re.compile(pattern), dimensions)
    for pattern, dimensions in (
        (r'(^|\.)(cls_token|dist_token|reg_token|register_tokens|pos_embed|cls_emb)$', 3),
        (r'^cls$|/pos_embedding$', 3),
        (r'patch_embed\.proj(ection)?\.weight$|^embedding/kernel$|\.attn\.dwc\.weight$', 4),
        (r'/(query|key|value)/kernel$|_1/out/kernel$', 3),
        (r'/(query|key|value)/bias$', 2),
        (r'\.attn\.(qkvg?|proj|gate)\.weight$|\.attn\.(in_proj_|out_proj\.)weight$', 2),
        (r'\.mlp\.fc[12]\.weight$|\.ffn\.layers\.(0\.0|1)\.weight$|/Dense_[01]/kernel$', 2),
        (r'(^|\.)(norm\w*|ln_pre|ln\d)\.weight$|/scale$|gamma(_\d)?$', 1),
        (r'([./]|in_proj_)bias$', 1),
    )
]


def check_weights(weights: Mapping[str, Tensor]) -> None:
    """Make sure that weights are what their names say, as far as a conversion depends on it.

    Args:
        weights: By the names in the file.

    Raises:
        ValueError: A name is no text; a weight is empty, sparse, quantised, complex, without
            values, or has another number of dimensions than its name says.
    """
    for name, value in weights.items():
        if not isinstance(name, str):
            raise ValueError(f'the names of weights must be text, got {name!r}')
        if value.layout != torch.strided or value.is_nested or value.is_quantized:
            raise ValueError(f'{name} is a sparse, nested or quantised tensor, not a dense one')
        if value.is_complex():
            raise ValueError(f'{name} holds complex numbers, not real ones')
        stored = 0 if value.is_meta else value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > stored:
            raise ValueError(f'{name} of shape {list(value.shape)} has fewer values than that')
        if value.numel() == 0:
            raise ValueError(f'{name} of shape {list(value.shape)} is empty')
        for pattern, dimensions in _DIMENSIONS:
            if pattern.search(name):
                if value.ndim != dimensions:
                    raise ValueError(
                        f'{name} must have {dimensions} dimensions, got shape {list(value.shape)}'
                    )
                break
