"""Whether a loss can train a head of one channel, the logit of the foreground."""

import torch
from torch import nn


def check_loss_of_one_channel(criterion: nn.Module, ignore_index: int) -> None:
    """Try a loss on a small map; it must be lower for the right sign than for the wrong one.

    Only a trial tells: softmax over one channel is constant, and some losses take one channel for
    the background's.

    Args:
        criterion: A loss of MMSegmentation, called as its heads do.
        ignore_index: The label that does not count.

    Raises:
        ValueError: The loss fails, or does not prefer the right sign.
    """
    labels = torch.zeros(1, 8, 8, dtype=torch.long, device='cpu')
    labels[:, 2:5, 3:7] = 1
    right = 4 * (2 * labels.unsqueeze(1) - 1).float()
    try:
        with torch.no_grad():
            losses = [
                criterion(logits, labels, weight=None, ignore_index=ignore_index).mean()
                for logits in (right, -right)
            ]
    # What a loss that was not made for one channel raises differs from one to the next.
    except Exception:
        losses = None
    if losses is None or not losses[0] < losses[1]:
        raise ValueError(
            f'loss_decode {type(criterion).__name__} does not tell foreground from background by '
            "one channel: use dict(type='CrossEntropyLoss', use_sigmoid=True), or num_classes=2 "
            'without out_channels=1'
        )
