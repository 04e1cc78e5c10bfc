"""Logits and labels for the loss, and what torch's own operations make of them."""

import torch
from torch.nn.functional import cross_entropy, interpolate

# name: (B, C, h, w, H, W)
SIZES = {
    'sixteenth': (1, 5, 2, 2, 32, 32),
    'quarter': (1, 4, 5, 6, 20, 24),
    'odd factors': (2, 3, 3, 5, 10, 17),
    'many classes': (1, 70, 2, 2, 8, 8),
    'one row': (1, 3, 1, 4, 9, 13),
    'one logit': (2, 3, 1, 1, 4, 5),
    'same size': (1, 4, 3, 5, 3, 5),
    'more than a block': (1, 3, 2, 1, 40, 36),
}
SHRINKING = (1, 4, 6, 9, 4, 7)


def draw_case(size, dtype=torch.float64, ignore_index=255, device='cpu'):
    """-> logits that need gradients, labels of which some are ignored"""
    batch, classes, *old, height, width = size
    logits = 3 * torch.randn(batch, classes, *old, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, height, width))
    labels[torch.rand(labels.shape) < 0.2] = ignore_index
    return logits.to(device, dtype).requires_grad_(), labels.to(device)


def enlarged_loss(
    logits, labels, *, weight=None, ignore_index=255, align_corners=False, reduction='mean'
):
    """-> loss, right [B, H, W], the usual way"""
    size = labels.shape[1:]
    enlarged = interpolate(logits, size, mode='bilinear', align_corners=align_corners)
    loss = cross_entropy(enlarged, labels, weight, ignore_index=ignore_index, reduction=reduction)
    return loss, (enlarged.argmax(1) == labels) & (labels != ignore_index)
