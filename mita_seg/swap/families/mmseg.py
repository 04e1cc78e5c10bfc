"""MMSegmentation's VisionTransformer (also under SETR heads) and Segmenter head: their grids."""

from typing import Any

from mmseg.models.backbones import VisionTransformer
from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from torch import Tensor, nn

from mita_seg.swap.patch_grid import PatchGrid
from mita_seg.swap.patch_map import PatchMap


class HeadInputMap(PatchMap):
    """Stands in for the method by which a decode head chooses its input, whose size it records.

    Segmentors call the head's method forward() directly, so that hooks do not run.
    """

    def _register(self, head: Any) -> 'HeadInputMap':
        self.head = head
        head._transform_inputs = self
        return self  # its own handle

    def __call__(self, inputs: Any) -> Tensor:  # type: ignore[override]
        """The map [B, C, h, w] that the head chooses from its inputs."""
        chosen = type(self.head)._transform_inputs(self.head, inputs)
        self.start_call()
        self.record(chosen)
        return chosen

    def remove(self) -> None:
        """Let the head's own method be called again."""
        del self.head._transform_inputs


def find_grid(host: nn.Module) -> PatchGrid | None:
    """The grid of a backbone or head, None if `host` is neither."""
    if isinstance(host, VisionTransformer):
        patch_map = PatchMap("VisionTransformer's patch_embed").attach(
            host.patch_embed.projection, host
        )
        return PatchGrid(patch_map, before=int(host.with_cls_token))
    if isinstance(host, SegmenterMaskTransformerHead):
        patch_map = HeadInputMap("SegmenterMaskTransformerHead's input").attach(host)
        return PatchGrid(patch_map, before=0, after=host.num_classes)
    return None
