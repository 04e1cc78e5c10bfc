"""A config that evaluates a checkpoint with another attention is told apart by the checkpoint."""

import pytest

pytest.importorskip('mmengine')

from mmengine.config import Config

from mita_seg.checkpoint.trained_attention import describe_other_attention

FULL, MITA = ({'type': name} for name in ('FullAttention', 'MiTAAttention'))
STOCK = {'backbone': {'type': 'VisionTransformer'}, 'decode_head': {'type': 'FCNHead'}}


def ours(backbone, decode_head):
    return {
        'type': 'EncoderDecoder',
        'backbone': {'type': 'MiTAVisionTransformer', 'attn_cfg': backbone},
        'decode_head': {'type': 'MiTAMaskTransformerHead', 'attn_cfg': decode_head},
    }


def describe(trained, evaluated):
    text = Config({'model': trained, 'crop_size': (4, 4)}).pretty_text
    return describe_other_attention({'meta': {'cfg': text}}, Config({'model': evaluated}))


def test_parts_that_differ_are_named():
    said = describe(ours(FULL, FULL), ours(FULL, {**MITA, 'topk': 4}))
    assert said.endswith('(decode_head: FullAttention, now MiTAAttention)')
    said = describe(ours([MITA, FULL], None), ours(FULL, FULL))
    assert 'backbone: MiTAAttention and FullAttention, now FullAttention; decode_head: Mi' in said


def test_swapped_models_and_stock_ones_are_known():
    swapped = {**STOCK, 'type': 'mita_seg.models.build_swapped', 'attn_cfg': {'topk': 4}}
    assert 'backbone: FullAttention, now MiTAAttention' in describe(STOCK, swapped)
    assert 'backbone: MiTAAttention, now FullAttention' in describe(swapped, STOCK)


@pytest.mark.parametrize(
    ('trained', 'evaluated'),
    [
        (ours(FULL, MITA), ours(FULL, MITA)),
        (ours(FULL, None), ours(FULL, MITA)),  # MiTA is the default
        (STOCK, ours(FULL, FULL)),
        (ours(FULL, {**MITA, 'topk': 4}), ours(FULL, {**MITA, 'topk': 8})),
    ],
)
def test_nothing_is_said_of_the_same_attention(trained, evaluated):
    assert describe(trained, evaluated) is None


@pytest.mark.parametrize(
    'meta', [None, {}, {'cfg': 3}, {'cfg': 'model = ('}, {'cfg': 'model = open("x", "w")'}]
)
def test_nothing_is_said_or_run_where_training_is_unknown(meta, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluated = Config({'model': ours(FULL, FULL)})
    assert describe_other_attention({'meta': meta}, evaluated) is None
    assert not list(tmp_path.iterdir())
