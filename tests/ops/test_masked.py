"""The masked backend against the reference, in time and memory as promised."""

import pytest
import torch

from mita_seg.ops import masked, mita_attention, pooled_mita_attention
from mita_seg.ops.attention import MASKED_TOKENS, torch_backend
from support.operator_cases import CASES, NAMES, gradients, make_inputs, with_gradients


def assert_equals_reference(tensors, tolerance=1e-11, **arguments):
    expected, results = (
        with_gradients(tensors, **arguments, backend=backend) for backend in ('reference', 'masked')
    )
    for name, wanted, result in zip(NAMES, expected, results, strict=True):
        if wanted is None or result is None:
            assert not any(x is not None and x.any() for x in (wanted, result)), name
        else:
            assert result.dtype == wanted.dtype
            atol = tolerance * max(1, wanted.abs().max().item())
            torch.testing.assert_close(result, wanted, atol=atol, rtol=0, msg=name)


@pytest.fixture
def one_head_at_a_time(monkeypatch):
    monkeypatch.setattr(masked, 'MASK_BYTES', 1)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize('case', CASES)
def test_equals_reference_in_outputs_and_gradients(case, dtype, tolerance):
    tensors, arguments = make_inputs(case, dtype)
    assert_equals_reference(tensors, tolerance, **arguments, landmark_scale=0.1)


@pytest.mark.parametrize('case', ['usual', 'two_experts', 'route_only'])
def test_heads_apart_equal_heads_together(case, one_head_at_a_time):
    tensors, arguments = make_inputs(case)
    assert_equals_reference(tensors, **arguments)


@pytest.mark.parametrize('case', ['usual', 'two_experts', 'compress_only', 'route_only'])
@pytest.mark.parametrize(
    ('scale', 'landmark_scale'),
    [(0.0, None), (0.3, 0.0), (-0.3, None), (0.3, -0.2), (1e-9, 1.0), (1.0, 1e-9)],
)
def test_every_scale(case, scale, landmark_scale):
    tensors, arguments = make_inputs(case)
    assert_equals_reference(tensors, **arguments, scale=scale, landmark_scale=landmark_scale)


@pytest.mark.parametrize('num_routed', [1, 3])
def test_equal_rows_everywhere_follow_the_tie_rule(num_routed):
    row = torch.ones(1, 1, 1, 8, dtype=torch.float64)
    query, key, landmarks = (row.expand(1, 2, n, 8).clone() for n in (20, 20, 9))
    value = torch.randn(1, 2, 20, 8, dtype=torch.float64)
    tensors = [tensor.requires_grad_() for tensor in (query, key, value, landmarks)]
    assert_equals_reference(tensors, topk=7, num_routed=num_routed)


def test_a_key_held_by_every_expert():
    (query, key, value, landmarks), arguments = make_inputs('two_experts')
    key = key.detach().clone()
    key[:, :, 3] = 5
    landmarks = landmarks.detach().abs().requires_grad_()
    assert_equals_reference((query, key.requires_grad_(), value, landmarks), **arguments)


def test_non_contiguous_inputs():
    qkv = torch.randn(2, 30, 3, 3, 8, dtype=torch.float64, requires_grad=True)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    value = value.mT.contiguous().mT
    landmarks = torch.randn(2, 3, 8, 4, dtype=torch.float64).mT.requires_grad_()
    assert_equals_reference((query, key, value, landmarks), topk=5)


@pytest.mark.parametrize('frozen', [(0,), (1, 2), (0, 3), (0, 1, 3)])
def test_inputs_without_gradient(frozen):
    tensors, arguments = make_inputs('usual')
    for index in frozen:
        tensors[index].requires_grad_(False)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    results = [
        gradients(mita_attention(*tensors, **arguments, backend=backend), wanted)
        for backend in ('reference', 'masked')
    ]
    torch.testing.assert_close(*results, atol=1e-11, rtol=0)


def test_no_grad_gives_the_same_output():
    tensors, arguments = make_inputs('usual')
    expected = mita_attention(*tensors, **arguments, backend='masked')
    with torch.no_grad():
        result = mita_attention(*tensors, **arguments, backend='masked')
    assert torch.equal(result, expected) and not result.requires_grad


def test_a_backward_pass_under_autocast_keeps_the_dtype_of_the_forward_pass():
    tensors, arguments = make_inputs('usual', torch.float32)
    output = mita_attention(*tensors, **arguments, backend='masked')
    expected = torch.autograd.grad(output, tensors, output.detach(), retain_graph=True)
    with torch.autocast('cpu', torch.bfloat16):
        results = torch.autograd.grad(output, tensors, output.detach())
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize('case', CASES)
def test_neither_shapes_nor_flow_depend_on_data(case):
    """As on meta tensors, which hold none: nothing waits for a GPU, and CUDA graphs can record."""
    tensors, arguments = make_inputs(case, torch.float32)
    tensors = [tensor.detach().to('meta').requires_grad_() for tensor in tensors]
    output = mita_attention(*tensors, **arguments, backend='masked')
    assert output.shape == tensors[0].shape
    torch.autograd.grad(output, tensors[:3], torch.empty_like(output))


def test_rows_of_the_mask_are_aligned():
    in_expert = torch.ones(2, 3, 30, dtype=torch.bool)
    for num_routed in (1, 2):
        table = masked.tabulate(in_expert, 7, num_routed, torch.bfloat16)
        routes = torch.zeros(2, 30, num_routed, dtype=torch.int64)
        assert masked.make_mask(table, routes, 7).shape == (2, 30, 48)


def peak_bytes(function):
    """What a function allocates on the CPU, at most at one time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_memory_is_below_four_times_the_inputs_and_their_gradients(monkeypatch):
    """48 heads of 1024 tokens, all in a quarter of the size."""
    monkeypatch.setattr(masked, 'MASK_BYTES', masked.MASK_BYTES // 4)
    tensors = [torch.randn(1, 12, 1024, 64).bfloat16().requires_grad_() for _ in range(3)]

    def forward_backward():
        output = pooled_mita_attention(*tensors, (32, 32), (7, 7), topk=49, backend='masked')
        torch.autograd.grad(output, tensors, output.detach())

    assert 0 < peak_bytes(forward_backward) < 4 * 6 * tensors[0].nbytes


def test_no_mask_is_kept_for_the_backward_pass():
    tensors, arguments = make_inputs('tall_tiles', torch.float32)
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mita_attention(*tensors, **arguments, backend='masked')
    tokens = tensors[0].shape[2]
    assert kept and all(tensor.numel() < tokens**2 for tensor in kept)


def test_auto_takes_it_for_short_maps_off_the_cpu():
    def draw(tokens, device):
        return torch.empty(1, 1, tokens, 16, device=device)

    assert torch_backend(draw(MASKED_TOKENS, 'meta')) == 'masked'
    assert torch_backend(draw(MASKED_TOKENS + 1, 'meta')) == 'tiled'
    assert torch_backend(draw(16, 'cpu')) == 'tiled'
