"""Every layout, converted: values, names and sizes."""

from argparse import Namespace

import pytest
import torch

from mita_seg.conversion import convert, detect_source
from mita_seg.conversion.key_map import our_name
from mita_seg.conversion.position_embedding import resize_position_embedding
from support import conversion_cases as cases
from support.conversion_cases import GRID, HEADS, WIDTH, augreg_tensors, mmseg, ours

CHECKPOINTS = {
    'timm': cases.timm_vit,
    'torch-deit': lambda: {'model': cases.timm_vit()},
    'augreg-npz': augreg_tensors,
    'dino': lambda: {
        'student': {'module.backbone.cls_token': torch.zeros(1)},
        'teacher': {f'backbone.{n}': w for n, w in cases.timm_vit(classifier=False).items()},
    },
    'dinov2': lambda: cases.dinov2(registers=4),
    'mita-deit': lambda: {
        'model': cases.mita_deit(dwc=False),
        'args': Namespace(pool_size=5, kv_topk=5),
    },
    'mmseg': lambda: {'state_dict': mmseg()},
    'mita_seg': lambda: {'state_dict': ours()},
}


@pytest.mark.parametrize('source', CHECKPOINTS)
def test_every_layout_is_told_apart_and_no_name_is_lost(source):
    checkpoint = CHECKPOINTS[source]()
    assert detect_source(checkpoint) == source
    conversion = convert(checkpoint)
    for key in ('model', 'state_dict', 'teacher'):
        checkpoint = checkpoint.get(key, checkpoint)
    used = {name for names in conversion.origins.values() for name in names}
    assert used | conversion.unused.keys() == checkpoint.keys()
    assert used.isdisjoint(conversion.unused)
    assert conversion.origins.keys() == conversion.weights.keys()
    assert not conversion.missing and not conversion.foreign
    if source == 'dino':
        assert conversion.left_aside == ['student']
    heads = {name for name in checkpoint if 'head' in name or 'pre_logits' in name}
    assert conversion.unused.keys() == heads | (checkpoint.keys() & {'mask_token'})


def test_authors_weights_are_recognised_by_dwc_or_gate_too():
    assert detect_source(cases.mita_deit()) == 'mita-deit'
    assert detect_source(cases.mita_deit(dwc=False, gate=True)) == 'mita-deit'


def test_names_of_distributed_training_are_bared_and_reported_as_they_are():
    weights = {f'module.{name}': value for name, value in cases.timm_vit().items()}
    conversion = convert(weights)
    assert conversion.origins['ln1.weight'] == ('module.norm.weight',)
    assert 'module.head.bias' in conversion.unused


def test_values_of_timm_stay_bit_for_bit():
    weights = cases.timm_vit()
    converted = convert(weights).weights
    for name, value in weights.items():
        if not name.startswith('head.'):
            assert torch.equal(converted[our_name(name)], value), name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_stay(dtype):
    weights = {name: value.to(dtype) for name, value in cases.dinov2(registers=2).items()}
    assert {value.dtype for value in convert(weights).weights.values()} == {dtype}


