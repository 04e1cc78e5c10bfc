"""Drawn calls of the operator: sizes, memory layouts, dtypes and settings, and how to run them."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from unittest import mock

import torch
from hypothesis import strategies as st

from mita_seg.ops import mita_attention, pooled_mita_attention
from support import oracle
from support.operator_cases import DEVICE, NAMES

PLAIN = ('reference', 'tiled', 'masked', 'exported')  # 'exported' is no name that users give

# Allowed: the norm of the error, relative to that of the result.
TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 0.2,
}
# Allowed: the error of a score, relative to the sum of the sizes of its products.
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2**-9,
    torch.bfloat16: 2**-7,
}


class Layout(NamedTuple):
    """How a tensor lies in memory.

    Attributes:
        order: Its dimensions, the one with the largest stride first.
        steps: Of each dimension, 2 to leave out every other element of the memory.
        repeated: Whether all heads are one and the same memory.
    """

    order: tuple[int, ...]
    steps: tuple[int, ...]
    repeated: bool = False


@st.composite
def layouts(draw, dimensions=4, may_repeat=False):
    order = draw(st.permutations(range(dimensions)))
    steps = draw(st.tuples(*[st.sampled_from([1, 1, 2])] * dimensions))
    return Layout(tuple(order), steps, may_repeat and draw(st.sampled_from([False, False, True])))


def lay_out(values, layout):
    """A leaf with these values, in this layout; the memory between its elements holds NaN."""
    shape = values.shape
    if layout.repeated:
        values = values[:, :1]
    memory = torch.full(
        [values.shape[each] * layout.steps[each] for each in layout.order],
        torch.nan,
        dtype=values.dtype,
        device=DEVICE,
    )
    view = memory.permute([layout.order.index(each) for each in range(values.ndim)])
    view = view[tuple(slice(None, None, step) for step in layout.steps)]
    view.copy_(values)
    return view.expand(shape).detach().requires_grad_()


def exporting(wanted=True):
    """Where operators take the form in which they are exported, with gradients."""
    return mock.patch('torch.compiler._is_exporting_flag', True) if wanted else nullcontext()


@dataclass(frozen=True)
class Case:
    """A call of the operator.

    Attributes:
        sizes: (B, H, N, d).
        dtype: Of the tensors.
        seed: Of their values.
        whole: Whether the values are small whole numbers. Scores are exact then in every dtype, and
            often equal.
        landmarks: How many, m.
        window: (grid, landmark grid, start) of landmarks that are pooled; None if they are given.
        layouts: Of query, key, value, landmarks and the gradient of the output.
        options: Settings of the operator.
    """

    sizes: tuple[int, int, int, int]
    dtype: torch.dtype
    seed: int
    whole: bool
    landmarks: int
    window: tuple | None
    layouts: tuple[Layout, ...]
    options: dict

    def draw(self):
        """query, key, value and, where they are given, landmarks; leaves."""
        generator = torch.Generator().manual_seed(self.seed)
        batch, heads, tokens, dim = self.sizes
        tensors = []
        for rows, layout in zip([tokens] * 3 + [self.landmarks], self.layouts, strict=False):
            shape = batch, heads, rows, dim
            if self.whole:
                values = torch.randint(-1, 2, shape, generator=generator)
            else:
                values = torch.randn(shape, generator=generator, dtype=torch.float64)
            tensors.append(lay_out(values.to(self.dtype), layout))
        return tensors[:3] if self.window else tensors

    def run(self, tensors, backend):
        """The output of a backend."""
        with exporting(backend == 'exported'):
            return self.function()(*tensors, backend='auto' if backend == 'exported' else backend)

    def function(self):
        """The operator with its settings, of the tensors and the backend."""
        if self.window is None:
            return partial(mita_attention, **self.options)
        grid, num_landmarks, start = self.window
        return partial(pooled_mita_attention, grid=grid, num_landmarks=num_landmarks, start=start,
                       **self.options)  # fmt: skip

    def run_oracle(self, tensors):
        """The output of the oracle, of float64 tensors, and which of its queries are clear."""
        query, key, value, *given = tensors
        landmarks = given[0] if given else oracle.pool(query, *self.window)
        rounding = 0 if self.whole and given else ROUNDING[self.dtype]
        topk, num_routed = self.options['topk'], self.options['num_routed']
        clear = oracle.clear_queries(query, key, landmarks, topk, num_routed, rounding)
        return oracle.attend(query, key, value, landmarks, **self.options), clear

    def draw_weights(self, clear):
        """A gradient of the output, 0 where queries [B, H, N] are not clear."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        weights = torch.randn(self.sizes, generator=generator, dtype=torch.float64)
        return lay_out((weights * clear.unsqueeze(-1)).to(self.dtype), self.layouts[4]).detach()

    def kernels_lack(self):
        """What the Triton kernels do not take, as their refusal says it; None if they take all."""
        scale, landmark_scale = self.options['scale'], self.options['landmark_scale']
        scales = [each for each in (scale, landmark_scale) if each is not None]
        if self.dtype == torch.float64:
            return 'it takes float32, bfloat16 and float16; got torch.float64'
        if self.dtype == torch.bfloat16 and DEVICE == 'cpu':
            return "Triton's interpreter has no bfloat16"
        if self.sizes[3] not in range(16, 129, 8):
            return f'it takes head dimensions .*got {self.sizes[3]}'
        if any(each <= 0 for each in scales):
            return 'it takes positive scales'
        if any(each < 2**-126 for each in scales):
            return 'it takes scales that float32 holds'
        return None


