"""The tiled backend against the reference: outputs, gradients, awkward inputs."""

import pytest
import torch

from mita_seg.ops import mita_attention, route_queries, select_experts
from mita_seg.ops.tiled import tile_routes
from support.operator_cases import CASES, gradients, make_inputs


def assert_backends_agree(tensors, atol=1e-11, **arguments):
    results = [
        mita_attention(*tensors, **arguments, backend=backend) for backend in ('reference', 'tiled')
    ]
    torch.testing.assert_close(results[1], results[0], atol=atol, rtol=0)
    for name, expected, grad in zip(
        ('query', 'key', 'value', 'landmarks'),
        *(gradients(result, tensors) for result in results),
        strict=True,
    ):
        if expected is None or grad is None:
            assert not any(g is not None and g.any() for g in (expected, grad)), name
        else:
            torch.testing.assert_close(
                grad, expected, atol=atol, rtol=0, msg=lambda m, n=name: f'{n}: {m}'
            )


@pytest.mark.parametrize('case', CASES)
def test_equals_reference_in_outputs_and_gradients(case):
    tensors, arguments = make_inputs(case)
    assert_backends_agree(tensors, **arguments, landmark_scale=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    'case', ['usual', 'one_landmark', 'two_experts', 'compress_only', 'route_only']
)
def test_gradcheck(case):
    tensors, arguments = make_inputs(case)
    tensors = tuple(tensor.detach()[:1, :1, :30, :4].requires_grad_() for tensor in tensors)
    tensors[3].requires_grad_(arguments['shared'])
    assert torch.autograd.gradcheck(
        lambda *inputs: mita_attention(*inputs, **arguments, backend='tiled'), tensors
    )


def test_every_query_on_one_expert():
    (query, key, value, landmarks), arguments = make_inputs('usual')
    direction = torch.ones(16, dtype=torch.float64)
    query = (query.detach() + 10 * direction).requires_grad_()
    landmarks = landmarks.detach().clone()
    landmarks[:, :, 4] = direction
    landmarks.requires_grad_()
    assert (route_queries(query, landmarks, 1) == 4).all()
    assert_backends_agree((query, key, value, landmarks), **arguments)


def test_a_key_held_by_every_expert():
    (query, key, value, landmarks), arguments = make_inputs('two_experts')
    key = key.detach().clone()
    key[:, :, 3] = 0
    landmarks = (landmarks.detach().abs()).requires_grad_()
    key[:, :, 3] += 5
    key.requires_grad_()
    assert (select_experts(key, landmarks, 5) == 3).any(-1).all()
    assert_backends_agree((query, key, value, landmarks), **arguments)


def test_equal_rows_everywhere_follow_the_tie_rule():
    _, arguments = make_inputs('usual')
    row = torch.ones(1, 1, 1, 8, dtype=torch.float64)
    query, key, landmarks = (row.expand(1, 2, n, 8).clone() for n in (20, 20, 9))
    value = torch.randn(1, 2, 20, 8, dtype=torch.float64)
    tensors = [tensor.requires_grad_() for tensor in (query, key, value, landmarks)]
    assert_backends_agree(tensors, **arguments)


def test_non_contiguous_inputs():
    batch, tokens, heads, dim = 2, 30, 3, 8
    qkv = torch.randn(batch, tokens, 3, heads, dim, dtype=torch.float64, requires_grad=True)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    landmarks = torch.randn(batch, heads, dim, 4, dtype=torch.float64).mT.requires_grad_()
    assert not query.is_contiguous() and not landmarks.is_contiguous()
    assert_backends_agree((query, key, value, landmarks), topk=5)


def test_no_grad_gives_the_same_output():
    tensors, arguments = make_inputs('usual')
    expected = mita_attention(*tensors, **arguments, backend='tiled')
    with torch.no_grad():
        result = mita_attention(*tensors, **arguments, backend='tiled')
    assert torch.equal(result, expected) and not result.requires_grad


def test_two_runs_are_bitwise_equal():
    tensors, arguments = make_inputs('usual', torch.float32)
    runs = []
    for _ in range(2):
        output = mita_attention(*tensors, **arguments, backend='tiled')
        runs.append((output, *gradients(output, tensors)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('scale', [0.1, 1, 10])
def test_precision_is_that_of_the_reference(dtype, scale):
    """Away from selection: with every key in every expert, errors come from arithmetic alone.

    Errors of four draws together: one may be three times the other by chance.
    """
    sums = {'tiled': [0] * 5, 'reference': [0] * 5}
    for seed in range(4):
        tensors, _ = make_inputs('usual', torch.float64, seed, requires_grad=False)
        tensors = [(tensor * scale).to(dtype).requires_grad_() for tensor in tensors]
        exact_inputs = [tensor.detach().double().requires_grad_() for tensor in tensors]
        exact = mita_attention(*exact_inputs, topk=64)
        exact = (exact, *gradients(exact, exact_inputs))
        for backend, errors in sums.items():
            output = mita_attention(*tensors, topk=64, backend=backend)
            assert output.dtype == dtype
            for i, result in enumerate((output, *gradients(output, tensors))):
                errors[i] += (result.double() - exact[i]).norm() / exact[i].norm()
    for tiled, reference in zip(*sums.values(), strict=True):
        assert tiled <= 2 * reference + 4e-7


@pytest.mark.parametrize('backend', ['reference', 'tiled'])
def test_autocast_computes_in_its_dtype(backend):
    tensors, arguments = make_inputs('usual', torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        output = mita_attention(*tensors, **arguments, backend=backend)
    lowered = mita_attention(
        *(tensor.bfloat16() for tensor in tensors), **arguments, backend=backend
    )
    assert output.dtype == torch.bfloat16 and torch.equal(output, lowered)
    assert all(grad.dtype == torch.float32 for grad in gradients(output, tensors))


@pytest.mark.parametrize('routes_per_expert', [[16, 16, 16], [48, 0, 0], [1, 0, 47], [17, 15, 16]])
def test_tiles_have_each_route_once_and_one_expert_each(routes_per_expert):
    experts = torch.repeat_interleave(torch.arange(3), torch.tensor(routes_per_expert))
    experts = experts[torch.randperm(48, generator=torch.Generator().manual_seed(0))].unsqueeze(0)
    tiling = tile_routes(experts, num_experts=3, height=16)
    tiles = tiling.route_of_slot.view(-1, 16)
    filled = tiles[tiles >= 0]
    assert filled.sort().values.tolist() == list(range(48))
    assert torch.equal(tiling.route_of_slot[0, tiling.slot_of_route[0]], torch.arange(48))
    for tile, expert in zip(tiles, tiling.expert_of_tile[0], strict=True):
        assert (experts[0, tile[tile >= 0]] == expert).all()


def test_memory_grows_with_neither_topk_times_dim_nor_tokens_squared():
    """N = 16384: the peak is at most three times q, k, v and their gradients together."""
    tensors = [torch.randn(1, 2, 16384, 64, requires_grad=True) for _ in range(3)]
    landmarks = torch.randn(1, 2, 49, 64, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        output = mita_attention(*tensors, landmarks, topk=49, backend='tiled')
        output.sum().backward()
    allocations = [event for event in profile.profiler.kineto_results.events()]
    held = peak = 0
    for event in sorted(allocations, key=lambda event: event.start_ns()):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    inputs_and_gradients = 6 * tensors[0].nbytes
    assert 0 < peak <= 3 * inputs_and_gradients
