"""torchvision's VisionTransformer, which takes images of one size."""

import torch

from mita_seg import swap_attention
from support.swap_contract import USUAL, SwapContract, import_or_skip

models = import_or_skip('torchvision.models')


class TestVisionTransformer(SwapContract):
    sizes = ((64, 64),)

    def build(self):
        return models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5)


class WideImages(models.VisionTransformer):
    """Takes images of 32 x 128 pixels: as many patches, in another grid."""

    def _process_input(self, x):
        return self.conv_proj(x).flatten(2).mT


class TestOtherGrid(TestVisionTransformer):
    sizes = ((64, 64), (32, 128))

    def build(self):
        return WideImages(64, 16, 2, 2, 32, 64, num_classes=5)

    def test_the_grid_of_a_wide_image_is_its_own(self, model):
        swap_attention(model, USUAL)
        self.run(model, torch.randn(1, 3, 32, 128))
        attention = model.encoder.layers[0].self_attention
        assert attention.mita.grid.locate(17) == ((2, 8), 1)
