"""Starting a backbone from the weights in a file."""

import logging
from collections import OrderedDict
from collections.abc import Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.conversion import convert, detect_source
from mita_seg.conversion.position_embedding import said_grid, say_grid
from mita_seg.conversion.sources import find_weights


def read_weights(
    source: str, prefix: str = '', pretrained_size: Sequence[int] | None = None
) -> OrderedDict[str, Tensor]:
    """Read weights from a checkpoint, without running any code that it may hold, and convert them.

    Args:
        source: File or URL of a checkpoint of any layout that :func:`mita_seg.conversion.convert`
            knows; weights of another layout are returned as they are.
        prefix: Keep only the weights whose names begin so, without it. A segmentor's checkpoint
            needs none: ``backbone.`` is recognised.
        pretrained_size: Image size (height, width), pixels, that the position embedding is for, if
            it is no square and the file does not say it.

    Returns:
        Weights by our names, with the patch grid of the position embedding in their metadata if the
        file or `pretrained_size` say it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, holds no such weights or cannot be converted.
    """
    checkpoint = load_checkpoint_safely(source)
    found = find_weights(checkpoint)
    if not all(isinstance(name, str) for name in found):
        raise ValueError(f'checkpoint {source!r}: the names of weights must be text')
    if not prefix and any(name.startswith('backbone.') for name in found):
        prefix = 'backbone.'
    weights = OrderedDict(
        (name.removeprefix(prefix), value)
        for name, value in found.items()
        if name.startswith(prefix)
    )
    if not weights:
        where = f' whose names begin with {prefix!r}' if prefix else ''
        raise ValueError(f'checkpoint {source!r} holds no weights{where}')
    grid = said_grid(found, prefix)
    if grid is not None:
        weights = say_grid(weights, grid)
    if detect_source(weights) is None:
        return weights
    try:
        conversion = convert(weights, pretrained_size=pretrained_size)
    except ValueError as error:
        raise ValueError(f'checkpoint {source!r}: {error}') from error
    for note in conversion.notes:
        print_log(f'{source!r}: {note}', logger='current')
    return conversion.weights


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load weights under the model's own names and list in one warning what did not match.

    Args:
        model: A backbone.
        weights: Weights by name.
        source: Where they come from, for messages.

    Raises:
        ValueError: A weight has another shape than the model's, none is the model's, or the weights
            have registers and the model has not.
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
    if 'register_tokens' in weights and 'register_tokens' not in own:
        raise ValueError(
            f'checkpoint {source!r} does not fit the model: it has registers; set '
            f'num_registers={weights["register_tokens"].shape[1]}'
        )
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        print_log(
            f'Weights of {source!r} do not match the model exactly. '
            f'Missing: {", ".join(missing) or "none"}. '
            f'Unexpected: {", ".join(unexpected) or "none"}.',
            logger='current',
            level=logging.WARNING,
        )
