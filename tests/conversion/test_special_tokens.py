"""Class token, registers and distillation token, and their entries in the position embedding."""

import pytest
import torch

from mita_seg.conversion import convert
from support import conversion_cases as cases
from support.conversion_cases import GRID, WIDTH


def test_registers_of_dinov2_have_no_position_and_stay():
    source = cases.dinov2(registers=4)
    converted = convert(source).weights
    for name in ('register_tokens', 'cls_token', 'pos_embed'):
        assert torch.equal(converted[name], source[name])


@pytest.mark.parametrize('entries', [0, 5])
def test_registers_of_timm_with_and_without_a_position(entries):
    source = cases.timm_vit(entries=entries) | {'reg_token': torch.randn(1, 4, WIDTH)}
    converted = convert(source).weights
    position = source['pos_embed']
    special = position[:, :5] if entries else torch.zeros(1, 5, WIDTH)
    assert torch.equal(converted['pos_embed'][:, :1], special[:, :1])
    assert torch.equal(converted['pos_embed'][:, 1:], position[:, entries:])
    assert torch.equal(converted['register_tokens'], source['reg_token'] + special[:, 1:])


def test_distillation_token_becomes_a_register():
    source = cases.timm_vit(entries=2) | {'dist_token': torch.randn(1, 1, WIDTH)}
    conversion = convert(source)
    position = source['pos_embed']
    expected = source['dist_token'] + position[:, 1:2]
    assert torch.equal(conversion.weights['register_tokens'], expected)
    assert torch.equal(conversion.weights['pos_embed'][:, 1:], position[:, 2:])
    assert conversion.settings['num_registers'] == 1


def test_no_class_token():
    source = cases.timm_vit(entries=0)
    del source['cls_token']
    conversion = convert(source)
    assert conversion.weights['pos_embed'].shape == (1, 1 + GRID**2, WIDTH)
    assert not conversion.weights['pos_embed'][:, 0].any()
    assert conversion.settings['with_cls_token'] is False
    assert conversion.missing == {'cls_token': 'fits a model with with_cls_token=False'}


def test_position_embedding_of_another_than_a_square_grid_stays():
    source = cases.timm_vit() | {'pos_embed': torch.randn(1, 1 + 2 * 5, WIDTH)}
    assert torch.equal(convert(source).weights['pos_embed'], source['pos_embed'])
