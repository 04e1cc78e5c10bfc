"""torchvision's VisionTransformer: its grid. Its attention is nn.MultiheadAttention."""

from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from mita_seg.swap.patch_grid import PatchGrid
from mita_seg.swap.patch_map import PatchMap


def find_grid(host: nn.Module) -> PatchGrid | None:
    """The grid of a VisionTransformer, None if `host` is none."""
    if not isinstance(host, VisionTransformer):
        return None
    patch_map = PatchMap("VisionTransformer's conv_proj").attach(host.conv_proj, host)
    return PatchGrid(patch_map, before=1)
