"""Position embeddings of grids that are no squares, from checkpoints that say their grid or not."""

import io

import pytest
import safetensors.torch
import torch
from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu
from mmseg.models.backbones import VisionTransformer
from mmseg.registry import MODELS

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.conversion import convert, write_weights
from mita_seg.conversion.position_embedding import said_grid
from mita_seg.models import MiTAVisionTransformer
from mita_seg.models.backbones import mita_vit

SMALL = {'patch_size': 8, 'embed_dims': 8, 'num_layers': 1, 'num_heads': 1, 'final_norm': True}
FULL = {'type': 'FullAttention'}


def vit(size, kind=MiTAVisionTransformer, **options):
    extra = {'attn_cfg': FULL} if kind is MiTAVisionTransformer else {'patch_bias': True}
    return kind(img_size=size, **{**SMALL, **extra, **options})


def relative_column(width):
    return (torch.arange(width) + 0.5) / width


def trained(size, kind=MiTAVisionTransformer):
    """A model whose position embedding holds the relative column in channel 0."""
    model = vit(size, kind)
    height, width = (pixels // 8 for pixels in size)
    model.pos_embed.data[0, 1:, 0] = relative_column(width).repeat(height)
    return model


def assert_columns(model):
    """Each row runs from left to right, but for the border, where interpolation stays inside."""
    columns = model.pos_embed[0, 1:, 0].view(model.grid)
    expected = relative_column(model.grid[1]).expand_as(columns)
    torch.testing.assert_close(columns, expected, atol=0.06, rtol=0)


def plain(weights):
    """The same weights without any metadata."""
    return dict(weights)


@pytest.fixture
def messages(monkeypatch):
    logged = []
    monkeypatch.setattr(mita_vit, 'print_log', lambda text, **options: logged.append(text))
    return logged


SIZES = [
    ((64, 256), (128, 256)),  # 8x32 = 256 patches, a square number
    ((32, 128), (64, 64)),  # 4x16, as many as 8x8
    ((64, 128), (128, 64)),  # 8x16, as many as 16x8
    ((48, 80), (64, 64)),  # 6x10, no square number
]


def through_torch(model, size, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    loaded = vit(size)
    loaded.load_state_dict(torch.load(tmp_path / 'w.pth'), strict=True)
    return loaded


def through_init_cfg(model, size, tmp_path):
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'w.pth')
    loaded = vit(size, init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'w.pth')})
    loaded.init_weights()
    return loaded


def through_a_segmentor(model, size, tmp_path):
    """As MMEngine saves it, and read as a backbone's weights."""
    whole = torch.nn.Module()
    whole.backbone = model
    checkpoint = {'state_dict': weights_to_cpu(get_state_dict(whole)), 'meta': {}}
    torch.save(checkpoint, tmp_path / 'w.pth')
    loaded = vit(size, init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'w.pth')})
    loaded.init_weights()
    return loaded


def through_the_converter(model, size, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    conversion = convert(load_checkpoint_safely(tmp_path / 'w.pth'))
    write_weights(conversion.weights, tmp_path / 'v.pth')
    loaded = vit(size)
    loaded.load_state_dict(load_checkpoint_safely(tmp_path / 'v.pth')['state_dict'], strict=True)
    return loaded


def through_safetensors(model, size, tmp_path):
    """A segmentor's weights, whose file holds text beside them."""
    whole = torch.nn.Module()
    whole.backbone = model
    write_weights(whole.state_dict(), tmp_path / 'w.safetensors')
    checkpoint = str(tmp_path / 'w.safetensors')
    loaded = vit(size, init_cfg={'type': 'Pretrained', 'checkpoint': checkpoint})
    loaded.init_weights()
    return loaded


WAYS = [through_torch, through_init_cfg, through_a_segmentor, through_the_converter]
WAYS += [through_safetensors]


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(('old', 'new'), SIZES)
def test_checkpoints_of_ours_say_their_grid(way, old, new, tmp_path):
    assert_columns(way(trained(old), new, tmp_path))


@pytest.mark.parametrize('way', [through_torch, through_init_cfg, through_safetensors])
def test_weights_of_the_same_grid_stay_bit_for_bit_without_a_word(way, tmp_path, messages):
    model = trained((48, 80))
    assert torch.equal(way(model, (48, 80), tmp_path).pos_embed, model.pos_embed)
    assert messages == []


def test_the_stock_class_loads_our_weights_strictly_with_their_metadata():
    weights = convert(trained((48, 80)).state_dict(), target='mmseg').weights
    vit((48, 80), VisionTransformer).load_state_dict(weights, strict=True)
    assert 'pos_embed_grid' in str(weights._metadata)


@pytest.mark.parametrize(('old', 'new'), SIZES)
@pytest.mark.parametrize('kind', [VisionTransformer, MiTAVisionTransformer])
def test_others_take_it_from_an_argument(kind, old, new, tmp_path):
    weights = plain(trained(old, kind).state_dict())
    loaded = vit(new, pretrained_size=old)
    loaded.load_state_dict(weights, strict=True)
    assert_columns(loaded)
    torch.save(weights, tmp_path / 'w.pth')
    options = {'init_cfg': {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'w.pth')}}
    loaded = vit(new, pretrained_size=old, **options)
    loaded.init_weights()
    assert_columns(loaded)


