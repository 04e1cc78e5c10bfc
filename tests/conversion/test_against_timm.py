"""The converted model computes what timm computes from the same file."""

import numpy as np
import pytest
import torch

from support import conversion_cases as cases

pytest.importorskip('mmseg')

from mita_seg.models import MiTAVisionTransformer


@pytest.fixture(scope='module')
def timm_vit():
    """timm's module of vision transformers."""
    try:
        from timm.models import vision_transformer
    # timm imports torchvision, whose CUDA build raises RuntimeError beside a CPU build of torch.
    except (ImportError, RuntimeError) as error:
        pytest.skip(f'timm cannot be imported: {error}')
    return vision_transformer


OPTIONS = {
    'img_size': cases.PATCH * cases.GRID,
    'patch_size': cases.PATCH,
    'embed_dim': cases.WIDTH,
    'depth': cases.LAYERS,
    'num_heads': cases.HEADS,
}


def randomise(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def assert_same_features(theirs, path, **options):
    """Compare the patches' features of both, in a batch of random images."""
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(path)}
    ours = MiTAVisionTransformer(**{**cases.MODEL, **options}, init_cfg=init_cfg).eval()
    ours.init_weights()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.forward_features(images)[:, theirs.num_prefix_tokens :]
        got = ours(images)[0].flatten(2).mT
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ({}, {}),
        ({'qkv_bias': False}, {'qkv_bias': False}),
        ({'qk_norm': True}, {'attn_cfg': {'type': 'FullAttention', 'qk_norm': True}}),
        ({'pre_norm': True}, {'pre_norm': True, 'patch_bias': False}),
        ({'no_embed_class': True, 'init_values': 1.0}, {}),
        ({'reg_tokens': 4, 'init_values': 1.0}, {'num_registers': 4}),
        ({'reg_tokens': 4, 'no_embed_class': True}, {'num_registers': 4}),
        ({'class_token': False, 'global_pool': 'avg', 'fc_norm': False}, {'with_cls_token': False}),
    ],
)
def test_weights_of_timm(timm_vit, tmp_path, theirs, ours):
    model = timm_vit.VisionTransformer(**OPTIONS, **theirs)
    if 'qk_norm' in theirs:  # ours has torch's epsilon
        for block in model.blocks:
            block.attn.q_norm.eps = block.attn.k_norm.eps = 1e-5
    torch.save(randomise(model).state_dict(), tmp_path / 'timm.pth')
    assert_same_features(model, tmp_path / 'timm.pth', **ours)


def test_distilled_deit(timm_vit, tmp_path):
    from timm.models.deit import VisionTransformerDistilled

    model = randomise(VisionTransformerDistilled(**OPTIONS))
    torch.save({'model': model.state_dict()}, tmp_path / 'deit.pth')
    assert_same_features(model, tmp_path / 'deit.pth', num_registers=1)


def test_jax_file(timm_vit, tmp_path):
    np.savez(tmp_path / 'augreg.npz', **cases.augreg())
    model = timm_vit.VisionTransformer(**OPTIONS, num_classes=10).eval()
    model.load_pretrained(str(tmp_path / 'augreg.npz'))
    assert_same_features(model, tmp_path / 'augreg.npz')


@pytest.mark.parametrize('registers', [0, 4])
def test_dinov2_as_published(timm_vit, tmp_path, registers):
    weights = cases.dinov2(registers)
    torch.save(weights, tmp_path / 'dinov2.pth')
    model = timm_vit.VisionTransformer(
        **OPTIONS,
        num_classes=0,
        init_values=1.0,
        reg_tokens=registers,
        no_embed_class=registers > 0,
    ).eval()
    model.load_state_dict(timm_vit.checkpoint_filter_fn(dict(weights), model))
    assert_same_features(model, tmp_path / 'dinov2.pth', num_registers=registers)
