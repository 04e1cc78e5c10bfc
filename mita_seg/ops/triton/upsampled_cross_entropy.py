"""Cross entropy of logits that are enlarged bilinearly to the size of the labels.

The pixels between four neighbouring logits are a cell. Two rows of logits and the ones beside the
borders make up h + 1 rows of cells: those of the first one lie above the first logits, and both its
rows of logits are the first. So with the columns.

Forward, a thread has pixels of its own and goes through the classes; its pixels lie below each
other, and it interpolates between columns once for all of them. Backward, it has classes of its own
and goes through the pixels of one cell, row by row. So the sums that are wanted, over classes there
and over pixels here, never leave a thread. Every logit's gradient is the sum of what four cells
give, which a small kernel adds.

Positions are exact, as they are quotients of integers: pixel y lies (y slope + offset) / unit rows
below the first row. Logits are in base 2, as exp2 is the instruction that the hardware has.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .call_plan import Plan, call
from .launch import LOG2E, cdiv

_LOG2E = tl.constexpr(LOG2E)
_LN2 = tl.constexpr(1 / LOG2E)
_LEAST = tl.constexpr(-1e30)  # logit of a class that is not there: finite, as 0 times it is 0
ENTRIES = 512  # of a program of the small kernels


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
def _between(p_row, o_left, o_right, b_share):
    """Logits of a row, between its columns.

    The roundings are the same for all classes, so that equal logits stay equal.
    """
    b_left = tl.load(p_row + o_left)
    return tl.fma(tl.load(p_row + o_right) - b_left, b_share, b_left)


@triton.jit
def _prepare_logits_kernel(
    p_logits, p_out, s_logits_b, s_logits_c, s_logits_y, s_logits_x, s_out_c, s_out_place,
    places, columns,
    C: tl.constexpr, PADDED_C: tl.constexpr, BLOCK_C: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Logits [B, C, h, w] in float32 and base 2, of PADDED_C classes. Grid (.., .., B).

    Reads and writes them once.
    """
    place = tl.program_id(0) * PLACES + tl.arange(0, PLACES)[None, :]
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    image = tl.program_id(2).to(tl.int64)
    p_logits += image * s_logits_b + place // columns * s_logits_y + place % columns * s_logits_x
    present = (place < places) & (o_c < PADDED_C)
    b_logits = tl.load(p_logits + o_c * s_logits_c, mask=present & (o_c < C), other=0.0)
    b_logits = tl.where(o_c < C, b_logits.to(tl.float32) * _LOG2E, _LEAST)
    p_out += image * places * PADDED_C
    tl.store(p_out + o_c * s_out_c + place * s_out_place, b_logits, mask=present)


