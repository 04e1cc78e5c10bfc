"""Whatever its options, the layer computes the definition, in outputs and all gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mita_seg.layers import FullAttention, MiTAAttention
from support import oracle
from support.layer_oracle import attend_in_layer
from support.operator_cases import DEVICE
from support.property_cases import (
    PLAIN,
    TOLERANCE,
    assert_close,
    exact_leaves,
    exporting,
    lay_out,
    layouts,
    maps,
    numbers_of_keys,
    with_gradients,
)
from support.property_settings import share

# Of a score, relative to the sum of the sizes of its products: the projections round too.
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-4}


@st.composite
def layers(draw, dims=(4, 5, 6, 3), dtypes=(torch.float64, torch.float32), largest=12):
    """Settings of a layer, and sizes of its input."""
    grid, num_landmarks = draw(maps(largest - 2)), draw(maps(largest // 2))
    all_but_last = draw(st.sampled_from([False, False, True]))
    start, after = (1, 0) if all_but_last else (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    tokens = start + grid[0] * grid[1] + after
    shared, heads = draw(st.sampled_from([True, False, True])), draw(st.integers(1, 3))
    common = {name: draw(st.booleans()) for name in ('qkv_bias', 'qk_norm', 'dwc', 'gate')}
    mita = {
        'landmarks': num_landmarks,
        'topk': draw(numbers_of_keys(tokens, shared)),
        'num_routed': draw(st.just(1) | st.integers(1, num_landmarks[0] * num_landmarks[1])),
        'shared': shared,
        'landmark_scale': draw(st.sampled_from(['scale', 'inverse_dim', 0.3])),
        'shared_offset': draw(st.sampled_from([0.0, -2.0])),
        'remainder': False,
        'kmeans_steps': draw(st.sampled_from([None, None, 0, 1, 2])),
        'pooled_tokens': 'all_but_last' if all_but_last else 'patches',
    }
    if draw(st.sampled_from([False, False, False, True])):
        topk = max(mita['topk'], 1)
        mita |= {'topk': topk, 'num_routed': 1, 'shared': False, 'remainder': True}
    return {
        'batch': draw(st.sampled_from([2, 1, 2, 1, 0])),
        'tokens': tokens,
        'channels': heads * draw(st.sampled_from(dims)),
        'heads': heads,
        'grid': grid,
        'start': start,
        'layout': draw(layouts(dimensions=3)),
        'dtype': draw(st.sampled_from(dtypes)),
        'seed': draw(st.integers(0, 2**16)),
        'common': common,
        'mita': mita,
    }


def build(kind, case, backend=None):
    """A layer with random parameters; its attention is far from uniform."""
    options = case['common'] | (case['mita'] | {'backend': backend} if backend else {})
    layer = kind(case['channels'], case['heads'], **options).to(DEVICE, case['dtype'])
    generator = torch.Generator().manual_seed(case['seed'])
    with torch.no_grad():
        for parameter in layer.parameters():
            size = 1.5 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
        for norm in filter(None, (layer.q_norm, layer.k_norm)):
            norm.weight.add_(1)
    return layer


def assert_layer_equals_oracle(kind, case, backends):
    generator = torch.Generator().manual_seed(case['seed'] + 1)
    shape = case['batch'], case['tokens'], case['channels']
    values, weights = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    x = lay_out(values.to(case['dtype']), case['layout'])

    names, parameters = zip(*build(kind, case, backends[0]).named_parameters(), strict=True)
    exact = exact_leaves([x, *parameters])
    clear = torch.ones(shape[:2], dtype=torch.bool)

    def mix(query, key, value):
        nonlocal clear
        settings = case['mita']
        if kind is FullAttention:
            return oracle.full_attention(query, key, value)
        start = case['start'] if settings['pooled_tokens'] == 'patches' else 0
        landmarks = oracle.pool(query, case['grid'], settings['landmarks'], start)
        topk, num_routed = settings['topk'], settings['num_routed']
        rounding, sure = ROUNDING[case['dtype']], True
        if settings['kmeans_steps'] is not None:
            patches = query[:, :, start : start + case['grid'][0] * case['grid'][1]]
            landmarks, sure = oracle.cluster(patches, landmarks, settings['kmeans_steps'], rounding)
        clear = oracle.clear_queries(query, key, landmarks, topk, num_routed, rounding)
        clear = (clear & torch.as_tensor(sure).unsqueeze(-1)).all(1)
        scale = settings['landmark_scale']
        scale = {'scale': None, 'inverse_dim': 1 / query.shape[-1]}.get(scale, scale)
        return oracle.attend(
            query, key, value, landmarks,
            topk=topk, num_routed=num_routed, landmark_scale=scale, shared=settings['shared'],
            shared_offset=settings['shared_offset'], remainder=settings['remainder'],
        )  # fmt: skip

    named = dict(zip(names, exact[1:], strict=True))
    output = attend_in_layer(named, exact[0], case['grid'], case['start'], case['heads'], mix)
    clear = clear.unsqueeze(-1)
    weights = weights * clear
    expected = with_gradients(output * clear, exact, weights)
    for backend in backends:
        layer = build(kind, case, 'auto' if backend == 'exported' else backend)
        with exporting(backend == 'exported'):
            output = layer(x, case['grid'], case['start'])
        leaves = [x, *layer.parameters()]
        output, *grads = with_gradients(output, leaves, weights.to(output))
        results = (torch.where(clear.to(DEVICE), output, 0), *grads)
        try:
            assert_close(results, expected, TOLERANCE[case['dtype']], ('output', 'x', *names))
        except AssertionError as error:
            raise AssertionError(f'{backend}: {error}') from None


@share(220)
@given(layers())
def test_mita_attention_computes_the_definition(case):
    without = {'masked'} if case['mita']['remainder'] else set()
    assert_layer_equals_oracle(MiTAAttention, case, [each for each in PLAIN if each not in without])


@pytest.mark.slow
@share(20)
@given(layers(dims=(16,), dtypes=(torch.float32,), largest=8))
def test_mita_attention_with_the_kernels_computes_the_definition(case):
    pytest.importorskip('triton')
    assert_layer_equals_oracle(MiTAAttention, case, ['triton'])


@share(20)
@given(layers())
def test_full_attention_computes_the_definition(case):
    assert_layer_equals_oracle(FullAttention, case, [None])
