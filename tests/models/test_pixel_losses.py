"""The losses of MiTAMaskTransformerHead are those of MMSegmentation's heads."""

import re

import mmseg
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from mmseg.structures import SegDataSample
from torch.nn.functional import interpolate

from mita_seg.models import MiTAMaskTransformerHead
from mita_seg.models.bilinear import enlarge

HEAD = {
    'in_channels': 8,
    'channels': 8,
    'embed_dims': 8,
    'num_heads': 1,
    'num_layers': 1,
    'num_classes': 5,
}
TWO_LOSSES = [
    {'type': 'CrossEntropyLoss', 'loss_name': 'loss_ce', 'class_weight': [1, 2, 3, 4, 5.0]},
    {'type': 'CrossEntropyLoss', 'loss_name': 'loss_more', 'loss_weight': 0.4},
]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(24, 36), (7, 50), (4, 6), (3, 3)])
def test_enlarging_equals_interpolation_in_output_and_gradient(size, align_corners):
    maps = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    expected = interpolate(maps, size, mode='bilinear', align_corners=align_corners)
    got = enlarge(maps, size, align_corners)
    weights = torch.randn_like(got)
    gradients = [torch.autograd.grad(out, maps, weights)[0] for out in (got, expected)]
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*gradients)


def test_enlarging_keeps_float32_under_autocast():
    maps = torch.randn(1, 2, 4, 6)
    with torch.autocast('cpu', torch.bfloat16):
        got = enlarge(maps, (8, 12))
        assert enlarge(maps.bfloat16(), (8, 12)).dtype == torch.float32
    assert torch.equal(got, enlarge(maps, (8, 12)))


@pytest.mark.parametrize(
    'options',
    [{}, {'loss_decode': TWO_LOSSES, 'align_corners': True}, {'ignore_index': 3}],
    ids=['usual', 'two losses', 'another ignored label'],
)
def test_losses_equal_those_of_the_stock_head(options):
    if 'loss_decode' in options and mmseg.__version__ == '1.2.2':
        pytest.skip('its CrossEntropyLoss fails with class weights and ignored labels')
    labels = torch.randint(0, 5, (2, 1, 32, 48))
    labels[:, :, :5] = options.get('ignore_index', 255)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    results = []
    for kind in (MiTAMaskTransformerHead, SegmenterMaskTransformerHead):
        losses = kind(**HEAD, **options).loss_by_feat(logits, samples)
        total = sum(value for name, value in losses.items() if 'loss' in name)
        results.append((losses, torch.autograd.grad(total, logits)[0]))
    (ours, our_gradient), (stock, stock_gradient) = results
    assert list(ours) == list(stock)
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_gradient, stock_gradient)


CE, BCE = {'type': 'CrossEntropyLoss'}, {'type': 'CrossEntropyLoss', 'use_sigmoid': True}
FOCAL = {'type': 'FocalLoss', 'loss_name': 'loss_focal'}
OHEM = {'type': 'OHEMPixelSampler', 'min_kept': 40}


def losses_of(kind, **options):
    """Losses and gradient of a head, on labels that are none of them 255."""
    torch.manual_seed(0)
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 32, 48)))) for _ in range(2)
    ]
    logits = torch.randn(2, 5, 4, 6, requires_grad=True)
    losses = kind(**HEAD, **options).loss_by_feat(logits, samples)
    total = sum(value for name, value in losses.items() if 'loss' in name)
    return {**losses, 'gradient': torch.autograd.grad(total, logits)[0]}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('loss', [BCE, {'type': 'DiceLoss'}, {'type': 'TverskyLoss'}])
def test_losses_without_an_ignored_label_equal_those_of_the_stock_head(loss):
    expected = losses_of(SegmenterMaskTransformerHead, loss_decode=loss, ignore_index=None)
    assert_same(losses_of(MiTAMaskTransformerHead, loss_decode=loss, ignore_index=None), expected)


@pytest.mark.parametrize('sampler', [None, OHEM, {**OHEM, 'thresh': 0.3}])
def test_ignoring_no_label_is_the_same_as_ignoring_one_that_is_not_there(sampler):
    """The stock head fails with CrossEntropyLoss, and with every sampler, if there is none."""
    options = {'loss_decode': CE, 'sampler': sampler}
    expected = losses_of(SegmenterMaskTransformerHead, ignore_index=255, **options)
    for ignore_index in (255, None):
        got = losses_of(MiTAMaskTransformerHead, ignore_index=ignore_index, **options)
        assert_same(got, expected)


@pytest.mark.parametrize('ignore_index', [255, None])
def test_focal_loss_beside_cross_entropy_is_as_in_the_stock_head(ignore_index):
    options = {'loss_decode': [CE, FOCAL]}
    try:
        expected = losses_of(SegmenterMaskTransformerHead, ignore_index=255, **options)
    except RuntimeError as error:  # the maintained family's FocalLoss takes no label maps
        with pytest.raises(RuntimeError, match=re.escape(str(error))):
            losses_of(MiTAMaskTransformerHead, ignore_index=ignore_index, **options)
    else:
        got = losses_of(MiTAMaskTransformerHead, ignore_index=ignore_index, **options)
        assert_same(got, expected)


def test_accuracy_of_a_batch_without_labels_is_zero():
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 8, 8), 255)))]
    losses = MiTAMaskTransformerHead(**HEAD).loss_by_feat(torch.randn(1, 5, 2, 2), samples)
    assert losses['acc_seg'].tolist() == [0] and losses['loss_ce'] == 0
