"""Losses that do without enlarged logits are those of enlarged logits, and of MMSegmentation."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead, SegmenterMaskTransformerHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mita_seg.models import FusedLossFCNHead, MiTAMaskTransformerHead
from mita_seg.models.decode_heads import pixel_losses

HEAD = {'in_channels': 8, 'channels': 8, 'num_classes': 5}
SEGMENTER = {**HEAD, 'embed_dims': 8, 'num_heads': 1, 'num_layers': 1}
CE = {'type': 'CrossEntropyLoss'}
WEIGHTS = {'class_weight': [1.0, 2, 3, 0, 5]}
FITTING = {
    'usual': {},
    'mean of labelled pixels': {'loss_decode': {**CE, 'avg_non_ignore': True}},
    'factor': {'loss_decode': {**CE, 'loss_weight': 0.4, 'loss_name': 'loss_other'}},
    'sum': {'loss_decode': {**CE, 'reduction': 'sum'}},
    'each pixel': {'loss_decode': {**CE, **WEIGHTS, 'reduction': 'none'}},
    'class weights, sum': {'loss_decode': {**CE, **WEIGHTS, 'reduction': 'sum'}},
    'two of one name': {'loss_decode': [CE, {**CE, 'loss_weight': 2.0}]},
    'another ignored label': {'ignore_index': 3},
    'aligned corners': {'align_corners': True},
}
OTHER = {
    'of single classes': {'loss_decode': {**CE, 'use_sigmoid': True}},
    'dice': {'loss_decode': {'type': 'DiceLoss'}, 'ignore_index': None},
    'sampler': {'sampler': {'type': 'OHEMPixelSampler', 'min_kept': 40}},
    'switched off': {'fused_loss': False},
}


def draw_batch(ignored=255):
    """-> logits [2, 5, 4, 6], samples with labels [32, 48] of which some are ignored"""
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (2, 1, 32, 48))
    if ignored is not None:
        labels[:, :, :5] = ignored
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    return torch.randn(2, 5, 4, 6, requires_grad=True), samples


def losses_of(head, logits, samples):
    """The losses by name, and the gradient of their sum."""
    losses = head.loss_by_feat(logits, samples)
    total = sum(value.mean() for name, value in losses.items() if 'loss' in name)
    return {**losses, 'gradient': torch.autograd.grad(total, logits)[0]}


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.fixture
def enlarged(monkeypatch):
    """The sizes to which logits were enlarged."""
    sizes, enlarge = [], pixel_losses.enlarge

    def note(logits, size, *options):
        sizes.append(tuple(size))
        return enlarge(logits, size, *options)

    monkeypatch.setattr(pixel_losses, 'enlarge', note)
    return sizes


@pytest.mark.parametrize('options', FITTING.values(), ids=FITTING)
def test_fused_losses_are_those_of_enlarged_logits_and_of_the_stock_head(options, enlarged):
    batch = draw_batch(options.get('ignore_index', 255))
    fused = losses_of(MiTAMaskTransformerHead(**SEGMENTER, **options), *batch)
    assert not enlarged
    head = MiTAMaskTransformerHead(**SEGMENTER, **options, fused_loss=False)
    assert_same(fused, losses_of(head, *batch))
    assert enlarged == [(32, 48)]
    assert_same(fused, losses_of(SegmenterMaskTransformerHead(**SEGMENTER, **options), *batch))


def test_class_weights_are_those_of_enlarged_logits(enlarged):
    """With a mean; without ignored labels, with which older versions of the stock loss fail."""
    options = {'loss_decode': [{**CE, **WEIGHTS}, CE]}
    batch = draw_batch(ignored=None)
    fused = losses_of(MiTAMaskTransformerHead(**SEGMENTER, **options), *batch)
    assert not enlarged
    assert_same(fused, losses_of(SegmenterMaskTransformerHead(**SEGMENTER, **options), *batch))


@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_ignored_pixels_have_no_class_weight(avg_non_ignore):
    loss = {**CE, **WEIGHTS, 'avg_non_ignore': avg_non_ignore}
    logits, samples = draw_batch()
    got = losses_of(MiTAMaskTransformerHead(**SEGMENTER, loss_decode=loss), logits, samples)
    for sample in samples:  # the same without the rows that are ignored
        sample.gt_sem_seg.data[:, :5] = 3  # of weight 0
    expected = losses_of(MiTAMaskTransformerHead(**SEGMENTER, loss_decode=loss), logits, samples)
    for name in ('loss_ce', 'gradient'):
        torch.testing.assert_close(got[name], expected[name])


@pytest.mark.parametrize('options', OTHER.values(), ids=OTHER)
def test_other_losses_take_enlarged_logits(options, enlarged):
    logits, samples = draw_batch(ignored=None)
    losses_of(MiTAMaskTransformerHead(**SEGMENTER, **options), logits, samples)
    assert enlarged == [(32, 48)]


def test_a_loss_of_ones_own_is_called_beside_a_fused_one(enlarged):
    class Doubled(CrossEntropyLoss):
        def forward(self, *args, **kwargs):
            return 2 * super().forward(*args, **kwargs)

    head = MiTAMaskTransformerHead(**SEGMENTER, loss_decode=[CE, CE])
    head.loss_decode[1] = Doubled(loss_name='loss_doubled')
    losses = losses_of(head, *draw_batch())
    assert list(losses) == ['loss_ce', 'loss_doubled', 'acc_seg', 'gradient']
    torch.testing.assert_close(losses['loss_doubled'], 2 * losses['loss_ce'])
    assert enlarged == [(32, 48)]


def test_weights_of_another_number_of_classes_are_refused_as_by_the_loss():
    loss = {**CE, 'class_weight': [1.0, 2.0]}
    with pytest.raises(RuntimeError, match='weight tensor should be defined'):
        losses_of(MiTAMaskTransformerHead(**SEGMENTER, loss_decode=loss), *draw_batch())


@pytest.mark.parametrize('options', [{}, {'loss_decode': {**CE, 'avg_non_ignore': True}}])
def test_auxiliary_head_has_weights_and_losses_of_the_stock_one(options, enlarged):
    config = {**HEAD, 'num_convs': 1, **options}
    stock, fused = FCNHead(**config), MODELS.build({'type': 'FusedLossFCNHead', **config})
    assert type(fused) is FusedLossFCNHead
    fused.load_state_dict(stock.state_dict(), strict=True)
    assert_same(losses_of(fused, *draw_batch()), losses_of(stock, *draw_batch()))
    assert not enlarged


@pytest.mark.slow
def test_one_graph_holds_logits_and_losses():
    head = MiTAMaskTransformerHead(**SEGMENTER, loss_decode={**CE, **WEIGHTS})
    logits, samples = draw_batch()
    labels = torch.stack([sample.gt_sem_seg.data for sample in samples])
    head._stack_batch_gt = lambda samples: samples
    compiled = torch.compile(head.loss_by_feat, fullgraph=True, backend='aot_eager')
    for name, value in compiled(logits, labels).items():
        torch.testing.assert_close(value, head.loss_by_feat(logits, labels)[name])
