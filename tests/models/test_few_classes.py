"""MiTAMaskTransformerHead with one and two classes."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.runner.checkpoint import load_state_dict
from mmengine.structures import PixelData
from mmseg.models.decode_heads import SegmenterMaskTransformerHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mita_seg.models import MiTAMaskTransformerHead
from mita_seg.models.decode_heads import mita_mask_transformer_head

MITA = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 5}
HEAD = {'in_channels': 32, 'channels': 32, 'embed_dims': 32, 'num_layers': 1, 'num_heads': 2}
SIGMOID = {'type': 'CrossEntropyLoss', 'use_sigmoid': True}
ONE_CHANNEL = [
    {'num_classes': 1, 'loss_decode': SIGMOID},
    {'num_classes': 2, 'out_channels': 1, 'threshold': 0.5, 'loss_decode': SIGMOID},
]
BINARY = [{'num_classes': 2}, *ONE_CHANNEL]


def segmentor(**head):
    torch.manual_seed(0)
    model = MODELS.build(
        {
            'type': 'EncoderDecoder',
            'backbone': {
                'type': 'MiTAVisionTransformer',
                'img_size': 32,
                'patch_size': 8,
                'embed_dims': 32,
                'num_layers': 2,
                'num_heads': 2,
                'final_norm': True,
                'attn_cfg': MITA,
            },
            'decode_head': {
                'type': 'MiTAMaskTransformerHead',
                **HEAD,
                'drop_path_rate': 0,
                'attn_cfg': MITA,
                **head,
            },
            'test_cfg': ConfigDict(mode='slide', crop_size=(32, 32), stride=(16, 16)),
        }
    )
    model.init_weights()
    return model


def samples(labels):
    shape = {key: tuple(labels.shape[1:]) for key in ('img_shape', 'ori_shape', 'pad_shape')}
    return [
        SegDataSample(metainfo=shape, gt_sem_seg=PixelData(data=label[None])) for label in labels
    ]


def gradient(**head):
    """Norm of the loss's gradient in the backbone's map, for the median patch.

    Without layers in the head, which would hand the gradient of one patch on to all.
    """
    model = segmentor(num_layers=0, **head)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = (images[:, 0] > 1.6).long()  # one pixel in twenty
    (feature_map,) = model.backbone(images)
    losses = model.decode_head.loss([feature_map], samples(labels), None)
    (grad,) = torch.autograd.grad(losses['loss_ce'], feature_map)
    return grad.norm(dim=1).median()


def test_backbone_gets_as_large_a_gradient_as_with_three_classes():
    three = gradient(num_classes=3)
    assert gradient(num_classes=2, mask_norm='norm') < three / 50  # what the scale is for
    for options in BINARY:
        assert gradient(**options) > three


@pytest.mark.parametrize('options', BINARY)
def test_trains_and_validates_through_sliding_windows(options):
    model = segmentor(**options)
    head = model.decode_head
    images = torch.randn(4, 3, 32, 32)
    images[:, :, 8:16, 16:24] += 3
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    labels[:, 8:16, 16:24] = 1
    labels[:, :2] = 255
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        losses = model.loss(images, samples(labels))
        optimizer.zero_grad()
        losses['decode.loss_ce'].backward()
        optimizer.step()
    assert losses['decode.acc_seg'] > 97
    assert head(model.backbone(images)).shape == (4, head.out_channels, 4, 4)
    model.eval()
    (found,) = model.predict(images[:1], samples(labels[:1]))
    foreground = labels[:1] == 1
    assert ((found.pred_sem_seg.data == 1) & foreground).sum() > 0.6 * foreground.sum()
    larger = torch.randn(1, 3, 48, 40)
    (found,) = model.predict(larger, samples(torch.zeros(1, 48, 40).long()))
    assert found.pred_sem_seg.shape == (48, 40)
    assert found.seg_logits.data.shape[0] == head.out_channels


@pytest.mark.parametrize('options', ONE_CHANNEL)
def test_accuracy_of_one_channel_counts_pixels_on_the_right_side_of_the_threshold(options):
    head = MiTAMaskTransformerHead(**{**HEAD, **options, 'threshold': 0.9})
    logits = torch.tensor([3.0, 1.0, -3.0, 3.0]).view(1, 1, 2, 2)  # 0.95, 0.73, 0.05, 0.95
    labels = torch.tensor([1, 1, 0, 255]).view(1, 2, 2)
    losses = head.loss_by_feat(logits, samples(labels))
    torch.testing.assert_close(losses['acc_seg'], torch.tensor([200 / 3]))


def test_stock_head_of_two_classes_is_there_when_asked_for():
    stock = SegmenterMaskTransformerHead(**HEAD, num_classes=2, dropout_ratio=0).eval()
    stock.init_weights()
    ours = MiTAMaskTransformerHead(
        **HEAD, num_classes=2, mask_norm='norm', attn_cfg={'type': 'FullAttention'}
    ).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    features = [torch.randn(1, 32, 4, 6)]
    torch.testing.assert_close(ours(features), stock(features), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('kind', ['stock', 'ours'])
def test_weights_of_the_other_kind_are_refused_by_every_loader(kind):
    scale = MiTAMaskTransformerHead(**HEAD, num_classes=2)
    if kind == 'stock':
        source, target = SegmenterMaskTransformerHead(**HEAD, num_classes=2), scale
        message = "of a head with mask_norm='norm', got mask_norm='scale'"
    else:
        source = scale
        target = MiTAMaskTransformerHead(**HEAD, num_classes=2, mask_norm='norm')
        message = "of a head with mask_norm='scale', got mask_norm='norm'"
    for load in (target.load_state_dict, lambda weights: load_state_dict(target, weights)):
        with pytest.raises(ValueError, match=message):
            load(source.state_dict())


def test_fine_tuning_from_more_classes_passes_over_the_classes():
    source = SegmenterMaskTransformerHead(**HEAD, num_classes=7)
    target = MiTAMaskTransformerHead(**HEAD, num_classes=2, attn_cfg={'type': 'FullAttention'})
    load_state_dict(target, source.state_dict())  # not strict: shapes that differ are logged
    assert torch.equal(target.dec_proj.weight, source.dec_proj.weight)


def test_three_classes_have_the_parameters_of_the_stock_head():
    stock = SegmenterMaskTransformerHead(**HEAD, num_classes=3)
    ours = MiTAMaskTransformerHead(**HEAD, num_classes=3, attn_cfg={'type': 'FullAttention'})
    ours.load_state_dict(stock.state_dict(), strict=True)


@pytest.mark.parametrize(('num_classes', 'lines'), [(1, 1), (2, 1), (3, 0)])
def test_one_line_says_what_was_chosen(num_classes, lines, monkeypatch):
    logged = []
    monkeypatch.setattr(
        mita_mask_transformer_head, 'print_log', lambda text, **_: logged.append(text)
    )
    MiTAMaskTransformerHead(**HEAD, num_classes=num_classes, loss_decode=SIGMOID)
    MiTAMaskTransformerHead(**HEAD, num_classes=num_classes, loss_decode=SIGMOID, mask_norm='scale')
    assert len(logged) == lines
    assert all(f"num_classes={num_classes}: mask_norm is 'scale'" in line for line in logged)


def test_scale_may_be_chosen_for_more_classes():
    head = MiTAMaskTransformerHead(**HEAD, num_classes=5, mask_norm='scale')
    torch.nn.init.zeros_(head.mask_norm.scale)
    head.init_weights()
    assert head.mask_norm.scale.tolist() == pytest.approx([32**0.5] * 5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_classes': 2, 'mask_norm': 'ln'}, "mask_norm must be 'auto'.*got 'ln'"),
        (
            {'num_classes': 1, 'mask_norm': 'norm', 'loss_decode': SIGMOID},
            "mask_norm='norm' needs a channel .*num_classes=1 and out_channels=1",
        ),
        (
            {'num_classes': 2, 'out_channels': 1, 'mask_norm': 'norm', 'loss_decode': SIGMOID},
            "mask_norm='norm' needs a channel .*num_classes=2 and out_channels=1",
        ),
        (
            {'num_classes': 5, 'out_channels': 1, 'loss_decode': SIGMOID},
            'out_channels=1 needs num_classes of 1 or 2, got num_classes=5',
        ),
        ({'num_classes': 1}, 'loss_decode CrossEntropyLoss does not tell'),
        (
            {'num_classes': 2, 'out_channels': 1, 'loss_decode': [SIGMOID, {'type': 'DiceLoss'}]},
            'loss_decode DiceLoss does not tell foreground from background',
        ),
        (
            {
                'num_classes': 1,
                'loss_decode': SIGMOID,
                'sampler': {'type': 'OHEMPixelSampler', 'thresh': 0.7},
            },
            'sampler OHEMPixelSampler with a thresh needs a channel for each class',
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        MiTAMaskTransformerHead(**HEAD, **options)
