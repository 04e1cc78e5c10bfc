"""Which of the backbone's maps a head takes."""

from collections.abc import Sequence

from torch import Tensor


def check_inputs(in_channels: int | Sequence[int], options: dict) -> None:
    """Refuse arguments by which no map can be taken; the base class has bare assertions.

    Args:
        in_channels: As in the head.
        options: Its other arguments: `in_index` and `input_transform` if given.

    Raises:
        ValueError: They do not go together.
    """
    transform, index = options.get('input_transform'), options.get('in_index', -1)
    if transform is None:
        if not isinstance(in_channels, int) or not isinstance(index, int):
            raise ValueError(
                "in_channels and in_index must be ints without input_transform='resize_concat', "
                f'got in_channels={in_channels!r} and in_index={index!r}'
            )
    elif transform != 'resize_concat':
        raise ValueError(
            "input_transform must be None or 'resize_concat': the head takes one map, got "
            f'{transform!r}'
        )
    elif not (
        isinstance(in_channels, list | tuple)
        and isinstance(index, list | tuple)
        and len(in_channels) == len(index)
    ):
        raise ValueError(
            'in_channels and in_index must be lists of one length with '
            f"input_transform='resize_concat', got in_channels={in_channels!r} and "
            f'in_index={index!r}'
        )


def check_maps(maps: Sequence[Tensor], in_index: int | Sequence[int]) -> None:
    """Refuse what a backbone returns where the chosen ones are no maps [B, C, h, w].

    Args:
        maps: What the backbone returns.
        in_index: Which of them are taken.

    Raises:
        ValueError: There are fewer, or one is something else.
    """
    for index in (in_index,) if isinstance(in_index, int) else in_index:
        if not -len(maps) <= index < len(maps):
            raise ValueError(
                f'in_index={in_index} needs more maps than the backbone returns, {len(maps)}'
            )
        chosen = maps[index]
        if not isinstance(chosen, Tensor) or chosen.ndim != 4:
            what = list(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ValueError(
                f'the head takes maps [B, C, h, w], got {what} at in_index={index} (a backbone '
                'with output_cls_token=True returns pairs)'
            )
