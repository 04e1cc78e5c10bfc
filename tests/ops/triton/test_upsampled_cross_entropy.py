"""The kernels of the loss, against float64 and the torch operations."""

import pytest
import torch

from mita_seg.ops import upsampled_cross_entropy
from support.loss_cases import SHRINKING, SIZES, draw_case, enlarged_loss
from support.operator_cases import DEVICE, relative_error

pytest.importorskip('triton')

pytestmark = pytest.mark.slow


def with_gradient(function, logits, labels, **options):
    loss, right = function(logits, labels, **options)
    weights = torch.rand(loss.shape, generator=torch.Generator().manual_seed(1)).to(loss)
    return loss, right, torch.autograd.grad(loss, logits, weights)[0]


def assert_as_in_float64(logits, labels, **options):
    exact = logits.detach().double().requires_grad_()
    wanted, wanted_right, wanted_gradient = with_gradient(enlarged_loss, exact, labels, **options)
    loss, right, gradient = with_gradient(
        upsampled_cross_entropy, logits, labels, backend='triton', **options
    )
    assert loss.dtype == torch.float32 and gradient.dtype == logits.dtype
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(right, wanted_right)
    tolerance = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[logits.dtype]
    assert relative_error(gradient, wanted_gradient) < tolerance


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
def test_losses_and_gradients_equal_those_of_enlarged_logits(size, align_corners):
    logits, labels = draw_case(size, torch.float32, device=DEVICE)
    assert_as_in_float64(logits, labels, align_corners=align_corners, reduction='none')


@pytest.mark.parametrize('options', [{}, {'weight': True}, {'reduction': 'sum'}])
def test_reductions_are_those_of_the_torch_operations(options):
    logits, labels = draw_case(SIZES['odd factors'], torch.float32, device=DEVICE)
    if 'weight' in options:
        options = {'weight': torch.tensor([0.5, 0, 2], device=DEVICE)}
    results = [
        with_gradient(upsampled_cross_entropy, logits, labels, backend=backend, **options)
        for backend in ('triton', 'torch')
    ]
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    if dtype == torch.bfloat16 and DEVICE == 'cpu':
        pytest.skip("Triton's interpreter has no bfloat16")
    logits, labels = draw_case(SIZES['odd factors'], dtype, device=DEVICE)
    assert_as_in_float64(logits, labels, reduction='none')


@pytest.mark.parametrize('kind', [torch.uint8, torch.int32])
def test_any_strides_and_integers_will_do(kind):
    logits, labels = draw_case(SIZES['odd factors'], torch.float32, device=DEVICE)
    expected = with_gradient(upsampled_cross_entropy, logits, labels, backend='triton')
    turned = logits.detach().permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1).requires_grad_()
    labels = labels.to(kind).transpose(1, 2).contiguous().transpose(1, 2)
    results = with_gradient(upsampled_cross_entropy, turned, labels, backend='triton')
    for got, wanted in zip(results, expected, strict=True):
        assert torch.equal(got, wanted)


def test_two_runs_are_equal_bit_by_bit():
    logits, labels = draw_case(SIZES['many classes'], torch.float32, device=DEVICE)
    runs = [
        with_gradient(upsampled_cross_entropy, logits, labels, backend='triton') for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize('classes', [3, 20])  # one block of classes, and several
def test_of_equal_logits_the_first_is_the_prediction(classes):
    logits = torch.zeros(1, classes, 2, 2, device=DEVICE)
    logits[:, classes - 2 :] = 1
    labels = torch.arange(64, device=DEVICE).view(1, 8, 8) % classes
    _, right = upsampled_cross_entropy(logits, labels, backend='triton')
    assert torch.equal(right, labels == classes - 2)


def test_logits_of_hundreds_overflow_nowhere():
    logits, labels = draw_case(SIZES['odd factors'], torch.float32, device=DEVICE)
    logits = (100 * logits.detach()).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    wanted, _, wanted_gradient = with_gradient(enlarged_loss, exact, labels)
    loss, _, gradient = with_gradient(upsampled_cross_entropy, logits, labels, backend='triton')
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=0)
    assert relative_error(gradient, wanted_gradient) < 1e-3


def test_ignored_pixels_give_nothing_whatever_their_logits():
    logits, labels = draw_case(SIZES['sixteenth'], torch.float32, device=DEVICE)
    labels = torch.full_like(labels, 255)
    loss, right, gradient = with_gradient(
        upsampled_cross_entropy, logits, labels, backend='triton', reduction='none'
    )
    assert not loss.any() and not right.any() and not gradient.any()


@pytest.mark.parametrize('label', [-1, 3, 300])
def test_a_label_that_is_no_class_has_no_number_for_a_loss(label):
    """Looking for one would mean waiting for a GPU. The public function looks on a CPU alone."""
    from mita_seg.ops.chunked_cross_entropy import chunked_cross_entropy
    from mita_seg.ops.triton.upsampled_cross_entropy import cross_entropy, cross_entropy_backward

    logits, labels = draw_case(SIZES['one row'], torch.float32, device=DEVICE)
    logits = logits.detach()
    labels[0, 4, 5] = label
    losses, right, lse = cross_entropy(logits, labels, 255, False)
    expected, expected_right, _ = chunked_cross_entropy(logits, labels, 255, False)
    assert losses.isnan().nonzero().tolist() == [[0, 4, 5]]
    torch.testing.assert_close(losses, expected, equal_nan=True, rtol=1e-5, atol=1e-5)
    assert torch.equal(right, expected_right) and not right[0, 4, 5]
    gradient = cross_entropy_backward(losses, logits, labels, lse, 255, False)
    assert gradient.isfinite().all()


def test_torch_compile_makes_one_graph():
    logits, labels = draw_case(SIZES['odd factors'], torch.float32, device=DEVICE)
    compiled = torch.compile(upsampled_cross_entropy, fullgraph=True, backend='aot_eager')
    results = [
        with_gradient(function, logits, labels, backend='triton')
        for function in (upsampled_cross_entropy, compiled)
    ]
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.skipif(DEVICE == 'cpu', reason='CUDA graphs need a GPU')
def test_a_cuda_graph_repeats_loss_and_gradient():
    def run():
        loss, right = upsampled_cross_entropy(logits, labels, backend='triton')
        return loss, right, torch.autograd.grad(loss, logits)[0]

    logits, labels = draw_case(SIZES['odd factors'], torch.float32, device=DEVICE)
    others, other_labels = draw_case(SIZES['odd factors'], torch.float32, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    logits.data.copy_(others)
    labels.copy_(other_labels)
    graph.replay()
    for got, expected in zip(results, run(), strict=True):
        assert torch.equal(got, expected)


def test_what_the_kernels_cannot_do_is_said():
    logits, labels = draw_case(SHRINKING, torch.float32, device=DEVICE)
    with pytest.raises(NotImplementedError, match=r'no smaller than the logits; got \(4, 7\)'):
        upsampled_cross_entropy(logits, labels, backend='triton')
    with pytest.raises(NotImplementedError, match='got torch.float64'):
        upsampled_cross_entropy(logits.double(), labels, backend='triton')
