"""Hugging Face's ViT, DeiT, DINOv2 (with or without registers), DINOv3 and DPT.

Their attention modules look up by name the function that mixes values. Ours is registered under a
name; a swapped module gets a config of its own that asks for it.
"""

import copy
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from mita_seg.swap.hooks import Hook
from mita_seg.swap.patch_grid import PatchGrid
from mita_seg.swap.patch_map import PatchMap

from .adapter import Adapter, refuse

_NAME = 'mita_seg'
_ATTENTION = re.compile(r'(ViT|DeiT|Dinov2|Dinov2WithRegisters|DINOv3ViT|DPT)(Self)?Attention')
_SPECIAL_TOKENS = ('cls_token', 'distillation_token', 'register_tokens')


def mix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of Hugging Face's kind: [B, H, N, d] to [B, N, H, d], no weights.

    Raises:
        ValueError: There is a mask, or attention dropout in training.
    """
    if attention_mask is not None:
        refuse('takes no mask', 'pass no attention_mask or head_mask')
    if dropout > 0:
        refuse(
            f'offers no attention dropout, got {dropout}',
            "set the config's attention_probs_dropout_prob to 0",
        )
    return module.mita(query, key, value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(_NAME, mix)


class AttentionOutputGuard(Hook):
    """Refuses to return attention weights, of which there are none."""

    def _register(self, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model: Any, args: tuple, kwargs: dict) -> None:
        """As a forward pre-hook with keyword arguments."""
        asked = kwargs.get('output_attentions')
        if model.config.output_attentions if asked is None else asked:
            refuse('has no attention weights to return', 'pass output_attentions=False')


class _HuggingFaceAdapter(Adapter):
    def owns(self, module: nn.Module) -> bool:
        # Releases differ in which class computes attention: the one that has a scaling does.
        return bool(
            type(module).__module__.startswith('transformers.models.')
            and _ATTENTION.fullmatch(type(module).__name__)
            and hasattr(module, 'scaling')
        )

    def heads(self, module: Any) -> tuple[int, int]:
        num_heads = module.config.num_attention_heads
        return num_heads, round(module.scaling**-2)

    def divert(self, module: Any) -> PretrainedConfig:
        original = module.config
        module.config = copy.copy(original)
        module.config._attn_implementation = _NAME
        return original

    def undivert(self, module: Any, undo: PretrainedConfig) -> None:
        module.config = undo

    def guard(self, ancestors: Sequence[nn.Module]) -> None:
        for model in ancestors:
            if isinstance(model, PreTrainedModel):
                AttentionOutputGuard().attach(model)


ADAPTER = _HuggingFaceAdapter()


def find_grid(host: nn.Module) -> PatchGrid | None:
    """The grid of a model that embeds patches by a convolution, None if `host` does not."""
    embeddings = getattr(host, 'embeddings', None)
    if not isinstance(host, PreTrainedModel) or embeddings is None:
        return None
    patches = getattr(embeddings, 'patch_embeddings', embeddings)  # DPT's hybrid has none
    projection = getattr(patches, 'projection', patches)  # DINOv3's is the convolution itself
    if not isinstance(projection, nn.Conv2d):
        return None
    tokens = (getattr(embeddings, name, None) for name in _SPECIAL_TOKENS)
    before = sum(token.shape[1] for token in tokens if token is not None)
    patch_map = PatchMap(f"{type(host).__name__}'s patch embeddings").attach(projection, host)
    return PatchGrid(patch_map, before)