def test_jax_kernels_compute_the_same_in_torchs_layout():
    source = augreg_tensors()
    converted = convert(source).weights
    block, x = 'Transformer/encoderblock_1/', torch.randn(5, WIDTH)
    attention = block + 'MultiHeadDotProductAttention_1/'
    projected = [
        torch.einsum('nc,chd->nhd', x, source[f'{attention}{part}/kernel'])
        + source[f'{attention}{part}/bias']
        for part in ('query', 'key', 'value')
    ]
    qkv = torch.nn.functional.linear(
        x, converted['layers.1.attn.qkv.weight'], converted['layers.1.attn.qkv.bias']
    ).unflatten(-1, (3, HEADS, WIDTH // HEADS))
    torch.testing.assert_close(qkv, torch.stack(projected, 1))
    out = torch.einsum('nhd,hdc->nc', projected[2], source[f'{attention}out/kernel'])
    torch.testing.assert_close(
        projected[2].flatten(1) @ converted['layers.1.attn.proj.weight'].T, out
    )
    hidden = x @ source[f'{block}MlpBlock_3/Dense_0/kernel']
    torch.testing.assert_close(x @ converted['layers.1.ffn.layers.0.0.weight'].T, hidden)
    image = torch.randn(1, cases.PATCH, cases.PATCH, 3)
    patch = torch.einsum('nhwc,hwcd->nd', image, source['embedding/kernel'])
    embedded = (converted['patch_embed.projection.weight'] * image.permute(0, 3, 1, 2)).sum(
        (1, 2, 3)
    )
    torch.testing.assert_close(embedded, patch[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(converted['patch_embed.projection.bias'], source['embedding/bias'])
    assert convert(source).settings['num_heads'] == HEADS
    assert torch.equal(converted['layers.1.ln2.weight'], source[f'{block}LayerNorm_2/scale'])


@pytest.mark.parametrize('dwc', [True, False])
def test_gate_is_the_last_quarter_and_said_to_be_unconfirmed(dwc):
    source = cases.mita_deit(dwc=dwc, gate=True)
    conversion = convert({'model': source})
    joined = source['blocks.1.attn.qkvg.weight']
    assert torch.equal(conversion.weights['layers.1.attn.qkv.weight'], joined[: 3 * WIDTH])
    assert torch.equal(conversion.weights['layers.1.attn.gate.weight'], joined[3 * WIDTH :])
    assert any('nothing confirms' in note for note in conversion.notes)
    assert conversion.settings['attn_cfg']['gate'] is True
    assert conversion.settings['attn_cfg'].get('dwc', False) is dwc


def test_authors_weights_call_for_the_authors_arithmetic():
    conversion = convert({'model': cases.mita_deit()})
    assert conversion.settings['attn_cfg'] == {
        'type': 'MiTAAttention',
        'dwc': True,
        'landmarks': (5, 5),
        'topk': 25,
        'landmark_scale': 'inverse_dim',
        'pooled_tokens': 'all_but_last',
    }


@pytest.mark.parametrize('names', ['ls{}.gamma', 'gamma_{}'])
def test_layer_scale_is_folded_into_the_last_linear_layer_of_the_branch(names):
    source = {name: w.double() for name, w in cases.timm_vit(layer_scale=names).items()}
    conversion = convert(source)
    for branch, theirs, width in ((1, 'attn.proj', WIDTH), (2, 'mlp.fc2', 4 * WIDTH)):
        theirs, x = f'blocks.1.{theirs}', torch.randn(3, width, dtype=torch.float64)
        gamma = source['blocks.1.' + names.format(branch)]
        expected = gamma * (x @ source[f'{theirs}.weight'].T + source[f'{theirs}.bias'])
        own = our_name(f'{theirs}.')
        got = x @ conversion.weights[f'{own}weight'].T + conversion.weights[f'{own}bias']
        torch.testing.assert_close(got, expected)
    (note,) = conversion.notes
    assert 'LayerScale of 4 branches' in note and 'cannot be taken out' in note


@pytest.mark.parametrize('make', [cases.timm_vit, mmseg])
def test_position_embedding_is_resized_to_the_image(make):
    source = make()
    conversion = convert(source, img_size=(48, 24))
    expected = resize_position_embedding(source['pos_embed'], (GRID, GRID), (6, 3))
    assert torch.equal(conversion.weights['pos_embed'], expected)
    assert conversion.settings['img_size'] == (48, 24)
    assert any('from 16 patches to 6x3' in note for note in conversion.notes)
    assert convert(source, img_size=(32, 32)).notes == []


def test_grid_of_as_many_patches_is_a_guess_that_is_told_and_an_argument_settles_it():
    source = mmseg()  # 4x4 patches
    guess = convert(source, img_size=(16, 64))
    assert torch.equal(guess.weights['pos_embed'], source['pos_embed'])
    (note,) = guess.notes
    assert '16 patches does not say its grid and is taken for 2x8' in note
    told = convert(source, img_size=(16, 64), pretrained_size=(32, 32))
    expected = resize_position_embedding(source['pos_embed'], (GRID, GRID), (2, 8))
    assert torch.equal(told.weights['pos_embed'], expected)
    again = convert(told.weights, img_size=(32, 32))  # they say it themselves now
    expected = resize_position_embedding(expected, (2, 8), (GRID, GRID))
    assert torch.equal(again.weights['pos_embed'], expected)
    assert again.settings['img_size'] == (32, 32)


def test_what_is_missing_is_named_with_what_it_means():
    weights = cases.timm_vit()
    for name in (
        'patch_embed.proj.bias',
        'norm.bias',
        'blocks.1.attn.qkv.bias',
        'blocks.0.norm2.bias',
    ):
        del weights[name]
    assert convert(weights).missing == {
        'patch_embed.projection.bias': 'fits a model with patch_bias=False',
        'layers.1.attn.qkv.bias': 'fits a model with qkv_bias=False',
        'layers.0.ln2.bias': 'a model keeps its initial value',
        'ln1.bias': 'fits a model with final_norm=False',
    }


def test_unknown_weights_are_kept_and_named():
    weights = cases.timm_vit() | {'blocks.0.attn.bias_table': torch.ones(3)}
    conversion = convert(weights)
    assert conversion.foreign == ['layers.0.attn.bias_table']
    assert torch.equal(conversion.weights['layers.0.attn.bias_table'], torch.ones(3))
