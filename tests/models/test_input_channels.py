"""Weights for colour images in models for other channels, as timm adapts them for `in_chans`."""

import pytest
import torch

from mita_seg.models import MiTAVisionTransformer
from mita_seg.models.backbones import mita_vit

SMALL = {'img_size': 32, 'patch_size': 8, 'embed_dims': 32, 'num_layers': 1, 'num_heads': 2}
KEY = 'patch_embed.projection.weight'


@pytest.fixture
def colour(tmp_path):
    """A model for three channels, and an `init_cfg` with its weights."""
    model = MiTAVisionTransformer(**SMALL)
    model.init_weights()
    torch.save(model.state_dict(), tmp_path / 'rgb.pth')
    return model, {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'rgb.pth')}


def adapted(init_cfg, channels):
    model = MiTAVisionTransformer(**SMALL, in_channels=channels, init_cfg=init_cfg)
    model.init_weights()
    return model


@pytest.mark.parametrize('channels', [1, 2, 4, 7])
def test_equal_channels_give_what_they_gave_in_colour(colour, channels, monkeypatch):
    logged = []
    monkeypatch.setattr(mita_vit, 'print_log', lambda text, **_: logged.append(text))
    source, init_cfg = colour
    model = adapted(init_cfg, channels)
    (line,) = logged
    assert f'from 3 to {channels} channels' in line
    for name, value in source.state_dict().items():
        assert name == KEY or torch.equal(model.state_dict()[name], value), name
    weight, given = model.state_dict()[KEY], source.state_dict()[KEY]
    if channels == 1:
        grey = torch.randn(1, 1, 32, 32)
        expected = source(grey.expand(-1, 3, -1, -1))[0]
        torch.testing.assert_close(model(grey)[0], expected, atol=1e-5, rtol=1e-4)
    else:
        for channel in range(channels):
            torch.testing.assert_close(weight[:, channel], given[:, channel % 3] * 3 / channels)


def test_three_channels_stay_bit_for_bit(colour):
    source, init_cfg = colour
    assert torch.equal(adapted(init_cfg, 3).state_dict()[KEY], source.state_dict()[KEY])


def test_other_channels_than_three_are_not_adapted(colour, tmp_path):
    four = adapted(colour[1], 4)
    torch.save(four.state_dict(), tmp_path / 'four.pth')
    with pytest.raises(ValueError, match=rf'{KEY} is \[32, 4, 8, 8\] in the checkpoint'):
        adapted({'type': 'Pretrained', 'checkpoint': str(tmp_path / 'four.pth')}, 3)
