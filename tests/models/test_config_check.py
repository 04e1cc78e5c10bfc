"""Attention settings are checked before a model is built, and say what is wrong when one is."""

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

import mita_seg.models  # noqa: F401
from mita_seg.layers import Attention, FullAttention, MiTAAttention
from mita_seg.models import build_attention
from mita_seg.models.config_check import check_attention_configs

SWAPPED = 'mita_seg.models.build_swapped'
TOPKK = r"MiTAAttention has no option 'topkk' \(did you mean 'topk'\?\); it has .*landmarks, topk, "


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


class Plain(nn.Module):
    """Not derived from ours."""

    def __init__(self, embed_dims, num_heads, window=3):
        super().__init__()


class Forwarding(Attention):
    """Takes an option of its own out of the others."""

    def __init__(self, *args, **kwargs):
        self.window = kwargs.pop('window', 3)
        super().__init__(*args, **kwargs)


def vit(**options):
    return {'backbone': {'type': 'MiTAVisionTransformer', 'num_layers': 2, **options}}


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        (vit(attn_cfg={'type': 'MiTAAttention', 'topkk': 3}), TypeError, TOPKK),
        (
            vit(attn_cfg=[{'type': 'FullAttention'}, {'type': 'FullAttention', 'topk': 3}]),
            TypeError,
            r"^model.backbone.attn_cfg\[1\]: FullAttention has no option 'topk'; it has embed_dims",
        ),
        (
            vit(attn_cfg={'type': 'MiTAAttention', 'landmarks': 6}),
            TypeError,
            '^model.backbone.attn_cfg: landmarks must be two ints',
        ),
        (
            vit(attn_cfg={'type': 'MiTAAttention', 'remainder': True}),
            ValueError,
            '^model.backbone.attn_cfg: shared must be False with remainder=True',
        ),
        (
            {'decode_head': [{'type': 'MiTAMaskTransformerHead', 'attn_cfg': {}}]},
            ValueError,
            r'^model.decode_head\[0\].attn_cfg must have the type .*known: FullAtt.*got None',
        ),
        (
            {'type': SWAPPED, 'attn_cfg': {'topkk': 3}},
            TypeError,
            rf'^model.attn_cfg: {TOPKK}',
        ),
        (
            {'type': SWAPPED, 'attn_cfg': {'dwc': True}},
            ValueError,
            '^model.attn_cfg: attn_cfg must add no parameters',
        ),
        (
            {'neck': {'type': 'Other', 'attn_cfg': {'type': FullAttention, 'gates': True}}},
            TypeError,
            r"^model.neck.attn_cfg: FullAttention has no option 'gates' \(did you mean 'gate'\?\)",
        ),
        (
            vit(attn_cfg={'type': Plain, 'windw': 3}),
            TypeError,
            r"Plain has no option 'windw' \(did you mean 'window'\?\); it has embed_dims, ",
        ),
    ],
)
def test_a_slip_is_named_with_its_place(config, error, message):
    for kind in (dict, lambda cfg: Config(cfg)._cfg_dict):
        with pytest.raises(error, match=message):
            check_attention_configs(kind(config))


@pytest.mark.parametrize(
    'config',
    [
        None,
        vit(),
        vit(attn_cfg=None),
        vit(attn_cfg={'type': 'MiTAAttention', 'num_heads': 2, 'topk': 3, '_scope_': 'mmseg'}),
        vit(attn_cfg={'type': 'MiTAAttention', 'shared': False, 'remainder': True}),
        vit(attn_cfg={'type': Forwarding, 'window': 5}),
        {'backbone': {'type': 'VisionTransformer', 'attn_cfg': {'anything': 1}}},
        {'type': SWAPPED, 'segmentor': 'EncoderDecoder', 'attn_cfg': {'topk': 3}},
    ],
)
def test_what_can_be_built_passes(config):
    check_attention_configs(config)


def test_building_names_the_slip_and_what_was_meant():
    small = {'embed_dims': 8, 'num_heads': 2}
    with pytest.raises(TypeError, match=f'^attn_cfg: {TOPKK}'):
        build_attention({'type': 'MiTAAttention', 'topkk': 3}, **small)
    with pytest.raises(TypeError, match=TOPKK):
        MODELS.build({'type': 'MiTAAttention', **small, 'topkk': 3})
    with pytest.raises(TypeError, match=TOPKK):
        MiTAAttention(8, 2, topkk=3)
    with pytest.raises(TypeError, match=TOPKK):
        MODELS.build(vit(attn_cfg={'type': 'MiTAAttention', 'topkk': 3})['backbone'])


def test_an_attention_of_the_user_may_have_options_of_its_own():
    small = {'embed_dims': 8, 'num_heads': 2}
    assert build_attention({'type': Forwarding, 'window': 5}, **small).window == 5
    with pytest.raises(TypeError, match="Forwarding has no option 'other'; it has embed_dims"):
        build_attention({'type': Forwarding, 'window': 5, 'other': 5}, **small)
