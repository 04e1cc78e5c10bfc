"""The kernels in PyTorch: compilation, CUDA graphs, autocast, checkpoints, DDP."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mita_seg.layers.mita_attention import MiTAAttention
from mita_seg.ops import mita_attention, pool_landmarks, pooled_mita_attention
from mita_seg.ops.options import MiTAOptions
from mita_seg.ops.reference import reference_attention
from support.operator_cases import DEVICE, draw_inputs, gradients, on_device, relative_error

pytest.importorskip('triton')

TESTS = Path(__file__).resolve().parents[2]
NEEDS_GPU = pytest.mark.skipif(DEVICE == 'cpu', reason='needs a GPU')


@pytest.mark.slow
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


@NEEDS_GPU
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('pooled', [False, True])
def test_inductor_gives_the_eager_results_in_one_graph(dtype, pooled):
    def attend(query, key, value, landmarks, grid):
        options = {'topk': 20, 'backend': 'triton'}
        if pooled:
            return 2 * pooled_mita_attention(query, key, value, grid, (3, 3), start=1, **options)
        return 2 * mita_attention(query, key, value, landmarks, **options)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    for seed, grid in enumerate(((30, 31), (25, 17), (40, 41))):
        tensors = draw_inputs(1 + grid[0] * grid[1], 9, 64, 2, 3, dtype, seed=seed)
        results = []
        for function in (attend, compiled):
            output = function(*tensors, grid)
            results.append((output, *gradients(output, tensors[: 3 if pooled else 4])))
        for result, wanted in zip(*results, strict=True):
            assert result.isfinite().all()
            torch.testing.assert_close(result, wanted)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


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


@pytest.mark.slow
def test_activation_checkpointing_changes_no_gradient():
    layer, tokens = make_layer()
    (expected,) = torch.autograd.grad(layer(tokens, (6, 5), 1).square().sum(), layer.qkv.weight)
    output = checkpoint(layer, tokens, (6, 5), 1, use_reentrant=False)
    (grad,) = torch.autograd.grad(output.square().sum(), layer.qkv.weight)
    assert torch.equal(grad, expected)


@pytest.mark.slow
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


@NEEDS_GPU
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


@NEEDS_GPU
@pytest.mark.parametrize('options', [{}, {'num_routed': 2}, {'topk': 0}, {'shared': False}])
def test_replayed_graph_works_on_new_inputs(options):
    """Forward and backward, pooling included: bitwise what an eager call gives."""
    options = {'topk': 49, 'start': 1, 'backend': 'triton', **options}

    def step(tensors):
        output = pooled_mita_attention(*tensors, (32, 32), (7, 7), **options)
        return output, *torch.autograd.grad(output, tensors, torch.ones_like(output))

    old, new = (draw_inputs(1025, 1, 64, 2, 3, torch.bfloat16, seed=seed)[:3] for seed in (0, 1))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step(old)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(old)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(old), strict=True))
    with torch.no_grad():
        for tensor, other in zip(old, new, strict=True):
            tensor.copy_(other)
        for result in captured:
            result.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    expected = step(new)
    assert all(result.any() for result in expected)
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@NEEDS_GPU
def test_a_million_tokens():
    """Forward and backward of 3 heads in under 20 GiB, and right on a sample of the queries."""
    side, landmarks, topk = 1024, 49, 49
    packed = torch.randn(
        1, side * side, 3, 3, 64, device=DEVICE, dtype=torch.bfloat16, requires_grad=True
    )
    query, key, value = packed.permute(2, 0, 3, 1, 4).unbind()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    output = pooled_mita_attention(
        query, key, value, (side, side), (7, 7), topk=topk, backend='triton'
    )
    (grad,) = torch.autograd.grad(output, packed, torch.ones_like(output))
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() < 20 * 2**30
    assert output.isfinite().all() and grad.isfinite().all()
    # The queries' gradient has a place for every token, and so have those of keys and values.
    assert all((each != 0).any(-1).float().mean() > 0.99 for each in grad.unbind(2))
    del grad
    with torch.no_grad():
        query, key, value, output = (each[:, 2:].detach() for each in (query, key, value, output))
        marks = pool_landmarks(query, (side, side), (7, 7))
        assert marks.shape[2] == landmarks
        sample = torch.randint(side * side, (256,), device=DEVICE)
        sample[:2] = torch.tensor([0, side * side - 1])
        exact = query[:, :, sample].double(), key.double(), value.double(), marks.double()
        expected = reference_attention(*exact, MiTAOptions(topk, 1, 0.125, 0.125, shared=True))
    assert relative_error(output[:, :, sample], expected) < 0.01


DDP_SCRIPT = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from mita_seg.layers import MiTAAttention
from support.quick_interpreter import quicken

rank, store, device = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if device == 'cpu':
    quicken()
torch.manual_seed(0)
layer = MiTAAttention(32, 2, landmarks=(2, 2), topk=5, backend='triton').to(device)
tokens = torch.randn(2, 21, 32).to(device)
layer(tokens, (4, 5), 1).square().sum().backward()
expected = {name: each.grad / 2 for name, each in layer.named_parameters()}  # DDP averages
layer.zero_grad()
torch.distributed.init_process_group('gloo', init_method='file://' + store, rank=rank, world_size=2)
model = DistributedDataParallel(layer)
model(tokens[rank : rank + 1], (4, 5), 1).square().sum().backward()
for name, each in layer.named_parameters():
    assert each.grad.any(), name
    torch.testing.assert_close(each.grad, expected[name], rtol=1e-4, atol=1e-5)
del model  # its reducer, at the end of the process, may wait for ever for threads of the group
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_get_the_gradients_of_the_whole_batch(tmp_path):
    """Reduced by gloo, so that one GPU is enough for both; interpreted where there is none."""
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', DDP_SCRIPT, str(rank), str(tmp_path / 'store'), DEVICE],
            cwd=TESTS,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
