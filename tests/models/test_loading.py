"""Weights of MMSegmentation and timm in our models, through every way of loading."""

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import MODELS

from mita_seg.conversion.key_map import our_name, rename_keys
from mita_seg.models import MiTAVisionTransformer
from mita_seg.models import pretrained as pretrained_module

SMALL = {
    'img_size': (64, 64),
    'embed_dims': 32,
    'num_layers': 2,
    'num_heads': 2,
    'final_norm': True,
}
MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 5}


def segmentor(kind):
    ours = kind == 'ours'
    head = {'in_channels': 32, 'channels': 32, 'num_classes': 4, 'num_layers': 1, 'num_heads': 2}
    backbone = {'type': 'VisionTransformer', 'patch_bias': True, **SMALL}
    decode_head = {'type': 'SegmenterMaskTransformerHead', 'embed_dims': 32, **head}
    if ours:
        backbone.update(type='MiTAVisionTransformer', attn_cfg=MITA)
        decode_head.update(type='MiTAMaskTransformerHead', attn_cfg=MITA)
    return MODELS.build(
        {
            'type': 'mmseg.EncoderDecoder',
            'data_preprocessor': {'type': 'mmseg.SegDataPreProcessor'},
            'backbone': backbone,
            'decode_head': decode_head,
        }
    )


