"""Offsets of the shared expert that bring a layer nearest to full attention."""

import pytest
import torch
from torch import nn

from mita_seg.finetuning import best_offsets, observe_offsets
from mita_seg.layers import FullAttention, MiTAAttention

GRID, OFFSETS = (6, 7), (-2.0, 0.0, 1.5)


class Model(nn.Module):
    def __init__(self, kind=MiTAAttention, **options):
        super().__init__()
        self.layers = nn.ModuleList(kind(16, 2, **options) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(3 * x, GRID, 0)
        return x


MITA = {'landmarks': (2, 2), 'topk': 3}


@pytest.mark.parametrize('own', [0.0, 0.7])
def test_errors_are_those_of_layers_with_these_offsets(own):
    model = Model(**MITA, shared_offset=own)
    full = Model(FullAttention)
    full.load_state_dict(model.state_dict())
    x = torch.randn(2, 42, 16)
    noted = []
    for layer in full.layers:
        attend = layer.attend
        layer.attend = lambda *a, attend=attend: noted.append(a) or attend(*a)
    expected = full(x)
    with observe_offsets(model, OFFSETS) as collected:
        torch.testing.assert_close(model(x), expected)
    found = best_offsets(collected, OFFSETS)
    for layer, arguments, name in zip(model.layers, noted, found, strict=True):
        target = FullAttention.attend(layer, *arguments)
        errors = []
        for offset in (own, *OFFSETS):
            layer.shared_offset = offset
            output = layer.attend(*arguments)
            errors.append((output - target).square().sum() / target.square().sum())
        torch.testing.assert_close(collected[name][0], torch.stack(errors), atol=1e-4, rtol=1e-3)
        assert found[name].error == pytest.approx(min(errors[1:]).item(), rel=1e-3)
        assert found[name].error_before == pytest.approx(errors[0].item(), rel=1e-3)
        assert found[name].offset in OFFSETS


@pytest.mark.parametrize('options', [{'topk': 0}, {'shared': False}])
def test_where_an_offset_changes_nothing_there_is_none(options):
    with pytest.raises(ValueError, match='with a shared and with routed experts'):
        observe_offsets(Model(**{**MITA, **options}))
