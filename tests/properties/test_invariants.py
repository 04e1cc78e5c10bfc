"""What holds of MiTA attention whatever its inputs, on every backend."""

import importlib.util
import math
from dataclasses import replace

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from support import oracle
from support.operator_cases import DEVICE, NAMES
from support.property_cases import (
    PLAIN,
    TOLERANCE,
    assert_close,
    cases,
    exact_leaves,
    lay_out,
    with_gradients,
)
from support.property_settings import share

# Values are whole numbers wherever landmarks are given: the choices are the same in each run.
EXACT = {'pooled': st.just(False), 'numbers': st.just(True)}
# About every eighth case goes through the kernels, whose interpreter takes long.
SMALL = {
    'dims': st.sampled_from([3, 16]),
    'batches': st.just(2),
    'heads': st.integers(1, 2),
    'largest': 6,
    'scales': st.none() | st.floats(0.125, 1),
}
# No two scores are equal.
DISTINCT = {'pooled': st.just(False), 'numbers': st.just(False), 'dtypes': (torch.float64,)}
HAS_TRITON = importlib.util.find_spec('triton') is not None


def backends_for(case):
    """Those that take the case; the kernels only if it is small."""
    batch, heads, *_ = case.sizes
    with_kernels = HAS_TRITON and not case.kernels_lack() and batch * heads <= 2
    return (*PLAIN, 'triton') if with_kernels else PLAIN


def run(case, tensors, weights, backend):
    """Output and gradients of leaves with the values of the tensors, in the case's layouts."""
    pairs = zip(tensors, case.layouts, strict=False)
    leaves = [lay_out(each.detach(), layout._replace(repeated=False)) for each, layout in pairs]
    return with_gradients(case.run(leaves, backend), leaves, weights)


def all_clear(case):
    return torch.ones(case.sizes[:3], dtype=torch.bool)


@share(40)
@given(case=cases(**SMALL, **EXACT), data=st.data())
def test_permuting_images_and_heads_permutes_the_results(case, data):
    batch, heads, *_ = case.sizes
    images = data.draw(st.permutations(range(batch)), 'images')
    places = data.draw(st.permutations(range(heads)), 'heads')
    tensors, weights = case.draw(), case.draw_weights(all_clear(case))

    def permute(tensor):
        return None if tensor is None else tensor[images][:, places]

    for backend in backends_for(case):
        expected = [permute(each) for each in run(case, tensors, weights, backend)]
        results = run(case, [permute(each) for each in tensors], permute(weights), backend)
        assert_close(results, expected, TOLERANCE[case.dtype])


@share(40)
@given(case=cases(**SMALL, **EXACT), number=st.integers(-3, 3))
def test_a_constant_added_to_the_values_is_added_to_the_output(case, number):
    query, key, value, *landmarks = tensors = case.draw()
    constant = number + torch.arange(case.sizes[3], device=DEVICE).to(case.dtype) % 3
    moved = query, key, value + constant, *landmarks
    weights = case.draw_weights(all_clear(case))
    for backend in backends_for(case):
        output = run(case, tensors, weights, backend)[0]
        result = run(case, moved, weights, backend)[0]
        assert_close([result], [output + constant], TOLERANCE[case.dtype])


@share(40)
@given(cases(**SMALL))
def test_all_keys_without_the_shared_expert_are_full_attention(case):
    """However many experts hold each key, and whatever the landmarks."""
    topk = case.sizes[2] + case.seed % 3
    case = replace(case, options=case.options | {'topk': topk, 'shared': False})
    tensors, weights = case.draw(), case.draw_weights(all_clear(case))
    exact = exact_leaves(tensors[:3])
    output = oracle.full_attention(*exact, case.options['scale'])
    expected = with_gradients(output, exact, weights.cpu().double())
    for backend in backends_for(case):
        results = with_gradients(case.run(tensors, backend), tensors, weights)
        given_landmarks = [None] * (len(tensors) - 3)  # which get no gradient
        assert_close(results, [*expected, *given_landmarks], TOLERANCE[case.dtype])


@share(20)
@given(
    case=cases(**DISTINCT),
    data=st.data(),
)
def test_the_order_of_keys_does_not_matter(case, data):
    tokens = data.draw(st.permutations(range(case.sizes[2])), 'tokens')
    query, key, value, landmarks = tensors = case.draw()
    _, clear = case.run_oracle(exact_leaves(tensors))
    assume(clear.all())
    weights = case.draw_weights(clear)
    for backend in PLAIN:
        output, *grads = run(case, tensors, weights, backend)
        for place in (1, 2):
            grads[place] = grads[place][:, :, tokens]
        permuted = query, key[:, :, tokens], value[:, :, tokens], landmarks
        results = run(case, permuted, weights, backend)
        assert_close(results, (output, *grads), TOLERANCE[case.dtype])


@share(40)
@given(
    case=cases(**SMALL),
    number=st.sampled_from([math.nan, math.inf, -math.inf]),
    data=st.data(),
)
def test_what_is_not_finite_stays_in_its_image_and_head(case, number, data):
    tensors, weights = case.draw(), case.draw_weights(all_clear(case))
    index = data.draw(st.integers(0, len(tensors) - 1), 'tensor')
    image, head, row, channel = (
        data.draw(st.integers(0, size - 1), 'place') for size in tensors[index].shape
    )
    poisoned = [each.detach().clone() for each in tensors]
    poisoned[index][image, head, row, channel] = number
    others = torch.ones(case.sizes[:2], dtype=torch.bool)
    others[image, head] = False
    for backend in backends_for(case):
        expected, results = (run(case, each, weights, backend) for each in (tensors, poisoned))
        for what, result, wanted in zip(NAMES, results, expected, strict=False):
            if wanted is not None:
                assert torch.equal(result[others], wanted[others]), f'{backend}: {what}'


@share(20)
@given(cases(), st.sampled_from([(0, 2), (2, 0), (0, 0)]))
def test_no_images_or_no_heads_give_empty_results(case, empty):
    case = replace(case, sizes=(*empty, *case.sizes[2:]))
    tensors, weights = case.draw(), case.draw_weights(all_clear(case))
    for backend in ('auto', *backends_for(case)):
        output, *grads = with_gradients(case.run(tensors, backend), tensors, weights)
        assert output.shape == case.sizes and output.dtype == case.dtype
        for grad, tensor in zip(grads, tensors, strict=True):
            assert grad is None or (grad.shape == tensor.shape and grad.dtype == case.dtype)
