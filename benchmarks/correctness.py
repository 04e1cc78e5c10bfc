"""The correctness check: whether a backend computes what it should, before it is timed."""

import torch
from torch.nn.functional import adaptive_avg_pool2d

from mita_seg.ops.options import MiTAOptions
from mita_seg.ops.reference import reference_attention

from .backends import FULL, MITA
from .cases import HEAD_DIM

# Relative errors that rounding explains where the same keys and experts are chosen.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# In low precision near-ties are decided either way, and a backend that rounds its scores differs
# by more. It passes within these multiples of the error that the definition itself makes when
# computed in the input's dtype, but never beyond the last: noise is off by 1 and more.
MULTIPLES = {'output': 2, 'gradients': 3}
LARGEST_LIMIT = 0.6
_ROWS = 1024
_LOGITS = 2**26  # of the sampled queries of a head with all keys, in full attention


class WrongResult(Exception):
    """A function does not compute what it should."""


class CorrectnessCheck:
    """Compares output and gradients of a backend with the definition, computed in float32.

    Compared are the first and the last head, and of those up to 1,024 random queries. Only the
    sampled queries weigh in the loss whose gradients are compared. The error is the norm of the
    difference over the norm of the truth; of the three gradients the largest counts.

    Args:
        attention (str): ``FULL`` or ``MITA``.
        case (Case): The sizes.
        inputs (Sequence[Tensor]): Query, key and value [1, heads, N, d].
    """

    def __init__(self, attention, case, inputs):
        self._attention, self._case, self._inputs = attention, case, inputs
        device = inputs[0].device
        self._heads = torch.tensor(sorted({0, case.heads - 1}), device=device)
        count = min(_ROWS, max(16, _LOGITS // case.tokens), case.tokens)
        self._rows = torch.randperm(case.tokens, device=device)[:count].sort().values
        self._weights = torch.zeros_like(inputs[0])
        self._weights[:, :, self._rows] = torch.randn_like(self._weights[:, :, self._rows])
        self._truth = self._compute(torch.float32)
        self._limits = {}

    def compare(self, attend):
        """Run a backend forward and backward and compare it with the definition.

        Args:
            attend (Callable[[], Tensor]): The backend on the inputs.

        Returns:
            dict[str, float]: The errors, ``output`` and ``gradients``.

        Raises:
            WrongResult: Anything, sampled or not, is not finite.
        """
        output = attend()
        gradients = torch.autograd.grad(output, self._inputs, self._weights)
        require_finite([output, *gradients])
        sampled = output[:, self._heads][:, :, self._rows]
        return _errors((sampled, *(part[:, self._heads] for part in gradients)), self._truth)

    def require(self, errors):
        """Compare errors with their limits.

        Args:
            errors (dict[str, float]): From :meth:`compare`.

        Raises:
            WrongResult: An error is beyond its limit.
        """
        for name, error in errors.items():
            limit = TOLERANCES[self._inputs[0].dtype]
            if error > limit:
                limit = self._limit(name)
            if not error <= limit:
                raise WrongResult(f'relative error of {name} {error:.2g}, limit {limit:.2g}')

    def _limit(self, name):
        """What is accepted beyond the tolerance."""
        dtype = self._inputs[0].dtype
        if not self._limits:
            errors = _errors(self._compute(dtype), self._truth)
            self._limits = {
                key: min(LARGEST_LIMIT, max(TOLERANCES[dtype], MULTIPLES[key] * error))
                for key, error in errors.items()
            }
        return self._limits[name]

    def _compute(self, dtype):
        """Output of the sampled queries and the gradients, by the definition in a dtype."""
        query, key, value = (
            part.detach()[:, self._heads].to(dtype).requires_grad_() for part in self._inputs
        )
        define = {FULL: _full_attention, MITA: _mita_attention}[self._attention]
        with torch.enable_grad():
            output = define(query, key, value, self._rows, self._case, self._inputs[0].dtype)
        weights = self._weights[:, self._heads][:, :, self._rows].to(dtype)
        return output.detach(), *torch.autograd.grad(output, (query, key, value), weights)


def require_finite(tensors):
    """Raise WrongResult if there is an infinity or NaN in a tensor."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise WrongResult('not finite')


def require_equal(results, expected, what):
    """Compare tensors up to rounding.

    Args:
        results (Tensor | Sequence[Tensor]): What is checked.
        expected (Tensor | Sequence[Tensor]): What it should be.
        what (str): For the message.

    Raises:
        WrongResult: Something is not finite, or differs.
    """
    results, expected = (
        [value] if isinstance(value, torch.Tensor) else list(value) for value in (results, expected)
    )
    require_finite(results)
    for result, other in zip(results, expected, strict=True):
        error = _relative_error(result, other)
        if not error <= TOLERANCES[result.dtype]:
            raise WrongResult(f'{what} differs from an eager call by {error:.2g}')


def _full_attention(query, key, value, rows, case, dtype):
    logits = HEAD_DIM**-0.5 * (query[:, :, rows] @ key.mT)
    return logits.softmax(-1) @ value


def _mita_attention(query, key, value, rows, case, dtype):
    heads = query.shape[1]
    first = query[:, :, : case.tokens - case.others]
    patches = first.mT.reshape(1, -1, *case.grid)
    pooled = adaptive_avg_pool2d(patches, case.landmark_grid).reshape(1, heads, HEAD_DIM, -1).mT
    scale = HEAD_DIM**-0.5
    options = MiTAOptions(min(case.topk, case.tokens), 1, scale, scale, shared=True)
    landmarks = pooled.to(dtype).to(query.dtype)  # the dtype of the backend's inputs
    return reference_attention(query[:, :, rows], key, value, landmarks, options)


def _errors(results, truth):
    output, *gradients = (
        _relative_error(result, true) for result, true in zip(results, truth, strict=True)
    )
    return {'output': output, 'gradients': max(gradients)}


def _relative_error(result, truth):
    truth = truth.float()
    return ((result.float() - truth).norm() / truth.norm()).item()
