"""The losses of a decode head at the resolution of the labels."""

from collections.abc import Sequence

import torch
from mmseg.models.losses import CrossEntropyLoss
from torch import Tensor, nn

from mita_seg.models.bilinear import enlarge
from mita_seg.ops import upsampled_cross_entropy


class PixelLosses:
    """The loss of MMSegmentation's decode heads, to be named before the head's class.

    The figures of :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`, without its waits
    for the device (which counts the labelled pixels there) and with a repeatable backward pass.
    Cross entropy over classes is taken pixel by pixel, without logits of the size of the labels;
    for other losses, and where a sampler chooses pixels, the logits are enlarged.

    Attributes:
        fused_loss: Whether cross entropy does without enlarged logits.
    """

    fused_loss = True

    def __init__(self, *args, fused_loss: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.fused_loss = fused_loss

    def _criteria(self) -> list[nn.Module]:
        losses = self.loss_decode
        return list(losses) if isinstance(losses, nn.ModuleList) else [losses]

    def _is_fused(self, criterion: nn.Module) -> bool:
        return (
            self.fused_loss
            and self.sampler is None
            and is_plain_cross_entropy(criterion, self.out_channels)
        )

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses at the resolution of the labels, and the share of right pixels.

        One channel is right where it is on the right side of `threshold`.

        Args:
            seg_logits: Logits [B, out_channels, h, w].
            batch_data_samples: SegDataSamples with label maps [1, H, W].

        Returns:
            The losses by name, and ``acc_seg``, percent of the labelled pixels, [1].
        """
        labels = self._stack_batch_gt(batch_data_samples)  # [B, 1, H, W]
        fused = [self._is_fused(criterion) for criterion in self._criteria()]
        logits = weight = pixels = None
        if not all(fused):
            logits = enlarge(seg_logits, labels.shape[2:], self.align_corners)
            weight = None if self.sampler is None else self.sampler.sample(logits, labels)
        labels = labels.squeeze(1)
        if any(fused):
            pixels = upsampled_cross_entropy(
                seg_logits,
                labels,
                ignore_index=self.ignore_index,
                align_corners=self.align_corners,
                reduction='none',
            )
        losses = {}
        for criterion, is_fused in zip(self._criteria(), fused, strict=True):
            if is_fused:
                loss = reduce_cross_entropy(criterion, pixels.loss, labels, self.ignore_index)
            else:
                loss = criterion(logits, labels, weight=weight, ignore_index=self.ignore_index)
            losses[criterion.loss_name] = losses.get(criterion.loss_name, 0) + loss
        with torch.no_grad():
            labelled = labels != self.ignore_index
            right = self._find_right(logits, labels) if pixels is None else pixels.right
            right = right & labelled
            losses['acc_seg'] = 100 * right.sum().view(1) / labelled.sum().clamp(min=1)
        return losses

    def _find_right(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.out_channels == 1:
            return (logits.squeeze(1).sigmoid() > self.threshold) == labels
        return logits.argmax(1) == labels


def is_plain_cross_entropy(criterion: nn.Module, num_classes: int) -> bool:
    """Whether a loss is MMSegmentation's own cross entropy, over classes, as many as given."""
    if type(criterion) is not CrossEntropyLoss or criterion.use_sigmoid or criterion.use_mask:
        return False
    return criterion.class_weight is None or len(criterion.class_weight) == num_classes


def reduce_cross_entropy(
    criterion: CrossEntropyLoss, losses: Tensor, labels: Tensor, ignore_index: int
) -> Tensor:
    """What `criterion` makes of the losses of single pixels.

    With class weights the mean is over those of the labelled pixels, whatever `avg_non_ignore`
    (with which the criterion itself fails).

    Args:
        criterion: Its class weights, reduction and factor are taken.
        losses: Cross entropy without class weights, 0 where the pixel is ignored, [B, H, W].
        labels: [B, H, W].
        ignore_index: The label that does not count.

    Returns:
        [], or [B, H, W] without reduction.
    """
    divisor = labels.numel()
    if criterion.class_weight is not None:
        labelled = labels != ignore_index
        weights = _look_up(criterion.class_weight, labels.where(labelled, 0), losses)
        weights = weights.where(labelled, 0)
        losses, divisor = losses * weights, weights.sum()
    elif criterion.avg_non_ignore:
        divisor = (labels != ignore_index).sum()
    if criterion.reduction == 'none':
        return criterion.loss_weight * losses
    loss = losses.sum()
    if criterion.reduction == 'mean':
        # 0 if no pixel counts.
        loss = loss / (divisor + torch.finfo(torch.float32).eps)
    return criterion.loss_weight * loss


def _look_up(class_weight: Sequence[float], index: Tensor, like: Tensor) -> Tensor:
    weights = like.new_tensor(class_weight)
    return weights[index.clamp(0, len(weights) - 1)]