@pytest.fixture
def timm_weights():
    """A ViT-shaped state dict under timm's names, with a classifier."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    weights = {
        'cls_token': draw(1, 1, 32),
        'pos_embed': draw(1, 17, 32),
        'patch_embed.proj.weight': draw(32, 3, 16, 16),
        'patch_embed.proj.bias': draw(32),
        'norm.weight': draw(32),
        'norm.bias': draw(32),
        'head.weight': draw(10, 32),
        'head.bias': draw(10),
    }
    shapes = {
        'norm1': (32,),
        'attn.qkv': (96, 32),
        'attn.proj': (32, 32),
        'norm2': (32,),
        'mlp.fc1': (128, 32),
        'mlp.fc2': (32, 128),
    }
    for i in range(2):
        for name, shape in shapes.items():
            weights[f'blocks.{i}.{name}.weight'] = draw(*shape)
            weights[f'blocks.{i}.{name}.bias'] = draw(shape[0])
    return weights


def pretrained(weights, tmp_path, **options):
    path = tmp_path / 'weights.pth'
    torch.save(weights, path)
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(path)}
    model = MiTAVisionTransformer(**{**SMALL, **options}, attn_cfg=MITA, init_cfg=init_cfg)
    model.init_weights()
    return model


@pytest.fixture
def messages(monkeypatch):
    """What loading logs; MMEngine's loggers do not propagate to pytest's."""
    logged = []
    monkeypatch.setattr(pretrained_module, 'print_log', lambda text, **_: logged.append(text))
    return logged


@pytest.mark.parametrize('wrap', [lambda model: model, torch.nn.DataParallel])
def test_stock_segmentor_loads_strictly(wrap):
    stock, ours = segmentor('stock'), segmentor('ours')
    weights = stock.state_dict()
    names = list(weights)
    ours.load_state_dict(weights, strict=True)
    load_state_dict(wrap(segmentor('ours')), weights, strict=True)
    assert list(weights) == names  # the caller's dict is left alone
    torch.testing.assert_close(
        ours.backbone.layers[1].attn.qkv.weight, stock.backbone.layers[1].attn.attn.in_proj_weight
    )
    torch.testing.assert_close(
        ours.decode_head.layers[0].attn.proj.bias,
        stock.decode_head.layers[0].attn.attn.out_proj.bias,
    )


@pytest.mark.parametrize('key', [None, 'state_dict', 'model'])
def test_timm_weights_load_completely(timm_weights, tmp_path, messages, key):
    model = pretrained({key: timm_weights} if key else timm_weights, tmp_path)
    assert messages == []
    loaded = model.state_dict()
    for name, value in timm_weights.items():
        if not name.startswith('head.'):
            assert torch.equal(loaded[our_name(name)], value), name
    assert torch.equal(model.patch_embed.projection.bias, timm_weights['patch_embed.proj.bias'])


def test_weights_of_a_segmentor_load_into_a_backbone(tmp_path):
    source = segmentor('stock')
    model = pretrained({'state_dict': source.state_dict()}, tmp_path)
    assert torch.equal(model.cls_token, source.backbone.cls_token)


def test_part_of_a_checkpoint(timm_weights, tmp_path):
    weights = {f'image_encoder.{name}': value for name, value in timm_weights.items()}
    path = tmp_path / 'weights.pth'
    torch.save(weights, path)
    init_cfg = {'type': 'Pretrained_Part', 'checkpoint': str(path)}
    model = MiTAVisionTransformer(**SMALL, attn_cfg=MITA, init_cfg=init_cfg)
    model.init_weights()
    assert torch.equal(model.cls_token, timm_weights['cls_token'])


def test_what_does_not_match_is_listed_in_one_message(timm_weights, tmp_path, messages):
    del timm_weights['norm.bias']
    timm_weights['blocks.0.attn.relative_position'] = torch.zeros(3)
    pretrained(timm_weights, tmp_path)
    (message,) = messages
    assert 'Missing: ln1.bias. Unexpected: layers.0.attn.relative_position.' in message
    assert 'weights.pth' in message


def test_position_embedding_is_resized_by_every_loader(timm_weights, tmp_path):
    model = pretrained(timm_weights, tmp_path, img_size=(96, 32))
    assert model.pos_embed.shape == (1, 1 + 6 * 2, 32)
    assert torch.equal(model.pos_embed[:, 0], timm_weights['pos_embed'][:, 0])
    again = MiTAVisionTransformer(**{**SMALL, 'img_size': (96, 32)})
    timm_weights = {n: w for n, w in timm_weights.items() if not n.startswith('head.')}
    again.load_state_dict(timm_weights, strict=True)
    assert torch.equal(again.pos_embed, model.pos_embed)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda w: w.update({'blocks.0.attn.qkv.weight': torch.zeros(96, 48)}), 'attn.qkv.weight'),
        (lambda w: w.update(pos_embed=torch.zeros(1, 15, 32)), 'not for a square grid'),
        (lambda w: w.update(pos_embed=torch.zeros(1, 17, 48)), 'pos_embed'),
    ],
)
def test_weights_of_another_shape_are_refused_with_the_file(
    timm_weights, tmp_path, damage, message
):
    damage(timm_weights)
    with pytest.raises(ValueError, match=message):
        pretrained(timm_weights, tmp_path)


def test_truncated_and_missing_files_are_refused_with_their_name(timm_weights, tmp_path):
    path = tmp_path / 'cut.pth'
    torch.save(timm_weights, path)
    path.write_bytes(path.read_bytes()[:5000])
    for checkpoint, error in ((path, ValueError), (tmp_path / 'none.pth', FileNotFoundError)):
        model = MiTAVisionTransformer(
            **SMALL, init_cfg={'type': 'Pretrained', 'checkpoint': str(checkpoint)}
        )
        with pytest.raises(error, match=checkpoint.name):
            model.init_weights()


def test_renaming_is_idempotent():
    names = ['layers.0.attn.attn.in_proj_weight', 'blocks.11.mlp.fc2.bias', 'norm.weight']
    for name in names:
        assert our_name(our_name(name)) == our_name(name) != name


def test_renaming_leaves_the_source_other_models_and_the_models_own_names_alone():
    source = {
        'backbone.blocks.0.attn.qkv.weight': torch.ones(1),
        'teacher.blocks.0.attn.qkv.weight': torch.ones(1),
        'backbone.layers.0.attn.attn.in_proj_weight': torch.ones(1),
    }
    names = list(source)
    own = {'backbone.layers.0.attn.attn.in_proj_weight'}  # an attention of the user
    renamed = rename_keys(source, 'backbone.', own)
    assert list(renamed) == ['backbone.layers.0.attn.qkv.weight', *names[1:]]
    assert list(source) == names


def test_what_a_checkpoint_lacks_is_initialised(timm_weights, tmp_path):
    del timm_weights['patch_embed.proj.bias']
    model = pretrained(timm_weights, tmp_path)
    assert not model.patch_embed.projection.bias.any()


def test_a_file_with_no_weight_of_the_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match='weights.pth.*no weight of the model'):
        pretrained({'conv1.weight': torch.zeros(3)}, tmp_path)
