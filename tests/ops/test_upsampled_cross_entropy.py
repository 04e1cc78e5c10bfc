"""Cross entropy of enlarged logits, in torch operations, against interpolate and cross_entropy."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mita_seg.ops import chunked_cross_entropy, upsampled_cross_entropy
from support.loss_cases import SHRINKING, SIZES, draw_case, enlarged_loss

ALL_SIZES = {**SIZES, 'shrinking': SHRINKING}


@pytest.fixture(params=['chunks', 'one chunk'])
def chunks(request, monkeypatch):
    """A few rows of pixels in each chunk, or all."""
    if request.param == 'chunks':
        monkeypatch.setattr(chunked_cross_entropy, 'CPU_CHUNK', 700)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', ALL_SIZES.values(), ids=ALL_SIZES)
def test_losses_and_gradients_equal_those_of_enlarged_logits(size, align_corners, chunks):
    logits, labels = draw_case(size)
    results = []
    for function in (upsampled_cross_entropy, enlarged_loss):
        loss, right = function(logits, labels, align_corners=align_corners, reduction='none')
        weights = torch.rand(loss.shape, generator=torch.Generator().manual_seed(1)).double()
        results.append((loss, right, *torch.autograd.grad(loss, logits, weights)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('weight', [None, (0.5, 2, 0, 1, 3)])
@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('ignore_index', [255, -100, 3])
def test_reductions_class_weights_and_ignored_labels_are_as_in_cross_entropy(
    reduction, weight, ignore_index
):
    logits, labels = draw_case(SIZES['sixteenth'], ignore_index=ignore_index)
    weight = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    options = {'weight': weight, 'reduction': reduction, 'ignore_index': ignore_index}
    (loss, right), (wanted, right_wanted) = (
        function(logits, labels, **options) for function in (upsampled_cross_entropy, enlarged_loss)
    )
    torch.testing.assert_close(loss, wanted)
    assert torch.equal(right, right_wanted)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (loss, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('align_corners', [False, True])
def test_gradient_is_that_of_the_output(align_corners, chunks):
    logits, labels = draw_case(SIZES['odd factors'])

    def loss(logits):
        return upsampled_cross_entropy(logits, labels, align_corners=align_corners).loss

    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
@pytest.mark.parametrize('weight', [None, torch.ones(5)])
def test_loss_and_gradient_are_zero_where_all_pixels_are_ignored(reduction, weight):
    logits, labels = draw_case(SIZES['sixteenth'], torch.float32)
    labels = torch.full_like(labels, 255)
    loss, right = upsampled_cross_entropy(logits, labels, weight=weight, reduction=reduction)
    assert loss == 0 and not right.any()
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_of_equal_logits_the_first_is_the_prediction():
    logits = torch.zeros(1, 4, 2, 2)
    labels = torch.arange(16).view(1, 4, 4) % 4
    assert torch.equal(upsampled_cross_entropy(logits, labels).right, labels == 0)


def test_an_empty_batch_has_a_loss_of_zero():
    logits = torch.zeros(0, 3, 2, 2, requires_grad=True)
    loss, right = upsampled_cross_entropy(logits, torch.zeros(0, 4, 4, dtype=torch.long))
    loss.backward()
    assert loss == 0 and right.shape == (0, 4, 4) and logits.grad.shape == (0, 3, 2, 2)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype):
    logits, labels = draw_case(SIZES['sixteenth'], dtype)
    wanted, _ = enlarged_loss(logits.float(), labels)
    (gradient,) = torch.autograd.grad(wanted, logits)
    with torch.autocast('cpu', torch.bfloat16):
        loss, _ = upsampled_cross_entropy(logits, labels)
        (got,) = torch.autograd.grad(loss, logits)
    assert loss.dtype == torch.float32 and got.dtype == dtype
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got, gradient)


def test_any_strides_and_integers_will_do():
    logits, labels = draw_case(SIZES['odd factors'])
    expected = upsampled_cross_entropy(logits, labels)
    turned = logits.detach().permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1).requires_grad_()
    labels = labels.to(torch.uint8).transpose(1, 2).contiguous().transpose(1, 2)
    got = upsampled_cross_entropy(turned, labels)
    torch.testing.assert_close(got, expected)
    gradients = [
        torch.autograd.grad(*each)[0] for each in ((got.loss, turned), (expected.loss, logits))
    ]
    torch.testing.assert_close(*gradients)


class _Largest(TorchDispatchMode):
    """The number of elements of the largest floating point tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return results


def test_no_tensor_is_larger_than_a_chunk(monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, 'CPU_CHUNK', 2**14)
    logits, labels = draw_case((2, 60, 4, 4, 64, 64), torch.float32)  # 2**19 enlarged
    with _Largest() as largest:
        loss, _ = upsampled_cross_entropy(logits, labels, backend='torch')
        torch.autograd.grad(loss, logits)
    assert labels.numel() <= largest.elements <= 2**14


@pytest.mark.slow
def test_torch_compile_makes_one_graph():
    logits, labels = draw_case(SIZES['odd factors'], torch.float32)
    weight = torch.rand(3)
    compiled = torch.compile(upsampled_cross_entropy, fullgraph=True, backend='aot_eager')
    results = []
    for function in (upsampled_cross_entropy, compiled):
        loss, right = function(logits, labels, weight=weight)
        results.append((loss, right, *torch.autograd.grad(loss, logits)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        ({'logits': torch.ones(1, 3, 2, 2).long()}, TypeError, 'logits must be floating point'),
        (
            {'logits': torch.ones(3, 2, 2)},
            ValueError,
            r'logits must be \[B, C, h, w\].*\(3, 2, 2\)',
        ),
        ({'labels': torch.ones(1, 4, 4)}, TypeError, 'labels must be integers, got torch.float32'),
        ({'labels': torch.ones(2, 4, 4).long()}, ValueError, r'B=1 .* got shape \(2, 4, 4\)'),
        (
            {'labels': torch.full((1, 4, 4), 3)},
            ValueError,
            'from 0 to 2, or ignore_index=255, got 3',
        ),
        ({'labels': torch.full((1, 4, 4), -1)}, ValueError, 'got -1'),
        ({'weight': torch.ones(4)}, ValueError, r'weight must .* \(3,\), got \(4,\)'),
        ({'reduction': 'max'}, ValueError, "reduction must be one of .* got 'max'"),
        ({'backend': 'cuda'}, ValueError, "backend must be one of .* got 'cuda'"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    arguments = {'logits': torch.ones(1, 3, 2, 2), 'labels': torch.ones(1, 4, 4).long(), **changes}
    with pytest.raises(error, match=message):
        upsampled_cross_entropy(arguments.pop('logits'), arguments.pop('labels'), **arguments)
