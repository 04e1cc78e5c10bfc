"""A patch embedding for colour images in a model for other channels."""

from torch import Tensor


def fit_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Adapt the weights of a patch embedding for three channels, as timm does for its `in_chans`.

    For one channel the three are summed, so that a grey image gives what it gave in colour. For
    others they are repeated in turn and scaled so that equal channels give what they gave before.

    Args:
        weight: [C, 3, p, p].
        channels: Channels wanted.

    Returns:
        [C, channels, p, p].
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)
