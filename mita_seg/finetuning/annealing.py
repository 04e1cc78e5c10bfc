"""From full attention to MiTA attention in a few stages of a training."""

from collections.abc import Sequence

from torch import nn

from mita_seg.analysis.observe import mita_layers
from mita_seg.layers import MiTAAttention
from mita_seg.layers.mita_attention import Stage
from mita_seg.ops.validation import check_int, check_scale

from .stages import FULL

MOST_STAGES = 12  # each has its own kernels


class Annealing:
    """Lets a model begin with full attention and end with the MiTA attention that it has.

    A training goes through `num_stages` changes. Before the first all layers compute full
    attention, exactly and as fast as it. Then the experts have `largest` keys, and fewer at every
    change, in equal ratios. The offset of the shared expert's logits goes from `weakest` to the
    layer's own in equal steps, in the first half of the changes: m landmarks among k keys weigh
    little while k is large, and have to replace the keys that go. From iteration `end` on the
    layers compute their own settings. An expert that has all keys of a map is full attention too,
    so that `largest` may exceed N.

    What a layer computes follows from the iteration alone: a training that is resumed asks for the
    stage of the iteration where it goes on.

    Example::

        swap_attention(model, dict(landmarks=(7, 7), topk=49))
        annealing = Annealing(model, end=2000)
        for iteration, batch in enumerate(loader):
            annealing.step(iteration)
            ...

    Args:
        model: Any model with MiTA attentions; all of them take part.
        end: The first iteration of the final settings.
        begin: The iteration at which the interval from the first stage to the last begins; full
            attention until then, and for ``(end - begin) / num_stages`` iterations more.
        values: Keys per expert of the stages after full attention, falling, in place of
            `num_stages` and `largest`. A layer never gets fewer than its own.
        num_stages: Changes, from 1, which leaves out all between full attention and the end, to 12.
        largest: Keys per expert of the first stage after full attention; the kernels take 1,024 at
            most.
        weakest: Offset of the shared expert's logits then, at most 0.

    Raises:
        TypeError: A number of the wrong type.
        ValueError: A number out of range, or a model without MiTA attention.
    """

    def __init__(
        self,
        model: nn.Module,
        end: int,
        *,
        begin: int = 0,
        values: Sequence[int] | None = None,
        num_stages: int = 8,
        largest: int = 1024,
        weakest: float = -4.0,
    ) -> None:
        self.check(end, begin, values, num_stages, largest, weakest)
        num_stages = num_stages if values is None else len(values) + 1
        self.begin, self.end, self.num_stages = begin, end, num_stages
        self.stage: int | None = None
        self._stages = [
            (layer, _stages_of(layer, num_stages, values, largest, weakest))
            for layer in mita_layers(model).values()
        ]

    @staticmethod
    def check(
        end: int,
        begin: int,
        values: Sequence[int] | None,
        num_stages: int,
        largest: int,
        weakest: float,
    ) -> None:
        """Raise what the constructor raises, without a model."""
        check_int('begin', begin, 0)
        check_int('end', end, begin + 1)
        check_int('num_stages', num_stages, 1)
        check_int('largest', largest, 1)
        if check_scale('weakest', weakest) > 0:
            raise ValueError(f'weakest must be at most 0, got {weakest}')
        if values is not None:
            for value in values:
                check_int('values', value, 1)
            if list(values) != sorted(set(values), reverse=True):
                raise ValueError(f'values must fall, got {list(values)}')
            num_stages = len(values) + 1
        if num_stages > MOST_STAGES:
            raise ValueError(
                f'there may be {MOST_STAGES} stages after full attention at most, got {num_stages}'
            )

    def stage_of(self, iteration: int) -> int:
        """The stage of an iteration, from 0, full attention, to `num_stages`, the end."""
        passed = min(max(iteration - self.begin, 0), self.end - self.begin)
        return passed * self.num_stages // (self.end - self.begin)

    def step(self, iteration: int) -> bool:
        """Set what the layers compute in an iteration.

        Args:
            iteration: How many iterations were before it.

        Returns:
            Whether that has changed.
        """
        stage = self.stage_of(iteration)
        if stage == self.stage:
            return False
        self.stage = stage
        for layer, stages in self._stages:
            layer.set_stage(stages[stage])
        return True

    @property
    def finished(self) -> bool:
        """Whether the layers compute their own settings."""
        return self.stage == self.num_stages

    def describe(self) -> str:
        """The stage, for a log."""
        if self.stage == 0:
            what = 'full attention'
        elif self.finished:
            what = 'the final settings'
        else:
            now = sorted({layer.stage for layer, _ in self._stages if layer.stage}, reverse=True)
            what = ', '.join(f'{each.topk} keys, offset {each.shared_offset:.2f}' for each in now)
        return f'annealing, stage {self.stage} of {self.num_stages}: {what}'


def _stages_of(
    layer: MiTAAttention,
    num_stages: int,
    values: Sequence[int] | None,
    largest: int,
    weakest: float,
) -> list[Stage | None]:
    """What a layer computes in each stage."""
    last = max(layer.topk, 1)  # the shared expert alone follows experts of one key
    between = num_stages - 1
    if values is None:
        ratio = min(last / largest, 1.0)
        values = [round(largest * ratio ** (place / between)) for place in range(between)]
    stages: list[Stage | None] = [FULL]
    for place, value in enumerate(values):
        fade = max(0.0, 1 - 2 * place / between)
        stages.append(Stage(max(value, last), layer.shared_offset + weakest * fade))
    return [*stages, None]
