"""The kernels in PyTorch: registration, compilation, graphs, autocast, checkpoints, DDP."""

import pytest
import torch
from operator_cases import DEVICE, gradients, make_inputs, on_device
from torch import library
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mita_seg.layers.mita_attention import MiTAAttention
from mita_seg.ops import mita_attention

pytest.importorskip('triton')


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
