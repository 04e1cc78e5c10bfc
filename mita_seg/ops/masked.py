"""MiTA attention as one scaled_dot_product_attention with a mask.

The queries attend to [landmarks; keys] with values [shared values; values]. A mask leaves each
query the landmarks and the keys of its experts. Time grows with N^2, as that of full attention, but
there are only a few large operations, which suits a GPU on short maps.

Masks are made for some heads at a time, and again in the backward pass: memory grows with N^2 only
if the mask of one head does not fit in `MASK_BYTES`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn.functional import pad, scaled_dot_product_attention

from .autocast import without_autocast
from .options import MiTAOptions
from .selection import in_top, route, scores_between, select
from .surroundings import fold, in_transform, unfold

MASK_BYTES = 2**26  # of the masks of heads that are computed together
ALIGNMENT = 16  # elements; masks whose rows start at other multiples are copied


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, landmarks: Tensor, options: MiTAOptions
) -> Tensor:
    """MiTA attention under a mask; tensors as in :func:`mita_seg.ops.mita_attention`."""
    scale, landmark_scale = options.scale, options.landmark_scale
    tensors = tuple(map(with_whole_rows, (query, key, value, landmarks)))
    if not torch.compiler.is_compiling() and gradients_may_follow(tensors):
        tensors = OnlyFirstGradients.apply(*tensors)
    query, key, value, landmarks = tensors
    if options.shared:
        shared_values = attend(landmarks, key, value, scale)
        if options.topk == 0:
            return attend(query, landmarks, shared_values, landmark_scale)

    batch_shape = query.shape[:2]
    query, key, value, landmarks = (rows.flatten(0, 1) for rows in (query, key, value, landmarks))
    with torch.no_grad():
        in_expert = select(scores_between(landmarks, key), options, in_top)
        routes = route(scores_between(query, landmarks), options)
        num_shared = landmarks.shape[1] if options.shared else 0
        table = tabulate(in_expert, num_shared, options.num_routed, query.dtype)
        table[..., :num_shared] = options.shared_offset
    if options.shared:
        # The operation has one scale. If it were tiny, the landmarks would overflow.
        common = scale if scale > 0 and abs(landmark_scale) <= 16 * scale else 1.0
        key = torch.cat((times(landmarks, landmark_scale / common), times(key, scale / common)), 1)
        value = torch.cat((shared_values.flatten(0, 1), value), 1)
        scale = common
    arguments = query, key, value, table, routes, scale
    if torch.compiler.is_compiling():  # the compiler decides what to keep and what to compute again
        output = attend_by_heads(*arguments)
    else:
        output = MaskedAttention.apply(*arguments)
    return output.unflatten(0, batch_shape)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    """scaled_dot_product_attention for all scales; its kernels take positive ones."""
    if scale <= 0:
        query, scale = scale * query, 1.0
    return scaled_dot_product_attention(query, key, value, mask, scale=scale)


def with_whole_rows(rows: Tensor) -> Tensor:
    """The same with contiguous rows; for others only the slowest kernel runs."""
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def times(rows: Tensor, factor: float) -> Tensor:
    """factor * rows, without a copy if the factor is 1."""
    return rows if factor == 1 else factor * rows


def tabulate(in_expert: Tensor, num_shared: int, num_routed: int, dtype: torch.dtype) -> Tensor:
    """A row for each expert and a column for each key, to make the masks of queries from.

    Args:
        in_expert: Whether a key is in an expert, bool [heads, m, N].
        num_shared: Landmarks, which come before the keys; they are in all experts.
        num_routed: Experts per query, s.
        dtype: Of the result.

    Returns:
        [heads, m, width], where width is num_shared + N, rounded up to the alignment. With one
        expert per query it is the mask itself, 0 for keys in the expert and -inf for others. With
        several experts, which have to be counted, it is 1 and 0.
    """
    width = num_shared + in_expert.shape[-1]
    table = pad(in_expert.to(dtype), (num_shared, -width % ALIGNMENT), value=1.0)
    return table.log() if num_routed == 1 else table


def make_mask(table: Tensor, routes: Tensor, num_shared: int) -> Tensor:
    """What to add to the logits: the log of how many experts of the query have the key.

    Args:
        table: From :func:`tabulate`, [heads, m, width]; the landmarks' columns are their mask.
        routes: Experts of the queries, [heads, N, s].
        num_shared: Landmarks; they count once.

    Returns:
        [heads, N, width], dtype of the table.
    """
    heads, num_experts, width = table.shape
    num_tokens, num_routed = routes.shape[1:]
    if num_routed == 1:
        first = torch.arange(0, heads * num_experts, num_experts, device=routes.device)
        rows = (routes.flatten(1) + first.unsqueeze(1)).flatten()
        return table.flatten(0, 1).index_select(0, rows).view(heads, num_tokens, width)
    chosen = table.new_zeros(heads, num_tokens, num_experts).scatter_(2, routes, 1)
    mask = (chosen @ table).log_()
    mask[..., :num_shared] = table[:, :1, :num_shared]
    return mask


def attend_heads(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, routes: Tensor, *, scale: float
) -> Tensor:
    """Attention of queries [heads, N, d] to keys and values [heads, keys, d] under their mask."""
    num_keys = key.shape[1]
    mask = make_mask(table, routes, num_keys - query.shape[1])[..., :num_keys]
    # Only the slowest kernel takes three dimensions.
    query, key, value, mask = (tensor.unsqueeze(0) for tensor in (query, key, value, mask))
    return attend(query, key, value, scale, mask).squeeze(0)


def by_heads(query: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors [heads, ...]; the masks of a part fit in `MASK_BYTES`."""
    *_, table, _ = tensors
    mask_bytes = query[..., 0].numel() * table.shape[-1] * table.element_size()
    count = max(1, -(-mask_bytes // MASK_BYTES))
    return zip(*(tensor.chunk(count) for tensor in (query, *tensors)), strict=True)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Parts along the first dimension, without a copy if there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def attend_by_heads(
    query: Tensor, key: Tensor, value: Tensor, table: Tensor, routes: Tensor, scale: float
) -> Tensor:
    """:func:`attend_heads`, some heads at a time."""
    parts = by_heads(query, key, value, table, routes)
    return join([attend_heads(*part, scale=scale) for part in parts])


class MaskedAttention(torch.autograd.Function):
    """:func:`attend_by_heads` that keeps its arguments for the backward pass, but no mask."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return attend_by_heads(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        twice = torch.is_grad_enabled()
        wanted = [index for index in range(3) if ctx.needs_input_grad[index]]

        def differentiate(*tensors: Tensor) -> Sequence[Tensor]:
            query, key, value, grad, table, routes = tensors
            inputs = query, key, value
            if in_transform():  # where tensors do not tell whether they require gradients

                def attend(*chosen: Tensor) -> Tensor:
                    given = [*inputs]
                    for index, each in zip(wanted, chosen, strict=True):
                        given[index] = each
                    query, key, value = given
                    return attend_heads(query, key, value, table, routes, scale=ctx.scale)

                return vjp(attend, *(inputs[index] for index in wanted))[1](grad)
            output = attend_heads(query, key, value, table, routes, scale=ctx.scale)
            chosen = [inputs[index] for index in wanted]
            return torch.autograd.grad(output, chosen, grad, create_graph=twice)

        *inputs, table, routes = ctx.saved_tensors
        with torch.enable_grad(), without_autocast(grad.device.type):
            parts = [differentiate(*part) for part in by_heads(*inputs, grad, table, routes)]
        gradients = dict(zip(wanted, map(join, zip(*parts, strict=True)), strict=True))
        return tuple(gradients.get(index) for index in range(6))

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
        *tensors, scale = arguments
        tensors = fold(info.batch_size, in_dims, tensors)
        return unfold(info.batch_size, MaskedAttention.apply(*tensors, scale)), 0


def gradients_may_follow(tensors: Sequence[Tensor]) -> bool:
    """Whether something may be differentiated; within torch.func tensors do not tell."""
    return in_transform() or (
        torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    )


class OnlyFirstGradients(torch.autograd.Function):
    """Its inputs, whose gradients refuse to be differentiated.

    scaled_dot_product_attention would refuse, too, but its message names none of our functions.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return LastGradients.apply(*grads) if torch.is_grad_enabled() else grads


class LastGradients(torch.autograd.Function):
    """Gradients that refuse to be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(grad if grad is None else grad.view_as(grad) for grad in grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, ...]:
        raise NotImplementedError("backend='masked' has no gradients of gradients, 'tiled' has")
