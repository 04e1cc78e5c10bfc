"""The Triton kernels against the reference: on a GPU where there is one, else interpreted."""

from types import SimpleNamespace

import pytest
import torch
from operator_cases import CASES, gradients, make_inputs
from torch import library
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mita_seg.layers.mita_attention import MiTAAttention
from mita_seg.ops import (
    mita_attention,
    pool_landmarks,
    pooled_mita_attention,
    route_queries,
    select_experts,
)
from mita_seg.ops.triton import support

pytest.importorskip('triton')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.fixture
def poisoned_memory():
    """New tensors hold NaN, so that an element that no kernel writes shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def on_device(tensors, dtype=torch.float32):
    return [tensor.detach().to(DEVICE, dtype).requires_grad_() for tensor in tensors]


def with_gradients(tensors, **arguments):
    output = mita_attention(*tensors, **arguments)
    return output, *gradients(output, tensors)


def assert_kernels_agree(tensors, tolerance=1e-5, **arguments):
    expected = with_gradients(tensors, **arguments, backend='reference')
    results = with_gradients(tensors, **arguments, backend='triton')
    names = ('output', 'query', 'key', 'value', 'landmarks')
    for name, wanted, result in zip(names, expected, results, strict=True):
        if wanted is None:
            assert result is None or not result.any(), name
        else:
            assert result.dtype == wanted.dtype and result.isfinite().all(), name
            # A gradient that cancels to nearly nothing is compared with the output's size.
            size = max(wanted.norm(), 0.1 * expected[0].norm())
            error = (result - wanted).norm() / size
            assert error < tolerance, f'{name}: relative error {error}'


@pytest.mark.parametrize('case', CASES)
def test_equals_reference_in_outputs_and_gradients(case, poisoned_memory):
    tensors, arguments = make_inputs(case)
    assert_kernels_agree(on_device(tensors), **arguments, landmark_scale=0.1)


@pytest.mark.parametrize('dim', [24, 64, 128])
def test_head_dimensions(dim):
    tensors = [torch.randn(1, 1, rows, dim) for rows in (45, 45, 45, 6)]
    assert_kernels_agree(on_device(tensors), topk=5)


@pytest.mark.parametrize(
    ('tokens', 'landmarks', 'topk', 'num_routed'),
    [(1100, 5, 7, 1), (1500, 70, 7, 2), (700, 6, 130, 1), (200, 70, 6, 1)],
)
def test_several_blocks(tokens, landmarks, topk, num_routed, poisoned_memory):
    """Selection through block maxima, several chunks of queries, blocks of landmarks and keys."""
    tensors = [torch.randn(1, 1, rows, 16) for rows in (tokens, tokens, tokens, landmarks)]
    assert_kernels_agree(on_device(tensors), topk=topk, num_routed=num_routed)


@pytest.mark.skipif(DEVICE == 'cpu', reason='takes minutes under the interpreter')
def test_the_most_landmarks_and_keys(poisoned_memory):
    tensors = [torch.randn(1, 2, rows, 32) for rows in (3000, 3000, 3000, 1024)]
    assert_kernels_agree(on_device(tensors), topk=1024)


def test_offsets_of_64_bits(monkeypatch):
    from mita_seg.ops.triton import backward, forward, plan

    monkeypatch.setattr(forward, 'is_wide', lambda tensor: True)
    monkeypatch.setattr(backward, 'is_wide', lambda tensor: True)
    monkeypatch.setattr(plan, '_recordings', {})
    assert_kernels_agree(
        on_device([torch.randn(1, 2, rows, 16) for rows in (90, 90, 90, 7)]), topk=5
    )


@pytest.mark.parametrize(('shape', 'stride', 'wide'), [(2**20, 64, False), (2**20, 3 * 1024, True)])
def test_when_offsets_need_64_bits(shape, stride, wide):
    from mita_seg.ops.triton.launch import is_wide

    tensor = torch.empty(1, device='meta').as_strided((1, 1, shape, 64), (0, 0, stride, 1))
    assert is_wide(tensor) == wide


@pytest.mark.parametrize('options', [{}, {'num_routed': 2}, {'topk': 0}, {'shared': False}])
def test_repeated_call_works_on_its_own_tensors(options):
    options = {'topk': 6, **options}
    query, *others = (torch.randn(2, 2, rows, 16) for rows in (90, 90, 90, 7))
    assert_kernels_agree(on_device([query, query, *others[1:]]), **options)
    for _ in range(2):
        others = [torch.randn_like(other) for other in others]
        assert_kernels_agree(on_device([query, *others]), **options)


@pytest.mark.parametrize(
    ('grid', 'num_landmarks', 'start'),
    [((7, 11), (3, 4), 1), ((5, 3), (6, 6), 0), ((8, 8), (4, 4), 2), ((20, 3), (1, 2), 0)],
)
def test_pooling_equals_adaptive_average_pooling(grid, num_landmarks, start, poisoned_memory):
    from mita_seg.ops.triton.op import triton_pool

    shape = (2, 2, start + grid[0] * grid[1] + 1, 16)
    (query,) = on_device([torch.randn(shape)])
    expected = pool_landmarks(query.cpu(), grid, num_landmarks, start=start).to(DEVICE)
    landmarks = triton_pool(query, *grid, *num_landmarks, start)
    torch.testing.assert_close(landmarks, expected)
    weights = torch.randn_like(landmarks)
    (wanted,) = torch.autograd.grad(expected, query, weights)
    (grad,) = torch.autograd.grad(landmarks, query, weights)
    torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize('options', [{}, {'num_routed': 2}, {'topk': 0}, {'shared': False}])
def test_pooled_attention_equals_pooling_then_attention(options, poisoned_memory):
    tensors = on_device([torch.randn(2, 2, 37, 16) for _ in range(3)])
    options = {'topk': 6, **options, 'backend': 'triton'}
    output = pooled_mita_attention(*tensors, (7, 5), (3, 2), start=1, **options)
    landmarks = pool_landmarks(tensors[0], (7, 5), (3, 2), start=1)
    expected = mita_attention(*tensors, landmarks, **options)
    torch.testing.assert_close(output, expected)
    for grad, wanted in zip(gradients(output, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def assert_selection_agrees(key, landmarks, topk):
    """key [1, H, N, d], landmarks [1, H, m, d]; their scores are exact."""
    from mita_seg.ops.triton.op import triton_attention
    from mita_seg.ops.triton.state import lay_out, view_state

    tensors = on_device([key, key, key.nan_to_num(), landmarks])
    _, state = triton_attention(*tensors, 0, 0, 0, 0, 0, topk, 1, 0.25, 0.25, True)
    layout = lay_out(
        tensors[0], landmarks.shape[2], pooled=False, topk=topk, num_routed=1, shared=True
    )
    expected = select_experts(tensors[1], tensors[3], topk)
    assert torch.equal(view_state(state, layout).indices.view_as(expected).long(), expected)


def test_selection_keeps_the_tie_rule():
    key = torch.randint(-1, 2, (1, 2, 1300, 16)).float()
    landmarks = torch.randint(-1, 2, (1, 2, 5, 16)).float()
    assert_selection_agrees(key, landmarks, 20)


@pytest.mark.parametrize(('tokens', 'topk'), [(300, 300), (509, 20), (1300, 20), (1300, 64)])
def test_selection_from_odd_distributions(tokens, topk):
    normal = torch.randn(tokens)
    columns = [
        torch.full((tokens,), 3.0),
        torch.zeros(tokens).copysign(normal),  # -0.0 and 0.0
        normal.sign() * 1000 + normal,
        normal * 1e-42,  # denormal
        (20 * normal).exp(),
        normal.sign() * (20 * normal).exp(),
        torch.where(normal > 2, 1e30, normal),
        normal.clamp(-3e38, 0.5),  # many at the top
        normal.clamp(0.5),  # many at the bottom
        torch.arange(tokens) / 7,
        -torch.arange(tokens) * 1e35,
        torch.eye(tokens)[tokens // 2],  # all but one
    ]
    key = torch.zeros(1, 3, tokens, 16)
    key[0, 0, :, : len(columns)] = torch.stack(columns, 1)
    landmarks = torch.eye(16).repeat(1, 3, 1, 1)[:, :, : len(columns)]
    # An infinite score makes others NaN: one landmark again and again.
    key[0, 1, :, 0] = torch.where(normal > 0, -torch.inf, normal)
    key[0, 2, :, 0] = torch.where(normal.abs() > 0.01, normal.sign() * torch.inf, normal)
    landmarks[0, 1:] = landmarks[0, 0, 0]
    assert_selection_agrees(key, landmarks, topk)


def test_every_query_on_one_expert():
    tensors, arguments = make_inputs('usual')
    query, key, value, landmarks = (tensor.detach().clone() for tensor in tensors)
    landmarks = -landmarks.abs()
    landmarks[:, :, 4] *= -1
    tensors = on_device([query.abs(), key, value, landmarks])
    assert (route_queries(tensors[0], tensors[3], 1) == 4).all()
    assert_kernels_agree(tensors, **arguments)


def test_strided_inputs():
    qkv = torch.randn(2, 40, 3, 2, 16, device=DEVICE, requires_grad=True)
    tensors = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    landmarks = torch.randn(2, 2, 16, 4, device=DEVICE).mT.requires_grad_()
    assert_kernels_agree([*tensors, landmarks], topk=5)


def test_two_runs_are_bitwise_equal():
    tensors, arguments = make_inputs('two_experts')
    tensors = on_device(tensors)
    runs = [with_gradients(tensors, **arguments, backend='triton') for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [0.1, 1, 10])
def test_precision_is_that_of_plain_operations(dtype, scale):
    """With every key in every expert, errors come from arithmetic alone."""
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bfloat16")
    tensors, _ = make_inputs('usual', requires_grad=False)
    tensors = on_device([tensor * scale for tensor in tensors], dtype)
    exact = with_gradients(on_device(tensors, torch.float64), topk=64)

    def errors(backend):
        results = with_gradients(tensors, topk=64, backend=backend)
        return [
            (result.double() - wanted).norm() / wanted.norm()
            for result, wanted in zip(results, exact, strict=True)
        ]

    for name, kernel, plain in zip(
        ('output', 'query', 'key', 'value', 'landmarks'),
        errors('triton'),
        errors('reference'),
        strict=True,
    ):
        assert kernel <= (2 if name == 'output' else 3) * plain, name


@pytest.mark.parametrize('case', ['usual', 'two_experts', 'compress_only', 'route_only'])
def test_operator_is_registered_correctly(case):
    from mita_seg.ops.triton.op import triton_attention

    tensors, options = make_inputs(case)
    arguments = (options['topk'], options['num_routed'], 0.25, 0.2, options['shared'])
    utils = ('test_schema', 'test_faketensor', 'test_autograd_registration')
    library.opcheck(triton_attention, (*on_device(tensors), *[0] * 5, *arguments), test_utils=utils)


def test_compiles_into_one_graph_with_dynamic_tokens():
    def attend(*tensors):
        return mita_attention(*tensors, topk=4, backend='triton')

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend='aot_eager')
    for tokens in (30, 63):
        tensors = on_device([torch.randn(1, 2, rows, 16) for rows in (tokens, tokens, tokens, 4)])
        results = [function(*tensors) for function in (attend, compiled)]
        torch.testing.assert_close(*results)
        for expected, grad in zip(*(gradients(r, tensors) for r in results), strict=True):
            torch.testing.assert_close(grad, expected)


def make_layer():
    torch.manual_seed(0)
    layer = MiTAAttention(32, 2, landmarks=(2, 3), topk=5, backend='triton').to(DEVICE)
    return layer, torch.randn(2, 31, 32, device=DEVICE)


def test_gradients_under_autocast():
    layer, tokens = make_layer()
    layer.topk = 31  # all keys: rounding chooses no others
    dtype = torch.bfloat16 if DEVICE == 'cuda' else torch.float16
    with torch.autocast(DEVICE, dtype):
        output = layer(tokens, (6, 5), 1)
    output.float().square().sum().backward()
    expected = layer(tokens, (6, 5), 1)
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.02)
    assert output.dtype == dtype and layer.qkv.weight.grad.isfinite().all()


def test_activation_checkpointing_changes_no_gradient():
    layer, tokens = make_layer()
    (expected,) = torch.autograd.grad(layer(tokens, (6, 5), 1).square().sum(), layer.qkv.weight)
    output = checkpoint(layer, tokens, (6, 5), 1, use_reentrant=False)
    (grad,) = torch.autograd.grad(output.square().sum(), layer.qkv.weight)
    assert torch.equal(grad, expected)


def test_distributed_data_parallel(tmp_path):
    layer, tokens = make_layer()
    layer(tokens, (6, 5), 1).square().sum().backward()
    expected, layer.qkv.weight.grad = layer.qkv.weight.grad, None
    backend = 'nccl' if DEVICE == 'cuda' else 'gloo'
    torch.distributed.init_process_group(
        backend, init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
    )
    try:
        DistributedDataParallel(layer)(tokens, (6, 5), 1).square().sum().backward()
        torch.testing.assert_close(layer.qkv.weight.grad, expected)
    finally:
        torch.distributed.destroy_process_group()


def test_a_scale_that_is_not_positive_is_left_to_plain_operations():
    tensors = on_device([torch.randn(1, 1, rows, 16) for rows in (20, 20, 20, 4)])
    with pytest.raises(NotImplementedError, match='positive scales; got 0.25 and -1.0'):
        mita_attention(*tensors, topk=3, landmark_scale=-1, backend='triton')
    output = mita_attention(*tensors, topk=3, landmark_scale=-1)
    expected = mita_attention(*tensors, topk=3, landmark_scale=-1, backend='reference')
    torch.testing.assert_close(output, expected)


@pytest.mark.skipif(DEVICE == 'cpu', reason='CUDA graphs need a GPU')
def test_graph_capture_without_synchronisation():
    tensors = on_device([torch.randn(2, 3, rows, 64) for rows in (1025, 1025, 1025, 49)])

    def step():
        output = mita_attention(*tensors, topk=49, backend='triton')
        return output, *gradients_of_ones(output, tensors)

    def gradients_of_ones(output, tensors):
        return torch.autograd.grad(output, tensors, torch.ones_like(output))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = step()
        torch.cuda.set_sync_debug_mode('error')
        step()
        torch.cuda.set_sync_debug_mode('default')
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.parametrize(('kibibytes', 'fits'), [(99, False), (227, True)])
def test_gpus_of_little_shared_memory_are_left_to_plain_operations(kibibytes, fits, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(support, '_shared_memory', lambda index: kibibytes * 1024)
    query = SimpleNamespace(
        device=torch.device('cuda', 0), dtype=torch.bfloat16, shape=(1, 2, 1024, 64)
    )
    reason = support.why_not(query, 49, 49)
    assert reason is None if fits else '227 KiB of shared memory' in reason


@pytest.mark.parametrize(
    ('query', 'options', 'message'),
    [
        (torch.randn(1, 1, 20, 12), {}, 'multiples of 8; got 12'),
        (torch.randn(1, 1, 20, 8), {}, 'from 16 to 128 .*got 8'),
        (torch.randn(1, 1, 20, 16).double(), {}, 'takes float32, bfloat16 and float16; got'),
        (torch.randn(1, 1, 1100, 16), {'topk': 1025}, 'at most 1024 .*got 4 and 1025'),
    ],
)
def test_what_the_kernels_cannot_do_is_said(query, options, message):
    query = query.to(DEVICE)
    landmarks = query[:, :, :4]
    with pytest.raises(NotImplementedError, match=f"backend='triton' can't run: .*{message}"):
        mita_attention(query, query, query, landmarks, **{'topk': 3, **options}, backend='triton')
