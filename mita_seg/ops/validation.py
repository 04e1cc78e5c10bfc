"""Argument checks of the public operators: name the argument, its value and what is accepted."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _is_int(value: object) -> bool:
    if type(value) is int:  # nearly always, and soon told
        return True
    if torch.jit.is_tracing() and isinstance(value, Tensor):  # what sizes are while tracing
        return True
    # Dynamo of torch 2.7 follows neither `int | torch.SymInt` nor, below, all() of a generator.
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def check_heads(**tensors: Tensor) -> None:
    """Every tensor is floating point, [B, H, rows, d], and alike in B, H, d, dtype and device.

    B and H may be 0, rows and d may not.

    Raises:
        TypeError: Not a tensor, not floating point, or dtypes that differ.
        ValueError: Wrong rank, no rows or columns, or shapes or devices that differ.
    """
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor is not first and _are_alike(tensor, first):  # nearly always, and soon told
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{name} must be a torch.Tensor, got {type(tensor).__name__}')
        if not tensor.is_floating_point():
            raise TypeError(f'{name} must be floating point, got {tensor.dtype}')
        if tensor.ndim != 4:
            raise ValueError(
                f'{name} must have 4 dimensions [B, H, N, d], got shape {tuple(tensor.shape)}'
            )
        if tensor.shape[2] == 0 or tensor.shape[3] == 0:
            raise ValueError(
                f'{name} must have no empty dimension but B and H, got shape {tuple(tensor.shape)}'
            )
        if tensor.dtype != first.dtype:
            raise TypeError(
                f'{name} must have the dtype of {first_name}, {first.dtype}, got {tensor.dtype}'
            )
        if tensor.device != first.device:
            raise ValueError(
                f'{name} must be on the device of {first_name}, {first.device}, got {tensor.device}'
            )
        same = tensor.shape[:2] == first.shape[:2] and tensor.shape[3] == first.shape[3]
        if not same:
            raise ValueError(
                f'{name} must agree with {first_name} in B, H and d: {first_name} is '
                f'{tuple(first.shape)}, {name} is {tuple(tensor.shape)}'
            )


def _are_alike(tensor: object, first: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.shape == first.shape
        and tensor.dtype == first.dtype
        and tensor.device == first.device
    )


def check_same_tokens(**tensors: Tensor) -> None:
    """All tensors [B, H, N, d] have the same number of tokens N, else ValueError."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor.shape[2] != first.shape[2]:
            raise ValueError(
                f'{name} must hold as many tokens as {first_name}: {first_name} is '
                f'{tuple(first.shape)}, {name} is {tuple(tensor.shape)}'
            )


def check_int(name: str, number: int, minimum: int) -> None:
    """number is an int of at least `minimum`, else TypeError or ValueError."""
    if not _is_int(number):
        raise TypeError(f'{name} must be an int, got {number!r}')
    if number < minimum:
        raise ValueError(f'{name} must be at least {minimum}, got {number}')


def check_num_routed(num_routed: int, num_landmarks: int) -> None:
    """num_routed is an int from 1 to the number of landmarks, else TypeError or ValueError."""
    if not _is_int(num_routed):
        raise TypeError(f'num_routed must be an int, got {num_routed!r}')
    if not 1 <= num_routed <= num_landmarks:
        raise ValueError(
            f'num_routed must be from 1 to the number of landmarks, {num_landmarks}, '
            f'got {num_routed}'
        )


def check_experts(
    topk: int, num_routed: int, num_landmarks: int, shared: bool, remainder: bool = False
) -> None:
    """topk and num_routed are in range and there is an expert, else TypeError or ValueError.

    With a remainder there is one routed expert and no shared one.
    """
    check_int('topk', topk, 0)
    check_num_routed(num_routed, num_landmarks)
    if not isinstance(remainder, bool):
        raise TypeError(f'remainder must be a bool, got {remainder!r}')
    if remainder:
        if shared:
            raise ValueError(
                'shared must be False with remainder=True, as the remainder takes the place of the '
                f'shared expert, got {shared!r}'
            )
        if num_routed != 1:
            raise ValueError(f'num_routed must be 1 with remainder=True, got {num_routed}')
        if topk < 1:
            raise ValueError(f'topk must be at least 1 with remainder=True, got {topk}')
    if topk == 0 and not shared:
        raise ValueError('topk=0 with shared=False leaves nothing to attend to')


def check_pair(name: str, pair: Sequence[int]) -> None:
    """pair is two positive ints (rows, columns), else TypeError or ValueError."""
    is_sequence = type(pair) in (tuple, list) or (
        isinstance(pair, Sequence) and not isinstance(pair, str)
    )
    is_pair = is_sequence and len(pair) == 2
    if not is_pair or not (_is_int(pair[0]) and _is_int(pair[1])):
        raise TypeError(f'{name} must be two ints (rows, columns), got {pair!r}')
    if pair[0] < 1 or pair[1] < 1:
        raise ValueError(f'{name} must be two ints of at least 1, got {pair!r}')


def check_grid(grid: Sequence[int], start: int, num_tokens: int) -> None:
    """The patch tokens [start, start + h * w) exist, else TypeError or ValueError."""
    check_pair('grid', grid)
    check_int('start', start, 0)
    height, width = grid
    if start + height * width > num_tokens:
        raise ValueError(
            f'grid {tuple(grid)} from token start={start} needs '
            f'{start + height * width} tokens, but there are {num_tokens}'
        )


def check_scale(name: str, scale: float) -> float:
    """scale is a finite number, else TypeError or ValueError."""
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f'{name} must be a number, got {scale!r}')
    if not -math.inf < scale < math.inf:  # torch.compile follows this, but not math.isfinite
        raise ValueError(f'{name} must be finite, got {scale!r}')
    return float(scale)