@triton.jit
def _cross_entropy_kernel(
    p_logits, p_labels, p_losses, p_right, p_lse,
    s_labels_b, s_labels_y, s_labels_x,
    rows, columns, height, width, slope_y, offset_y, unit_y, slope_x, offset_x, unit_x,
    most_x, blocks_y, ignore_index,
    C: tl.constexpr, PADDED_C: tl.constexpr,
    ROWS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Loss, whether it is right, and log-sum-exp of each pixel. Grid (.., rows + 1, B).

    Reads the logits from cache, and the labels once. The pixel columns of a row of cells are
    numbered cell by cell, as if each cell had `most_x` of them. A program has PIXELS of them, and
    of each the ROWS of one of `blocks_y` blocks. Classes are a tuple of tiles, not a dimension of
    one tile, so that no version of the compiler divides them among threads.
    """
    i, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    p_logits += image * rows * columns * PADDED_C
    p_labels += image * s_labels_b
    o_x = tl.program_id(0) // blocks_y * PIXELS + tl.arange(0, PIXELS)  # [X]
    o_y = tl.program_id(0) % blocks_y * ROWS + tl.arange(0, ROWS)  # [Y]
    j = o_x // most_x
    y = _first_pixel(i, slope_y, offset_y, unit_y, height) + o_y  # [Y]
    x = _first_pixel(j, slope_x, offset_x, unit_x, width) + o_x % most_x  # [X]
    inside_y = y < _first_pixel(i + 1, slope_y, offset_y, unit_y, height)
    inside = inside_y[:, None] & (x < _first_pixel(j + 1, slope_x, offset_x, unit_x, width))[None]
    b_share_y = _second_share(y, i, slope_y, offset_y, unit_y, rows)[:, None]  # [Y, 1]
    b_share_x = _second_share(x, j, slope_x, offset_x, unit_x, columns)  # [X]
    p_label = p_labels + y[:, None] * s_labels_y + x[None, :] * s_labels_x
    label = tl.load(p_label, mask=inside, other=ignore_index).to(tl.int32)  # [Y, X]
    known = (label >= 0) & (label < C)
    lowest = tl.min(tl.min(tl.where(known, label, C), 1), 0)
    highest = tl.max(tl.max(tl.where(known, label, -1), 1), 0)

    p_top = p_logits + tl.maximum(i - 1, 0) * columns
    p_bottom = p_logits + tl.minimum(i, rows - 1) * columns
    left = tl.minimum(tl.maximum(j - 1, 0), columns - 1)  # [X]
    right = tl.minimum(j, columns - 1)
    b_max = tl.full([ROWS, PIXELS], float('-inf'), dtype=tl.float32)
    b_sum = tl.zeros([ROWS, PIXELS], dtype=tl.float32)
    b_own = tl.zeros([ROWS, PIXELS], dtype=tl.float32)  # logit of the label
    b_rival = tl.full([ROWS, PIXELS], float('-inf'), dtype=tl.float32)  # largest one before
    for start in range(0, C, BLOCK_C):
        b_logits = ()
        b_new = b_max
        for k in tl.static_range(BLOCK_C):
            o_plane = (start + k) * (rows * columns)
            b_top = _between(p_top + o_plane, left, right, b_share_x)  # [X]
            b_more = _between(p_bottom + o_plane, left, right, b_share_x) - b_top
            b_class = tl.fma(b_share_y, b_more[None, :], b_top[None, :])  # [Y, X]
            b_logits = b_logits + (b_class,)
            b_new = tl.maximum(b_new, b_class)
        b_sum *= tl.exp2(b_max - b_new)
        for k in tl.static_range(BLOCK_C):
            b_sum += tl.exp2(b_logits[k] - b_new)
        if (start <= highest) & (start + BLOCK_C > lowest):  # few blocks: cells have few labels
            b_before = b_max
            for k in tl.static_range(BLOCK_C):
                is_own = label == start + k
                b_own = tl.where(is_own, b_logits[k], b_own)
                b_rival = tl.where(is_own, b_before, b_rival)
                b_before = tl.maximum(b_before, b_logits[k])
        b_max = b_new

    b_log = tl.log2(b_sum)
    counts = label != ignore_index
    b_loss = (b_log - (b_own - b_max)) * _LN2
    b_loss = tl.where(counts, tl.where(known, b_loss, float('nan')), 0.0)
    # The first of the largest logits, as argmax takes it.
    is_right = counts & known & (b_own > b_rival) & (b_own >= b_max)
    o_pixel = image * height * width + y[:, None] * width + x[None, :]
    tl.store(p_losses + o_pixel, b_loss, mask=inside)
    tl.store(p_right + o_pixel, is_right, mask=inside)
    tl.store(p_lse + o_pixel, (b_max + b_log) * _LN2, mask=inside)


@triton.jit
def _cell_backward_kernel(
    p_logits, p_labels, p_lse, p_grad, p_cells,
    s_labels_b, s_labels_y, s_labels_x, s_grad_b, s_grad_y, s_grad_x,
    rows, columns, height, width, slope_y, offset_y, unit_y, slope_x, offset_x, unit_x,
    ignore_index,
    C: tl.constexpr, PADDED_C: tl.constexpr,
    ROWS: tl.constexpr, PIXELS: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What a cell gives to the gradients of its corners. Grid (.., rows + 1, B).

    Reads logits, labels, log-sum-exp and gradient as often as there are blocks of classes, nearly
    always from cache, and writes 4 C numbers a cell. A program has BLOCK_C classes of a cell.
    """
    BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    j, i, image = tl.program_id(0) // BLOCKS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    start_c = tl.program_id(0) % BLOCKS * BLOCK_C
    o_c = start_c + tl.arange(0, BLOCK_C)  # [C]
    p_logits += image * rows * columns * PADDED_C
    p_labels += image * s_labels_b
    p_grad += image * s_grad_b
    p_lse += image * height * width
    p_top = p_logits + tl.maximum(i - 1, 0) * columns * PADDED_C
    p_bottom = p_logits + tl.minimum(i, rows - 1) * columns * PADDED_C
    left, right = tl.maximum(j - 1, 0) * PADDED_C, tl.minimum(j, columns - 1) * PADDED_C
    b_left, b_left_below = tl.load(p_top + left + o_c), tl.load(p_bottom + left + o_c)
    b_more = tl.load(p_top + right + o_c) - b_left
    b_more_below = tl.load(p_bottom + right + o_c) - b_left_below
    b_left, b_more = b_left[None, :], b_more[None, :]  # [1, C]
    b_left_below, b_more_below = b_left_below[None, :] - b_left, b_more_below[None, :] - b_more
    # Sums over the pixels, plain and by their shares of the right column, the lower row, and both.
    g_all, g_right = tl.zeros([BLOCK_C], dtype=tl.float32), tl.zeros([BLOCK_C], dtype=tl.float32)
    g_low, g_both = tl.zeros([BLOCK_C], dtype=tl.float32), tl.zeros([BLOCK_C], dtype=tl.float32)
    first_y = _first_pixel(i, slope_y, offset_y, unit_y, height)
    first_x = _first_pixel(j, slope_x, offset_x, unit_x, width)
    end_y = _first_pixel(i + 1, slope_y, offset_y, unit_y, height)
    end_x = _first_pixel(j + 1, slope_x, offset_x, unit_x, width)
    for start_x in range(first_x, end_x, PIXELS):
        x = start_x + tl.arange(0, PIXELS)  # [X]
        b_share_x = _second_share(x, j, slope_x, offset_x, unit_x, columns)
        b_share_x = b_share_x[None, :, None]
        for start_y in range(first_y, end_y, ROWS):
            y = start_y + tl.arange(0, ROWS)  # [Y]
            inside = (y < end_y)[:, None] & (x < end_x)[None, :]
            p_label = p_labels + y[:, None] * s_labels_y + x[None, :] * s_labels_x
            p_slope = p_grad + y[:, None] * s_grad_y + x[None, :] * s_grad_x
            label = tl.load(p_label, mask=inside, other=ignore_index).to(tl.int32)  # [Y, X]
            known = (label != ignore_index) & (label >= 0) & (label < C)
            # Of the others nothing is left: exp2(-inf) is 0.
            b_lse = tl.load(
                p_lse + y[:, None] * width + x[None, :], mask=inside & known, other=float('inf')
            )
            b_grad = tl.load(p_slope, mask=inside & known, other=0.0)
            lowest = tl.min(tl.min(tl.where(known, label, C), 1), 0)
            highest = tl.max(tl.max(tl.where(known, label, -1), 1), 0)
            b_share_y = _second_share(y, i, slope_y, offset_y, unit_y, rows)[:, None]  # [Y, 1]
            b_row = tl.fma(b_share_y, b_left_below, b_left)[:, None, :]  # [Y, 1, C]
            b_row_more = tl.fma(b_share_y, b_more_below, b_more)[:, None, :]
            b_logits = tl.fma(b_share_x, b_row_more, b_row)  # [Y, X, C]
            b_slope = tl.exp2(b_logits - (b_lse * _LOG2E)[:, :, None])
            if (start_c <= highest) & (start_c + BLOCK_C > lowest):
                is_label = o_c[None, None, :] == tl.where(known, label, -1)[:, :, None]
                b_slope = tl.where(is_label, b_slope - 1, b_slope)
            b_slope *= b_grad[:, :, None]
            b_sum = tl.sum(b_slope, 1)  # [Y, C]
            b_sum_right = tl.sum(b_slope * b_share_x, 1)
            g_all += tl.sum(b_sum, 0)
            g_right += tl.sum(b_sum_right, 0)
            g_low += tl.sum(b_sum * b_share_y, 0)
            g_both += tl.sum(b_sum_right * b_share_y, 0)
    p_cells += (image * (rows + 1) + i) * (columns + 1) * 4 * C + j * 4 * C
    present = o_c < C
    tl.store(p_cells + o_c, (g_all - g_low) - (g_right - g_both), mask=present)
    tl.store(p_cells + C + o_c, g_right - g_both, mask=present)
    tl.store(p_cells + 2 * C + o_c, g_low - g_both, mask=present)
    tl.store(p_cells + 3 * C + o_c, g_both, mask=present)


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
    """Pixels and classes of a program forward, of a step of it backward, and warps."""

    forward_pixels: int = 32  # of a row, one of each lane
    forward_rows: int = 4
    forward_classes: int = 8
    forward_warps: int = 1
    backward_rows: int = 4
    backward_pixels: int = 8
    backward_classes: int = 32  # one of each lane
    backward_warps: int = 1


BLOCKS = CrossEntropyBlocks()


def _choose_pixels(most: int, limit: int) -> int:
    """Pixels of a row or column to take at a time, few of them idle: a cell has up to `most`."""
    sizes = [size for size in (16, 8, 4, 2, 1) if size <= limit]
    # What is computed once for all of them costs as much as two pixels.
    return min(sizes, key=lambda size: cdiv(most, size) * (size + 2))


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, bool which are right, and log-sum-exp, dense [B, H, W] each.

    Arguments as in :func:`mita_seg.ops.upsampled_cross_entropy`.
    """
    losses, right, lse = call(
        cross_entropy_forward, (logits, labels), (ignore_index, align_corners)
    )
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
    tensors = grad, logits, labels, lse
    return call(cross_entropy_gradient, tensors, (ignore_index, align_corners))[0]


def _prepare_logits(plan: Plan, logits: Tensor, *, classes_last: bool) -> Tensor:
    batch, classes, rows, columns = logits.shape
    step = max(BLOCKS.forward_classes, BLOCKS.backward_classes)
    padded, places = cdiv(classes, step) * step, rows * columns
    out = plan.scratch(batch, padded * places, dtype=torch.float32)
    plan.launch(
        _prepare_logits_kernel, (cdiv(places, 64), cdiv(padded, 16), batch),
        logits, out, *logits.stride(), *((1, padded) if classes_last else (places, 1)),
        places, columns,
        C=classes, PADDED_C=padded, BLOCK_C=16, PLACES=64, num_warps=4,
    )  # fmt: skip
    return out


def cross_entropy_forward(
    plan: Plan, logits: Tensor, labels: Tensor, options: tuple[int, bool]
) -> None:
    """The launches of :func:`cross_entropy`; options: `ignore_index` and `align_corners`."""
    ignore_index, align_corners = options
    (batch, classes, rows, columns), size = logits.shape, labels.shape[1:]
    losses, right, lse = (
        plan.result(torch.empty(labels.shape, dtype=dtype, device=labels.device))
        for dtype in (torch.float32, torch.bool, torch.float32)
    )
    y, x = (_axis(*each, align_corners) for each in zip((rows, columns), size, strict=True))
    step = _choose_pixels(y.most, BLOCKS.forward_rows)
    blocks = cdiv(y.most, step)
    prepared = _prepare_logits(plan, logits, classes_last=False)
    plan.launch(
        _cross_entropy_kernel,
        (cdiv((columns + 1) * x.most, BLOCKS.forward_pixels) * blocks, rows + 1, batch),
        prepared, labels, losses, right, lse, *labels.stride(),
        rows, columns, *size, *y, *x, x.most, blocks, ignore_index,
        C=classes, PADDED_C=prepared.shape[1] // (rows * columns), ROWS=step,
        PIXELS=BLOCKS.forward_pixels, BLOCK_C=BLOCKS.forward_classes,
        num_warps=BLOCKS.forward_warps,
    )  # fmt: skip


def cross_entropy_gradient(
    plan: Plan,
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    lse: Tensor,
    options: tuple[int, bool],
) -> None:
    """The launches of :func:`cross_entropy_backward`; options as of the forward pass."""
    ignore_index, align_corners = options
    (batch, classes, rows, columns), size = logits.shape, labels.shape[1:]
    grad_logits = plan.result(logits.new_empty(logits.shape))
    cells = plan.scratch(batch, rows + 1, columns + 1, 4, classes, dtype=torch.float32)
    y, x = (_axis(*each, align_corners) for each in zip((rows, columns), size, strict=True))
    block = BLOCKS.backward_classes
    prepared = _prepare_logits(plan, logits, classes_last=True)
    plan.launch(
        _cell_backward_kernel, ((columns + 1) * cdiv(classes, block), rows + 1, batch),
        prepared, labels, lse, grad, cells, *labels.stride(), *grad.stride(),
        rows, columns, *size, *y, *x, ignore_index,
        C=classes, PADDED_C=prepared.shape[1] // (rows * columns), ROWS=BLOCKS.backward_rows,
        PIXELS=_choose_pixels(x.most, BLOCKS.backward_pixels), BLOCK_C=block,
        num_warps=BLOCKS.backward_warps,
    )  # fmt: skip
    plan.launch(
        _sum_cells_kernel, (cdiv(rows * columns * classes, ENTRIES), batch),
        cells, grad_logits, rows, columns, C=classes, ENTRIES=ENTRIES, num_warps=4,
    )  # fmt: skip
