"""Registers of the backbone: tokens between the class token and the patches."""

import pytest
import torch

pytest.importorskip('mmseg')

from mita_seg.models import MiTAVisionTransformer

SMALL = {'img_size': 32, 'patch_size': 8, 'embed_dims': 32, 'num_layers': 2, 'num_heads': 2}
MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 5}


@pytest.mark.parametrize('with_cls_token', [True, False])
def test_attention_is_told_where_the_patches_start(with_cls_token):
    model = MiTAVisionTransformer(**SMALL, num_registers=3, with_cls_token=with_cls_token)
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x, grid, start):
            seen.append((x.shape[1], tuple(grid), start))
            return x

    for layer in model.layers:
        layer.attn = Recorder()
    (patches,) = model(torch.randn(1, 3, 32, 48))
    start = 3 + with_cls_token
    assert seen == [(start + 24, (4, 6), start)] * 2
    assert patches.shape == (1, 32, 4, 6)


def test_registers_come_after_the_class_token_without_a_position():
    model = MiTAVisionTransformer(**SMALL, num_registers=2, attn_cfg=MITA).eval()
    model.init_weights()
    tokens = []
    model.layers[0].register_forward_pre_hook(lambda _, arguments: tokens.append(arguments[0]))
    model(torch.randn(2, 3, 32, 32))
    assert torch.equal(
        tokens[0][:, :1], (model.cls_token + model.pos_embed[:, :1]).expand(2, 1, 32)
    )
    assert torch.equal(tokens[0][:, 1:3], model.register_tokens.expand(2, 2, 32))


def test_registers_act_on_the_patches_and_are_trained():
    model = MiTAVisionTransformer(**SMALL, num_registers=2, attn_cfg=MITA)
    model.init_weights()
    images = torch.randn(1, 3, 32, 48)
    (patches,) = model(images)
    patches.square().sum().backward()
    assert model.register_tokens.grad.abs().amax(-1).all()
    with torch.no_grad():
        model.register_tokens.normal_()
    assert not torch.allclose(model(images)[0], patches)


def test_a_model_without_registers_has_no_such_parameter():
    assert 'register_tokens' not in MiTAVisionTransformer(**SMALL).state_dict()


@pytest.mark.parametrize('value', [-1, 2.0, True])
def test_bad_number_of_registers_is_refused(value):
    with pytest.raises(
        ValueError, match=f'num_registers must be an int of at least 0, got {value}'
    ):
        MiTAVisionTransformer(num_registers=value)