ANY_SCALE = st.none() | st.sampled_from([0.0, 1.0]) | st.floats(-1, 1)
POSITIVE_SCALE = st.none() | st.sampled_from([1e-30, 1.0]) | st.floats(1e-4, 1)


@st.composite
def maps(draw, places):
    """(height, width) of a map of at most so many places."""
    height = draw(st.integers(1, min(4, places)))
    return height, draw(st.integers(1, min(4, places // height)))


def numbers_of_keys(tokens, shared):
    """topk; in half of the cases at most half of the tokens, so that it matters which."""
    least = 0 if shared else 1
    return st.integers(least, (tokens + 1) // 2) | st.integers(least, tokens + 2)


@st.composite
def cases(
    draw,
    dtypes=tuple(TOLERANCE),
    dims=st.integers(1, 16),  # noqa: B008 (a strategy is never changed)
    batches=st.integers(1, 2),  # noqa: B008
    heads=st.integers(1, 3),  # noqa: B008
    largest=14,
    scales=ANY_SCALE,
    pooled=st.booleans(),  # noqa: B008
    numbers=st.booleans(),  # noqa: B008
):
    """Calls that the operator takes.

    Args:
        dtypes: Those to choose from.
        dims, batches, heads: Strategies for d, B and H.
        largest: How many tokens there may be, twice as many as landmarks.
        scales: Strategy for both scales.
        pooled: Strategy: whether landmarks are pooled.
        numbers: Strategy: whether values are whole numbers.
    """
    window = None
    if draw(pooled):
        grid = draw(maps(largest - 2))
        num_landmarks = draw(maps(largest // 2))
        start, after = draw(st.integers(0, 1)), draw(st.integers(0, 1))
        tokens, landmarks = start + grid[0] * grid[1] + after, num_landmarks[0] * num_landmarks[1]
        window = grid, num_landmarks, start
    else:
        tokens, landmarks = draw(st.integers(1, largest)), draw(st.integers(1, largest // 2))
    shared = draw(st.booleans())
    options = {
        'topk': draw(numbers_of_keys(tokens, shared)),
        'num_routed': draw(st.just(1) | st.integers(1, landmarks)),
        'scale': draw(scales),
        'landmark_scale': draw(scales),
        'shared': shared,
        'shared_offset': draw(st.just(0.0) | st.sampled_from([-10000, -7.5, 0.3, 60.0])),
    }
    return Case(
        sizes=(draw(batches), draw(heads), tokens, draw(dims)),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 2**16)),
        whole=window is None and draw(numbers),
        landmarks=landmarks,
        window=window,
        layouts=tuple(draw(layouts(may_repeat=place < 4)) for place in range(5)),
        options=options,
    )


def exact_leaves(tensors):
    """The same values as float64 leaves, one after another in memory."""
    return [each.detach().cpu().double().contiguous().requires_grad_() for each in tensors]


def assert_close(results, expected, tolerance, names=NAMES):
    """Outputs and gradients are equal, to a relative error of their norms.

    Errors of gradients are relative to the output at least: one that cancels to nearly nothing
    holds rounding errors only.

    Args:
        results, expected: The output, then gradients; None or zeros where there is none.
        tolerance: The largest error.
        names: Of the results.
    """
    least = expected[0].double().norm()
    assert len(results) == len(expected)
    for name, result, wanted in zip(names, results, expected, strict=False):
        if wanted is None:
            assert result is None or not result.any(), f'gradient of {name}'
            continue
        assert result.shape == wanted.shape, name
        error = (result.detach().cpu().double() - wanted.detach().cpu().double()).norm()
        assert error <= tolerance * max(wanted.double().norm(), least), (
            f'{name}: error {error:.3g} at a size of {wanted.norm():.3g}'
        )


def with_gradients(output, tensors, weights):
    """The output and, for this gradient of it, the gradients of the tensors; None where none."""
    return output, *torch.autograd.grad(output, tensors, weights, allow_unused=True)


def assert_equals_oracle(case, backends):
    """Outputs and gradients of all backends are the oracle's where its choices are clear."""
    tensors = case.draw()
    exact = exact_leaves(tensors)
    output, clear = case.run_oracle(exact)
    weights = case.draw_weights(clear)
    output = output * clear.unsqueeze(-1)
    expected = with_gradients(output, exact, weights.cpu().double())
    for backend in backends:
        output, *grads = with_gradients(case.run(tensors, backend), tensors, weights)
        assert all(each is None or each.dtype == case.dtype for each in (output, *grads))
        output = torch.where(clear.unsqueeze(-1).to(DEVICE), output, 0)
        try:
            assert_close((output, *grads), expected, TOLERANCE[case.dtype])
        except AssertionError as error:
            raise AssertionError(f'{backend}: {error}') from None