def test_what_a_checkpoint_says_goes_before_the_argument():
    loaded = vit((64, 64), pretrained_size=(128, 32))
    loaded.load_state_dict(trained((32, 128)).state_dict())
    assert_columns(loaded)


@pytest.mark.parametrize('size', [(32, 128), (48, 80)])
def test_a_grid_that_nothing_says_is_taken_for_the_models_with_a_warning(size, messages):
    model = trained(size)
    loaded = vit(size)
    loaded.load_state_dict(plain(model.state_dict()), strict=True)
    assert torch.equal(loaded.pos_embed, model.pos_embed)
    (message,) = messages
    grid = f'{size[0] // 8}x{size[1] // 8}'
    assert f'does not say its grid and is taken for {grid}' in message
    assert 'pretrained_size' in message


def test_a_square_that_nothing_says_is_no_guess(messages):
    loaded = vit((64, 64))
    loaded.load_state_dict(plain(trained((64, 64)).state_dict()))
    assert messages == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({}, 'not for a square grid of patches .* cannot be resized to 8x8 .* pretrained_size'),
        ({'pretrained_size': 48}, '60 patches, but pretrained_size makes a grid of 6x6'),
    ],
)
def test_a_grid_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vit((64, 64), **options).load_state_dict(plain(trained((48, 80)).state_dict()))


def test_metadata_that_cannot_be_true_do_not_count():
    weights = trained((64, 64)).state_dict()
    for grid in ((4, 17), 'xy', (8.0, 8.0), None):
        weights._metadata[''] = {'version': 1, 'pos_embed_grid': grid}
        loaded = vit((128, 128))
        loaded.load_state_dict(weights)
        assert_columns(loaded)


def test_metadata_survive_safe_loading():
    buffer = io.BytesIO()
    torch.save(trained((48, 80)).state_dict(), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)._metadata['']['pos_embed_grid'] == (6, 10)


def test_a_state_dict_into_the_callers_own_dict():
    destination = {}
    with pytest.warns(FutureWarning):
        trained((48, 80)).state_dict(destination, '', False)
    assert 'pos_embed' in destination


@pytest.mark.parametrize('text', ['{"backbone": [6, 10', '[6, 10]', '{"backbone": "6x10"}', '3'])
def test_a_grid_that_a_file_of_safetensors_says_badly_counts_for_nothing(text, tmp_path):
    weights = {'backbone.pos_embed': torch.zeros(1, 61, 8)}
    path = tmp_path / 'w.safetensors'
    safetensors.torch.save_file(weights, path, {'pos_embed_grid': text})
    loaded = load_checkpoint_safely(path)
    assert list(loaded) == list(weights) and said_grid(loaded, 'backbone.') is None


@pytest.mark.parametrize('special', ['reg_token', 'cls_token'])
def test_timm_weights_of_another_grid_and_several_special_tokens(special, tmp_path):
    """A 5x7 grid and a class token make 36 entries, which is a square number."""
    embedding = torch.zeros(1, 1 + 35, 8)
    embedding[0, 1:, 0] = relative_column(7).repeat(5)
    weights = {
        'cls_token': torch.zeros(1, 1, 8),
        'pos_embed': embedding,
        'patch_embed.proj.weight': torch.zeros(8, 3, 8, 8),
        'blocks.0.norm1.weight': torch.ones(8),
    }
    registers = 0
    if special == 'reg_token':
        registers = 4
        weights['reg_token'] = torch.zeros(1, registers, 8)
        weights['pos_embed'] = torch.cat(
            (embedding[:, :1], torch.ones(1, 4, 8), embedding[:, 1:]), 1
        )
    torch.save(weights, tmp_path / 'w.pth')
    options = {'init_cfg': {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'w.pth')}}
    loaded = vit((80, 56), pretrained_size=(40, 56), num_registers=registers, **options)
    loaded.init_weights()
    assert_columns(loaded)
    if registers:
        assert torch.equal(loaded.register_tokens, torch.ones(1, 4, 8))


@pytest.mark.parametrize(
    ('grid', 'mode', 'special'), [((7, 5), 'bicubic', 1), ((8, 12), 'bilinear', 3)]
)
def test_resize_pos_embed_is_the_stock_static_method(grid, mode, special):
    embedding = torch.randn(1, special + 4 * 6, 8)
    got, expected = (
        kind.resize_pos_embed(embedding, grid, (4, 6), mode)
        for kind in (MiTAVisionTransformer, VisionTransformer)
    )
    torch.testing.assert_close(got, expected)


def test_segmentors_resume_strictly(tmp_path):
    cfg = {
        'type': 'EncoderDecoder',
        'backbone': {'type': 'MiTAVisionTransformer', 'img_size': (48, 80), **SMALL},
        'decode_head': {
            'type': 'MiTAMaskTransformerHead',
            'in_channels': 8,
            'num_layers': 1,
            'num_classes': 3,
        },
    }
    model, again = MODELS.build(cfg), MODELS.build(cfg)
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    again.load_state_dict(torch.load(tmp_path / 'w.pth'), strict=True)
    old = plain(model.state_dict())  # of before checkpoints said it
    again.load_state_dict(old, strict=True)
    assert torch.equal(again.backbone.pos_embed, model.backbone.pos_embed)
