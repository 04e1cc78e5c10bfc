"""timm's VisionTransformer: ViT, DeiT, AugReg, DINO, DINOv2 with or without registers."""

from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from mita_seg.swap.patch_grid import PatchGrid
from mita_seg.swap.patch_map import PatchMap

from .adapter import ClassAdapter, refuse
from .pytorch import refuse_masks


class SwappedAttention(Attention):
    """timm's Attention mixing by our attention; called alike."""

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Tokens [B, N, C] to [B, N, C].

        Raises:
            ValueError: There is a mask, or attention dropout in training.
        """
        refuse_masks(attn_mask, is_causal=is_causal)
        if self.training and self.attn_drop.p > 0:
            refuse(f'offers no attention dropout, got {self.attn_drop.p}', 'set attn_drop.p to 0')
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, N, d] each
        out = self.mita(self.q_norm(q), self.k_norm(k), v).transpose(1, 2).flatten(2)
        # Older timm has neither of these two.
        if (norm := getattr(self, 'norm', None)) is not None:
            out = norm(out)
        if (gate := getattr(self, 'gate', None)) is not None:
            out = out * gate(x).sigmoid()
        return self.proj_drop(self.proj(out))


ADAPTER = ClassAdapter(Attention, SwappedAttention)


def find_grid(host: nn.Module) -> PatchGrid | None:
    """The grid of a VisionTransformer, None if `host` is none or embeds patches otherwise."""
    projection = getattr(getattr(host, 'patch_embed', None), 'proj', None)
    if not isinstance(host, VisionTransformer) or not isinstance(projection, nn.Conv2d):
        return None
    patch_map = PatchMap("VisionTransformer's patch_embed").attach(projection, host)
    return PatchGrid(patch_map, before=host.num_prefix_tokens)
