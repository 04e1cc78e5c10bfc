"""Cross entropy of logits that are enlarged bilinearly to the size of the labels.

The pixels between four neighbouring logits are a cell. Two rows of logits and the ones beside the
borders make up h + 1 rows of cells, so that a cell of the first row has its pixels above the first
logits, whose two rows are then the same. So with the columns.

Forward, a thread has pixels of its own and goes through the classes, whose logits at the corners
are the same for all pixels of a cell. Backward, a thread has classes of its own and goes through
the pixels of one cell: the sums that are wanted, over classes there and over pixels here, never
leave a thread. Every corner's gradient is the sum of four cells', which a small kernel adds.

Positions are exact, as they are quotients of integers: pixel y lies (y slope + offset) / unit rows
below the first row. Logits are in base 2, as exp2 is the instruction that the hardware has.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import LOG2E, cdiv, next_power_of_2
from .plan import Plan, call

_LOG2E = tl.constexpr(LOG2E)
_LN2 = tl.constexpr(1 / LOG2E)
_LEAST = tl.constexpr(-1e30)  # logit of a class that is not there: finite, as 0 times it is 0
SUM_ENTRIES = 512  # of a program that adds the gradients of cells


@triton.jit
def _first_pixel(cell, slope, offset, unit, size):
    """The first of a cell's pixels along an axis; `size` for the one after the last cell."""
    beyond = tl.maximum((cell - 1) * unit - offset, 0)
    return tl.minimum((beyond + slope - 1) // slope, size)


@triton.jit
def _second_share(pixel, cell, slope, offset, unit, count):
    """Share, in a pixel, of the second of its cell's two rows.

    In the cells at the borders both rows are the same, and one of them gets all.
    """
    share = (pixel * slope + offset - (cell - 1) * unit).to(tl.float32) / unit
    return tl.where(cell == 0, 1.0, tl.where(cell == count, 0.0, share))


@triton.jit
def _load_corner(p_logits, o_corner, o_class, C: tl.constexpr):
    """Logits of the classes at a corner, in base 2; one of `o_corner` and `o_class` is a row."""
    present = o_class < C
    b_logits = tl.load(p_logits + o_corner * C + o_class, mask=present, other=0.0)
    return tl.where(present, b_logits.to(tl.float32) * _LOG2E, _LEAST)


@triton.jit
def _interpolate(b_00, b_01, b_10, b_11, w_00, w_01, w_10, w_11):
    """Sum of the corners' logits by their shares. The same roundings wherever it is called."""
    b_sum = tl.fma(b_01, w_01, b_00 * w_00)
    return tl.fma(b_11, w_11, tl.fma(b_10, w_10, b_sum))


@triton.jit
def _cross_entropy_kernel(
    p_logits, p_labels, p_losses, p_right, p_lse,
    stride_b, stride_y, stride_x,
    rows, columns, height, width, slope_y, offset_y, unit_y, slope_x, offset_x, unit_x,
    most_y, most_x, ignore_index,
    C: tl.constexpr, CELLS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Loss, whether it is right, and log-sum-exp of each pixel. Grid (.., rows + 1, B).

    Reads the logits once for each block of pixels, from cache, and labels once. A program has
    PIXELS of the pixels of each of CELLS cells of one row; most_y most_x is how many a cell may
    have.
    """
    blocks = (most_y * most_x + PIXELS - 1) // PIXELS
    i, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    p_logits += image * rows * columns * C
    p_labels += image * stride_b
    j = tl.program_id(0) // blocks * CELLS + tl.arange(0, CELLS)  # [J]
    o_p = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)  # [P]
    y = _first_pixel(i, slope_y, offset_y, unit_y, height) + o_p // most_x  # [P]
    x = (
        _first_pixel(j, slope_x, offset_x, unit_x, width)[:, None] + (o_p % most_x)[None, :]
    )  # [J, P]
    inside = (y < _first_pixel(i + 1, slope_y, offset_y, unit_y, height))[None, :] & (
        x < _first_pixel(j + 1, slope_x, offset_x, unit_x, width)[:, None]
    )
    w_y = _second_share(y, i, slope_y, offset_y, unit_y, rows)[None, :]
    w_x = _second_share(x, j[:, None], slope_x, offset_x, unit_x, columns)
    w_00, w_01 = ((1 - w_y) * (1 - w_x))[None, :, :], ((1 - w_y) * w_x)[None, :, :]
    w_10, w_11 = (w_y * (1 - w_x))[None, :, :], (w_y * w_x)[None, :, :]
    label = tl.load(
        p_labels + y[None, :] * stride_y + x * stride_x, mask=inside, other=ignore_index
    ).to(tl.int32)  # [J, P]
    known = (label >= 0) & (label < C)
    lowest = tl.min(tl.min(tl.where(known, label, C), 1), 0)
    highest = tl.max(tl.max(tl.where(known, label, -1), 1), 0)

    top, bottom = tl.maximum(i - 1, 0) * columns, tl.minimum(i, rows - 1) * columns
    left = tl.minimum(tl.maximum(j - 1, 0), columns - 1)[None, :]
    right = tl.minimum(j, columns - 1)[None, :]
    b_peak = tl.full([CELLS, PIXELS], float('-inf'), dtype=tl.float32)
    b_total = tl.zeros([CELLS, PIXELS], dtype=tl.float32)
    b_own = tl.zeros([CELLS, PIXELS], dtype=tl.float32)  # logit of the label
    b_rival = tl.full([CELLS, PIXELS], float('-inf'), dtype=tl.float32)  # largest of those before
    for start in range(0, C, BLOCK_C):
        o_c = start + tl.arange(0, BLOCK_C)[:, None]
        b_00 = _load_corner(p_logits, top + left, o_c, C)[:, :, None]  # [C, J, 1]
        b_01 = _load_corner(p_logits, top + right, o_c, C)[:, :, None]
        b_10 = _load_corner(p_logits, bottom + left, o_c, C)[:, :, None]
        b_11 = _load_corner(p_logits, bottom + right, o_c, C)[:, :, None]
        b_logits = _interpolate(b_00, b_01, b_10, b_11, w_00, w_01, w_10, w_11)  # [C, J, P]
        if (start <= highest) & (start + BLOCK_C > lowest):  # few blocks: cells are of few classes
            c = o_c[:, :, None]
            here = (label >= start) & (label < start + BLOCK_C)
            b_own += tl.sum(tl.where(c == label[None, :, :], b_logits, 0.0), 0)
            b_before = tl.max(tl.where(c < label[None, :, :], b_logits, float('-inf')), 0)
            b_rival = tl.where(here, tl.maximum(b_peak, b_before), b_rival)
        b_new = tl.maximum(b_peak, tl.max(b_logits, 0))
        b_terms = tl.exp2(b_logits - b_new[None, :, :])
        b_total = b_total * tl.exp2(b_peak - b_new) + tl.sum(b_terms, 0)
        b_peak = b_new

    b_log = tl.log2(b_total)
    counts = label != ignore_index
    b_loss = (b_log - (b_own - b_peak)) * _LN2
    b_loss = tl.where(counts, tl.where(known, b_loss, float('nan')), 0.0)
    # The first of the largest logits, as argmax takes it.
    is_right = counts & known & (b_own > b_rival) & (b_own >= b_peak)
    o_pixel = image * height * width + y[None, :] * width + x
    tl.store(p_losses + o_pixel, b_loss, mask=inside)
    tl.store(p_right + o_pixel, is_right, mask=inside)
    tl.store(p_lse + o_pixel, b_peak + b_log, mask=inside)


@triton.jit
def _cell_backward_kernel(
    p_logits, p_labels, p_lse, p_grad, p_cells,
    stride_b, stride_y, stride_x, stride_grad_b, stride_grad_y, stride_grad_x,
    rows, columns, height, width, slope_y, offset_y, unit_y, slope_x, offset_x, unit_x,
    most_y, most_x, ignore_index,
    C: tl.constexpr, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What a cell gives to the gradients of its corners. Grid (.., rows + 1, B).

    Reads logits, labels, log-sum-exp and gradient as often as there are blocks of classes, nearly
    always from cache, and writes 4 C numbers a cell. A program has BLOCK_C classes of a cell.
    """
    BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    j, i, image = tl.program_id(0) // BLOCKS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    o_c = tl.program_id(0) % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]  # [1, C]
    p_logits += image * rows * columns * C
    p_labels += image * stride_b
    p_grad += image * stride_grad_b
    p_lse += image * height * width
    top, bottom = tl.maximum(i - 1, 0) * columns, tl.minimum(i, rows - 1) * columns
    left, right = tl.maximum(j - 1, 0), tl.minimum(j, columns - 1)
    b_00 = _load_corner(p_logits, top + left, o_c, C)  # [1, C]
    b_01 = _load_corner(p_logits, top + right, o_c, C)
    b_10 = _load_corner(p_logits, bottom + left, o_c, C)
    b_11 = _load_corner(p_logits, bottom + right, o_c, C)
    g_00, g_01, g_10, g_11 = (
        tl.zeros([BLOCK_C], dtype=tl.float32), tl.zeros([BLOCK_C], dtype=tl.float32),
        tl.zeros([BLOCK_C], dtype=tl.float32), tl.zeros([BLOCK_C], dtype=tl.float32),
    )  # fmt: skip
    first_y = _first_pixel(i, slope_y, offset_y, unit_y, height)
    first_x = _first_pixel(j, slope_x, offset_x, unit_x, width)
    size_y = _first_pixel(i + 1, slope_y, offset_y, unit_y, height) - first_y
    size_x = _first_pixel(j + 1, slope_x, offset_x, unit_x, width) - first_x
    for start in range(0, size_y * size_x, PIXELS):
        o_p = start + tl.arange(0, PIXELS)
        inside = o_p < size_y * size_x
        y, x = first_y + o_p // size_x, first_x + o_p % size_x
        label = tl.load(
            p_labels + y * stride_y + x * stride_x, mask=inside, other=ignore_index
        ).to(tl.int32)  # [P]
        b_lse = tl.load(p_lse + y * width + x, mask=inside, other=float('inf'))[:, None]
        b_grad = tl.load(p_grad + y * stride_grad_y + x * stride_grad_x, mask=inside, other=0.0)
        counts = (label != ignore_index) & (label >= 0) & (label < C)
        b_grad = tl.where(counts, b_grad, 0.0)
        w_y = _second_share(y, i, slope_y, offset_y, unit_y, rows)
        w_x = _second_share(x, j, slope_x, offset_x, unit_x, columns)
        w_00, w_01 = (1 - w_y) * (1 - w_x), (1 - w_y) * w_x
        w_10, w_11 = w_y * (1 - w_x), w_y * w_x
        b_logits = _interpolate(
            b_00, b_01, b_10, b_11, w_00[:, None], w_01[:, None], w_10[:, None], w_11[:, None]
        )  # [P, C]
        b_slope = tl.exp2(b_logits - b_lse)
        b_slope = tl.where(o_c == label[:, None], b_slope - 1, b_slope)
        g_00 += tl.sum(b_slope * (w_00 * b_grad)[:, None], 0)
        g_01 += tl.sum(b_slope * (w_01 * b_grad)[:, None], 0)
        g_10 += tl.sum(b_slope * (w_10 * b_grad)[:, None], 0)
        g_11 += tl.sum(b_slope * (w_11 * b_grad)[:, None], 0)
    p_cells += image * (rows + 1) * (columns + 1) * 4 * C + (i * (columns + 1) + j) * 4 * C
    o_c = tl.reshape(o_c, [BLOCK_C])
    present = o_c < C
    tl.store(p_cells + o_c, g_00, mask=present)
    tl.store(p_cells + C + o_c, g_01, mask=present)
    tl.store(p_cells + 2 * C + o_c, g_10, mask=present)
    tl.store(p_cells + 3 * C + o_c, g_11, mask=present)


@triton.jit
def _sum_cells_kernel(
    p_cells, p_grad, rows, columns,
    C: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits [B, C, h, w]. Grid (.., B).

    Reads what the cells gave once, and writes the gradient.
    """
    image = tl.program_id(1).to(tl.int64)
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    o_c, place = entry % C, entry // C
    present = place < rows * columns
    row, column = place // columns, place % columns
    p_cells += image * (rows + 1) * (columns + 1) * 4 * C
    # Of the cells around it: the last corner of the one above to the left, and so on.
    o_above = (row * (columns + 1) + column) * 4 * C + o_c
    o_below = o_above + (columns + 1) * 4 * C
    b_sum = tl.load(p_cells + o_above + 3 * C, mask=present, other=0.0)
    b_sum += tl.load(p_cells + o_above + 4 * C + 2 * C, mask=present, other=0.0)
    b_sum += tl.load(p_cells + o_below + C, mask=present, other=0.0)
    b_sum += tl.load(p_cells + o_below + 4 * C, mask=present, other=0.0)
    p_out = p_grad + image * rows * columns * C + o_c * rows * columns + place
    tl.store(p_out, b_sum.to(p_grad.dtype.element_ty), mask=present)


class _Axis(NamedTuple):
    """Where the pixels of an axis lie."""

    slope: int
    offset: int
    unit: int

    @property
    def most(self) -> int:
        """Pixels of a cell, at most."""
        return cdiv(self.unit, self.slope)


def _axis(old: int, new: int, align_corners: bool) -> _Axis:
    if align_corners and old > 1:
        return _Axis(old - 1, 0, new - 1)
    return _Axis(2 * old, old - new, 2 * new)


class CrossEntropyBlocks(NamedTuple):
    """Options of the two large kernels.

    Pixels of a program forward, and of a step backward; classes of a step forward, and of a
    program backward.
    """

    forward_pixels: int = 256
    forward_classes: int = 16
    forward_warps: int = 4
    backward_pixels: int = 64
    backward_classes: int = 32
    backward_warps: int = 2


BLOCKS = CrossEntropyBlocks()


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, bool which are right, and log-sum-exp in base 2, dense [B, H, W] each.

    Arguments as in :func:`mita_seg.ops.upsampled_cross_entropy`.
    """
    tensors = _classes_last(logits), labels
    losses, right, lse = call(cross_entropy_forward, tensors, (ignore_index, align_corners))
    return losses, right, lse


def cross_entropy_backward(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    ignore_index: int,
    align_corners: bool,
) -> Tensor:
    """Gradient of the logits, dense, from that of the losses [B, H, W], any strides."""
    tensors = grad, _classes_last(logits), labels, lse
    return call(cross_entropy_gradient, tensors, (ignore_index, align_corners))[0]


def _classes_last(logits: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h, w, C], dense: the logits of a corner lie side by side."""
    return logits.permute(0, 2, 3, 1).contiguous()


def cross_entropy_forward(
    plan: Plan, logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
) -> None:
    """The launch of :func:`cross_entropy`, logits [B, h, w, C]."""
    (batch, rows, columns, classes), size = logits.shape, labels.shape[1:]
    losses, right, lse = (
        plan.result(torch.empty(labels.shape, dtype=dtype, device=labels.device))
        for dtype in (torch.float32, torch.bool, torch.float32)
    )
    y, x = (_axis(*each, align_corners) for each in zip((rows, columns), size, strict=True))
    pixels = min(BLOCKS.forward_pixels, next_power_of_2(y.most * x.most))
    cells = BLOCKS.forward_pixels // pixels
    programs = cdiv(columns + 1, cells) * cdiv(y.most * x.most, pixels)
    plan.launch(
        _cross_entropy_kernel, (programs, rows + 1, batch),
        logits, labels, losses, right, lse, *labels.stride(),
        rows, columns, *size, *y, *x, y.most, x.most, ignore_index,
        C=classes, CELLS=cells, PIXELS=pixels, BLOCK_C=BLOCKS.forward_classes,
        num_warps=BLOCKS.forward_warps,
    )  # fmt: skip


def cross_entropy_gradient(
    plan: Plan, grad: Tensor, logits: Tensor, labels: Tensor, lse: Tensor,
    ignore_index: int, align_corners: bool,
) -> None:  # fmt: skip
    """The launches of :func:`cross_entropy_backward`, logits [B, h, w, C]."""
    (batch, rows, columns, classes), size = logits.shape, labels.shape[1:]
    grad_logits = plan.result(logits.new_empty(batch, classes, rows, columns))
    cells = plan.scratch(batch, rows + 1, columns + 1, 4, classes, dtype=torch.float32)
    y, x = (_axis(*each, align_corners) for each in zip((rows, columns), size, strict=True))
    block = BLOCKS.backward_classes
    plan.launch(
        _cell_backward_kernel, ((columns + 1) * cdiv(classes, block), rows + 1, batch),
        logits, labels, lse, grad, cells, *labels.stride(), *grad.stride(),
        rows, columns, *size, *y, *x, y.most, x.most, ignore_index,
        C=classes, PIXELS=min(BLOCKS.backward_pixels, next_power_of_2(y.most * x.most)),
        BLOCK_C=block, num_warps=BLOCKS.backward_warps,
    )  # fmt: skip
    plan.launch(
        _sum_cells_kernel, (cdiv(rows * columns * classes, SUM_ENTRIES), batch),
        cells, grad_logits, rows, columns, C=classes, ENTRIES=SUM_ENTRIES, num_warps=4,
    )  # fmt: skip
