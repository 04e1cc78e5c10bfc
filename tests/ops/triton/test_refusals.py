"""What the kernels can't run is said, or left to plain operations."""

import re
from types import SimpleNamespace

import pytest
import torch

from mita_seg.ops import attention, mita_attention, pooled_mita_attention
from mita_seg.ops.options import MiTAOptions, Pooling
from mita_seg.ops.triton import support
from mita_seg.ops.triton.gpu import Gpu
from support.operator_cases import on_device


@pytest.fixture(autouse=True)
def installed_triton(monkeypatch):
    monkeypatch.setattr(support, '_HAS_TRITON', True)


def test_a_scale_that_is_not_positive_is_left_to_plain_operations():
    tensors = on_device([torch.randn(1, 1, rows, 16) for rows in (20, 20, 20, 4)])
    with pytest.raises(NotImplementedError, match='positive scales; got 0.25 and -1.0'):
        mita_attention(*tensors, topk=3, landmark_scale=-1, backend='triton')
    output = mita_attention(*tensors, topk=3, landmark_scale=-1)
    expected = mita_attention(*tensors, topk=3, landmark_scale=-1, backend='reference')
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ('capability', 'kibibytes', 'message'),
    [
        (75, 64, '8.0 or higher with 99 KiB .*has 7.5 and 64 KiB'),  # Turing
        (90, 64, '8.0 or higher with 99 KiB .*has 9.0 and 64 KiB'),
        (80, 163, None),
        (86, 99, None),
        (87, 163, None),  # Orin, which the tables do not name
        (89, 99, None),
        (90, 227, None),
        (100, 227, None),
        (103, 227, None),
        (120, 99, None),
        (150, 300, None),  # newer than any that is known
    ],
)
def test_which_gpus_are_taken(capability, kibibytes, message, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(support, 'gpu_of', lambda device: Gpu(capability, kibibytes * 1024, 100))
    query = SimpleNamespace(
        device=torch.device('cuda', 0), dtype=torch.bfloat16, shape=(1, 2, 1024, 64)
    )
    reason = support.unsupported_reason(query, 49, 49)
    assert re.search(message, reason) if message else reason is None


def draw_rows(rows, dim=16, dtype=torch.float32):
    """[1, 1, rows, dim] that takes no memory."""
    return torch.ones(1, dtype=dtype).expand(1, 1, rows, dim)


@pytest.mark.parametrize(
    ('query', 'landmarks', 'options', 'message'),
    [
        (
            draw_rows(20, 12),
            4,
            {},
            'from 16 to 128 that are multiples of 8; got 12',
        ),
        (draw_rows(20, 8), 4, {}, 'head dimensions from 16 to 128 .*got 8'),
        (draw_rows(20, 136), 4, {}, 'head dimensions from 16 to 128 .*got 136'),
        (draw_rows(20, dtype=torch.float64), 4, {}, 'float32, bfloat16 and float16; got .*float64'),
        (draw_rows(20, dtype=torch.bfloat16), 4, {}, "Triton's interpreter has no bfloat16"),
        (draw_rows(2**20 + 1), 4, {}, 'at most 1048576 tokens; got 1048577'),
        (draw_rows(1100), 4, {'topk': 1025}, 'at most 1024 landmarks and keys .*got 4 and 1025'),
        (draw_rows(1100), 1025, {}, 'at most 1024 landmarks and keys .*got 1025 and 3'),
        (draw_rows(20), 4, {'scale': 0.0}, 'positive scales; got 0.0 and 0.0'),
        (draw_rows(20), 4, {'scale': -0.5}, 'positive scales; got -0.5 and -0.5'),
        (draw_rows(20), 4, {'scale': 1e-46}, 'that float32 holds, from 1.18e-38 on; got 1e-46'),
        (draw_rows(20), 4, {'landmark_scale': -1}, 'positive scales; got 0.25 and -1.0'),
    ],
)
def test_what_the_kernels_cannot_do_is_said(query, landmarks, options, message, monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    inputs = query, query, query, query[:, :, :1].expand(-1, -1, landmarks, -1)
    with pytest.raises(NotImplementedError, match=f"backend='triton' can't run: .*{message}"):
        mita_attention(*inputs, **{'topk': 3, **options}, backend='triton')


def test_missing_triton_is_said(monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    monkeypatch.setattr(support, '_HAS_TRITON', False)
    query = draw_rows(20)
    with pytest.raises(NotImplementedError, match="can't run: Triton is not installed"):
        mita_attention(query, query, query, query[:, :, :4], topk=3, backend='triton')
    with pytest.raises(NotImplementedError, match="can't run: Triton is not installed"):
        pooled_mita_attention(query, query, query, (4, 5), (2, 2), topk=3, backend='triton')


def test_tensors_that_are_not_on_a_gpu_are_refused_without_the_interpreter(monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    query = draw_rows(20)
    with pytest.raises(NotImplementedError, match='needs CUDA tensors, or TRITON_INTERPRET=1.*cpu'):
        pooled_mita_attention(query, query, query, (4, 5), (2, 2), topk=3, backend='triton')


@pytest.mark.parametrize('dim', [16, 24, 128])
def test_what_is_at_the_limit_is_taken(dim, monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    query = draw_rows(2**20, dim, torch.float16)
    assert support.unsupported_reason(query, 1024, 1024, (1e-3, 1e-3)) is None


@pytest.fixture
def scarce(monkeypatch):
    """Launches that Triton refuses, by name of the kernel."""
    plans = pytest.importorskip('mita_seg.ops.triton.call_plan')
    errors = pytest.importorskip('triton.runtime.errors')
    names, launch = set(), plans.Plan.launch

    def launch_some(plan, kernel, *args, **options):
        if kernel.__name__ in names:
            raise errors.OutOfResources(2**20, 2**17, 'shared memory')
        launch(plan, kernel, *args, **options)

    monkeypatch.setattr(plans.Plan, 'launch', launch_some)
    monkeypatch.setattr(plans, '_recordings', plans.Latest())
    support._warn.cache_clear()
    return names


@pytest.mark.parametrize('kernel', ['_attend_kernel', '_expert_backward_kernel'])
@pytest.mark.parametrize('pooled', [False, True])
def test_what_triton_cannot_launch_is_left_to_torch_with_one_warning(kernel, pooled, scarce):
    scarce.add(kernel)
    tensors = on_device([torch.randn(1, 2, rows, 16) for rows in (20, 20, 20, 4)])
    pooling = Pooling(4, 5, 2, 2, 0) if pooled else None
    options = MiTAOptions(3, 1, 0.25, 0.2, shared=True, pooling=pooling)
    if pooled:
        tensors = tensors[:3]
        expected = pooled_mita_attention(
            *tensors, (4, 5), (2, 2), topk=3, landmark_scale=0.2, backend='reference'
        )
    else:
        expected = mita_attention(*tensors, topk=3, landmark_scale=0.2, backend='reference')
    with pytest.warns(UserWarning, match='out of resource: shared memory') as warnings:
        for _ in range(2):
            output = attention.BACKENDS['auto'].run(*tensors, *[None] * pooled, options)
            grads = torch.autograd.grad(output.square().sum(), tensors)
    # Torch may have remarks of its own, such as on operations that are not deterministic.
    assert sum('out of resource' in str(warning.message) for warning in warnings) == 1
    torch.testing.assert_close(output, expected)
    for grad, wanted in zip(
        grads, torch.autograd.grad(expected.square().sum(), tensors), strict=True
    ):
        torch.testing.assert_close(grad, wanted)
    with pytest.raises(Exception, match='out of resource: shared memory'):
        output = attention.BACKENDS['triton'].run(*tensors, *[None] * pooled, options)
        output.sum().backward()


def test_gradients_in_torch_that_are_recorded_take_each_input_alone():
    """Of a product of queries and landmarks that come from the queries, to be added up outside."""
    fallback = pytest.importorskip('mita_seg.ops.triton.fallback')
    query = torch.full((1,), 3.0, requires_grad=True)
    landmarks = query.square()
    grads = fallback.differentiate_in_torch(torch.mul, (query, landmarks), torch.ones(1))
    assert [grad.item() for grad in grads] == [9, 3]
    (twice,) = torch.autograd.grad(grads[0], query)
    assert twice.item() == 6
