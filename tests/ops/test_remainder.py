"""The remainder: one key for all keys outside of an expert."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export
from torch.func import jvp, vmap

from mita_seg.ops import mita_attention, pooled_mita_attention
from mita_seg.ops.attention import BACKENDS, torch_backend
from mita_seg.ops.exporting import exported_attention
from mita_seg.ops.options import MiTAOptions, make_options
from support import oracle
from support.operator_cases import draw_inputs, with_gradients

OPTIONS = {'shared': False, 'remainder': True}
# tokens, landmarks, topk
SIZES = [(50, 6, 5), (127, 5, 11), (40, 1, 6), (40, 6, 1), (33, 4, 32), (5, 12, 3), (500, 3, 4)]


def inputs(tokens=50, landmarks=6, **arguments):
    return draw_inputs(tokens, landmarks, batch=2, heads=2, dtype=torch.float64, **arguments)


def assert_equal(results, expected, **tolerance):
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, **tolerance)


@pytest.mark.parametrize('scale', [None, 0.7, -0.3])
@pytest.mark.parametrize('backend', ['reference', 'tiled', 'auto'])
def test_it_is_the_definition(backend, scale):
    tensors, options = inputs(20, 4), {'topk': 5, 'scale': scale}
    expected = with_gradients(tensors, oracle.attend, **options, **OPTIONS)
    assert_equal(with_gradients(tensors, **options, **OPTIONS, backend=backend), expected)


@pytest.mark.parametrize(('tokens', 'landmarks', 'topk'), SIZES)
def test_backends_agree(tokens, landmarks, topk):
    tensors = inputs(tokens, landmarks)
    expected = with_gradients(tensors, topk=topk, **OPTIONS, backend='reference')
    assert_equal(with_gradients(tensors, topk=topk, **OPTIONS, backend='tiled'), expected)
    options = make_options(tensors[0].shape[2:], landmarks, topk=topk, **OPTIONS)

    def exported(*tensors):
        return exported_attention(*tensors, options)

    assert_equal(with_gradients(tensors, exported), expected)


@pytest.mark.parametrize('backend', ['reference', 'tiled'])
def test_queries_that_equal_their_landmarks_attend_fully(backend):
    # Of one norm, so that each is nearest to itself.
    landmarks = nn.functional.normalize(inputs()[3].detach(), dim=-1) * 3
    query = landmarks.repeat(1, 1, 8, 1)
    _, key, value, _ = inputs(query.shape[2])
    output = mita_attention(query, key, value, landmarks, topk=3, **OPTIONS, backend=backend)
    torch.testing.assert_close(output, oracle.full_attention(query, key, value))


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'masked', 'auto'])
@pytest.mark.parametrize('topk', [50, 51])
def test_with_all_keys_nothing_remains(backend, topk):
    tensors = inputs()
    output = mita_attention(*tensors, topk=topk, **OPTIONS, backend=backend)
    torch.testing.assert_close(output, oracle.full_attention(*tensors[:3]))
    route_only = mita_attention(*tensors, topk=topk, shared=False, backend=backend)
    assert torch.equal(output, route_only)


@pytest.mark.parametrize('topk', [50, 51])
def test_exported_without_a_remainder_it_has_no_nan(topk):
    """While the number of tokens is open, it is not known whether a key is left."""
    tensors = inputs()
    options = MiTAOptions(topk, 1, 0.25, 0.25, False, remainder=True)
    results = with_gradients(tensors, lambda *tensors: exported_attention(*tensors, options))
    *expected, zero = with_gradients(tensors, topk=topk, shared=False, backend='reference')
    assert zero is None and not results[-1].any()
    assert_equal(results[:-1], expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('topk', [5, 49, 60])
def test_low_precision(dtype, topk):
    tensors = inputs()
    for backend in ('reference', 'tiled'):
        low = [each.detach().to(dtype) for each in tensors]
        expected = mita_attention(*(each.double() for each in low), topk=topk, **OPTIONS)
        result = mita_attention(*low, topk=topk, **OPTIONS, backend=backend)
        assert result.dtype == dtype
        error = (result.double() - expected).norm() / expected.norm()
        assert error < 20 * torch.finfo(dtype).eps


def test_logits_of_hundreds_do_not_overflow():
    tensors = inputs(scale=20)
    expected = mita_attention(*tensors, topk=5, **OPTIONS, backend='reference')
    assert expected.isfinite().all()
    single = [each.float() for each in tensors]
    result = mita_attention(*single, topk=5, **OPTIONS)
    torch.testing.assert_close(result, expected.float(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('backend', ['reference', 'tiled'])
def test_gradients_and_theirs_are_those_of_differences(backend):
    tensors = inputs(9, 2)
    tensors = [each.detach()[:1, :1, :, :4].requires_grad_() for each in tensors]

    def attend(*tensors):
        return mita_attention(*tensors, topk=3, **OPTIONS, backend=backend)

    # On a GPU sums of gathered rows have no fixed order.
    assert torch.autograd.gradcheck(attend, tensors, nondet_tol=1e-10)
    assert torch.autograd.gradgradcheck(attend, tensors, nondet_tol=1e-10)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'auto'])
def test_transforms_and_forward_mode(backend):
    tensors = tuple(each.detach() for each in inputs(20, 3))

    def attend(*tensors):
        return mita_attention(*tensors, topk=4, **OPTIONS, backend=backend)

    mapped = vmap(attend)(*(each.unsqueeze(0) for each in tensors))
    torch.testing.assert_close(mapped.squeeze(0), attend(*tensors))
    step = 1e-6
    _, tangent = jvp(attend, tensors, tensors)
    ahead, behind = (attend(*((1 + s) * each for each in tensors)) for s in (step, -step))
    torch.testing.assert_close(tangent, (ahead - behind) / (2 * step), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('backend', ['reference', 'tiled', 'auto'])
def test_pooled(backend):
    *tensors, _ = inputs(31)
    pooled = pooled_mita_attention(
        *tensors, (5, 6), (2, 2), start=1, topk=4, **OPTIONS, backend=backend
    )
    landmarks = oracle.pool(tensors[0], (5, 6), (2, 2), 1)
    torch.testing.assert_close(pooled, oracle.attend(*tensors, landmarks, topk=4, **OPTIONS))


@pytest.mark.slow
def test_compiled():
    tensors = inputs()
    expected = with_gradients(tensors, topk=5, **OPTIONS, backend='tiled')
    compiled = torch.compile(mita_attention, fullgraph=True, backend='aot_eager')
    results = with_gradients(tensors, compiled, topk=5, **OPTIONS, backend='tiled')
    assert_equal(results, expected)


class Operator(nn.Module):
    """Of a map [B, d, h, w], its own queries, keys and values, in two heads."""

    def forward(self, patch_map):
        rows = patch_map.flatten(2).transpose(1, 2)
        rows = torch.stack((rows, 2 * rows), 1)
        return pooled_mita_attention(
            rows, rows, rows, patch_map.shape[2:], (2, 3), topk=40, **OPTIONS
        )


@pytest.mark.slow
@pytest.mark.parametrize('strict', [True, False])
def test_exported(strict):
    """Also at sizes that leave no key."""
    model = Operator()
    sizes = {0: Dim('b', min=1, max=2**20), 2: Dim('h', min=2), 3: Dim('w', min=2)}
    old = tuple(map(int, torch.__version__.split('.')[:2])) < (2, 11)
    shapes = None if old else (sizes,)
    program = export(model, (torch.randn(2, 16, 6, 9),), dynamic_shapes=shapes, strict=strict)
    for size in [(2, 6, 9)] if old else [(2, 6, 9), (3, 5, 8), (1, 4, 7), (2, 9, 8)]:
        patch_map = torch.randn(size[0], 16, *size[1:])
        torch.testing.assert_close(program.module()(patch_map), model(patch_map))


@pytest.mark.slow
@pytest.mark.parametrize('dynamo', [True, False])
def test_onnx(dynamo, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    if dynamo:
        pytest.importorskip('onnxscript')
    model, patch_map = Operator().eval(), torch.randn(2, 16, 6, 9)
    path = tmp_path / 'operator.onnx'
    torch.onnx.export(
        model,
        (patch_map,),
        path,
        input_names=['map'],
        dynamo=dynamo,
        **({} if dynamo else {'dynamic_axes': {'map': [0, 2, 3]}}),
    )
    session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for factor in (1, 30):
        given = factor * patch_map
        (result,) = session.run(None, {'map': given.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), model(given), atol=1e-4, rtol=1e-4)
    if not dynamo:
        few = torch.randn(1, 16, 4, 7)  # fewer than topk
        (result,) = session.run(None, {'map': few.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), model(few), atol=1e-4, rtol=1e-4)


def test_traced_it_is_one_node():
    tensors = [each.detach() for each in inputs()]

    def attend(*tensors):
        return mita_attention(*tensors, topk=5, **OPTIONS)

    traced = torch.jit.trace(attend, tuple(tensors))
    assert [node.kind() for node in traced.graph.nodes()][-1] == 'mita_seg::mita_attention'
    torch.testing.assert_close(traced(*tensors), attend(*tensors))


def test_masked_refuses():
    message = "backend='masked' has no remainder, backend='tiled' has"
    with pytest.raises(NotImplementedError, match=message):
        mita_attention(*inputs(), topk=5, **OPTIONS, backend='masked')
    query = torch.empty(1, 1, 50, 16, device='meta')
    assert torch_backend(query) == 'masked' and torch_backend(query, remainder=True) == 'tiled'


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        ({'shared': True}, ValueError, 'shared must be False with remainder=True, .* got True'),
        ({'num_routed': 2}, ValueError, 'num_routed must be 1 with remainder=True, got 2'),
        ({'topk': 0}, ValueError, 'topk must be at least 1 with remainder=True, got 0'),
        ({'remainder': 1}, TypeError, 'remainder must be a bool, got 1'),
        ({'remainder': None}, TypeError, 'remainder must be a bool, got None'),
    ],
)
def test_bad_values_are_refused(change, error, message):
    arguments = {'topk': 5, **OPTIONS, **change}
    with pytest.raises(error, match=message):
        mita_attention(*inputs(), **arguments)


def test_it_is_nearer_to_full_attention():
    tensors = inputs(200, 9)
    full = oracle.full_attention(*tensors[:3])

    def error(**options):
        return (mita_attention(*tensors, topk=20, shared=False, **options) - full).norm().item()

    assert error(remainder=True) < 0.7 * error()


@pytest.mark.parametrize('shape', [(0, 2), (3, 0)])
@pytest.mark.parametrize('backend', ['reference', 'tiled', 'auto'])
def test_nothing_in_gives_nothing_out(shape, backend):
    tensors = [torch.randn(*shape, rows, 16, requires_grad=True) for rows in (12, 12, 12, 4)]
    output = mita_attention(*tensors, topk=3, **OPTIONS, backend=backend)
    output.sum().backward()
    assert output.shape == tensors[0].shape and tensors[3].grad.shape == tensors[3].shape
    if backend != 'auto':  # which leaves nothing to the backends
        options = make_options((12, 16), 4, topk=3, **OPTIONS)
        assert BACKENDS[backend].run(*tensors, options).shape == output.shape


def test_autocast():
    tensors = [each.float() for each in inputs()]
    with torch.autocast(tensors[0].device.type, torch.bfloat16):
        output = mita_attention(*tensors, topk=5, **OPTIONS)
    assert output.dtype == torch.bfloat16
    expected = mita_attention(*(each.bfloat16() for each in tensors), topk=5, **OPTIONS)
    assert torch.equal(output, expected)
