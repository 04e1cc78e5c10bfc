"""How well a segmentor does on a few images: cross entropy and mIoU of one pass."""

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmseg.evaluation.metrics import IoUMetric

from mita_seg.utils.spread import spread


@torch.no_grad()
def evaluate(model, dataset, images):
    """Evaluate a segmentor as its test does, sliding windows included.

    Args:
        model (BaseSegmentor): The segmentor.
        dataset (Dataset): With labels.
        images (int): How many images to look at, spread evenly over the data set.

    Returns:
        dict[str, float]: ``loss``, the cross entropy of the labelled pixels, mean over them, and
        ``mIoU`` in percent over the classes that occur.
    """
    model.eval()
    head = model.decode_head
    total, pixels, areas = 0.0, 0, 0
    for index in spread(len(dataset), images):
        (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        label = sample.gt_sem_seg.data.squeeze(0).to(sample.seg_logits.data.device).long()
        total += _cross_entropy(sample.seg_logits.data, label, head.ignore_index)
        pixels += int((label != head.ignore_index).sum())
        predicted = sample.pred_sem_seg.data.squeeze(0).to(label.device)
        classes = max(head.num_classes, 2)
        found = IoUMetric.intersect_and_union(predicted, label, classes, head.ignore_index)
        areas += np.stack([area.numpy() for area in found[:2]])
    intersection, union = areas
    present = union > 0
    miou = 100 * (intersection[present] / union[present]).mean() if present.any() else float('nan')
    return {'loss': total / max(pixels, 1), 'mIoU': float(miou)}


def _cross_entropy(logits, label, ignore_index):
    """Sum over the labelled pixels; logits [C, h, w], one channel for two classes."""
    if logits.shape[0] > 1:
        return F.cross_entropy(
            logits[None].float(), label[None], ignore_index=ignore_index, reduction='sum'
        ).item()
    labelled = label != ignore_index
    return F.binary_cross_entropy_with_logits(
        logits[0][labelled].float(), label[labelled].float(), reduction='sum'
    ).item()
