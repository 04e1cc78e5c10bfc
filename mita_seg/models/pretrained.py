"""Starting a backbone from the weights in a file."""

import logging

from mmengine.logging import print_log
from torch import Tensor, nn

from mita_seg.checkpoint import load_checkpoint_safely

# Ends of pretrained classifiers and segmentors, which a backbone has no use for.
_NOT_BACKBONE = ('head.', 'head_dist.', 'fc.', 'fc_norm.', 'pre_logits.', 'decode_head.')


def read_weights(source: str, prefix: str = '') -> dict[str, Tensor]:
    """Read weights from a checkpoint, without running any code that it may hold.

    Args:
        source: File or URL of a dict of weights, alone or as its ``state_dict`` or ``model``.
        prefix: Keep only the weights whose names begin so, without it. A segmentor's checkpoint
            needs none: ``backbone.`` is recognised.

    Returns:
        Weights by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or holds no such weights.
    """
    weights = load_checkpoint_safely(source)
    for key in ('state_dict', 'model'):
        if isinstance(weights.get(key), dict):
            weights = weights[key]
    if not prefix and any(name.startswith('backbone.') for name in weights):
        prefix = 'backbone.'
    weights = {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if isinstance(value, Tensor) and name.startswith(prefix)
    }
    if not weights:
        where = f' whose names begin with {prefix!r}' if prefix else ''
        raise ValueError(f'checkpoint {source!r} holds no weights{where}')
    return weights


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights under the model's own names and list in one warning what did not match.

    Args:
        model: A backbone.
        weights: Weights by name.
        source: Where they come from, for messages.

    Raises:
        ValueError: A weight has another shape than the model's, or none is the model's.
    """
    own = model.state_dict()
    for name, value in weights.items():
        if name in own and value.shape != own[name].shape:
            raise ValueError(
                f'checkpoint {source!r} does not fit the model: {name} is {list(value.shape)} in '
                f'the checkpoint and {list(own[name].shape)} in the model'
            )
    if weights.keys().isdisjoint(own):
        raise ValueError(
            f'checkpoint {source!r} holds no weight of the model: its first is '
            f'{next(iter(weights))}, that of the model {next(iter(own))}'
        )
    missing, unexpected = model.load_state_dict(weights, strict=False)
    unexpected = [name for name in unexpected if not name.startswith(_NOT_BACKBONE)]
    if missing or unexpected:
        print_log(
            f'Weights of {source!r} do not match the model exactly. '
            f'Missing: {", ".join(missing) or "none"}. '
            f'Unexpected: {", ".join(unexpected) or "none"}.',
            logger='current',
            level=logging.WARNING,
        )
