"""FLOP counts of the attention operators for MMEngine's counter (one multiply-add = 1).

MMEngine's analysis traces a model and counts by the name of each operator. It knows neither
scaled_dot_product_attention nor MiTA attention, and would count both as nothing.
Pooling, top-k and argmax are not counted.
"""

from math import prod

from mita_seg.ops.options import MiTAOptions, from_scalars


def full_attention_flops(heads: int, num_queries: int, num_keys: int, dim: int) -> int:
    """FLOPs of scaled_dot_product_attention: logits and values, N_q N_k d each.

    Args:
        heads: Batch size times number of heads.
        num_queries, num_keys: Tokens on either side.
        dim: Head dimension d.
    """
    return 2 * heads * num_queries * num_keys * dim


def mita_attention_flops(
    heads: int, num_tokens: int, dim: int, num_landmarks: int, options: MiTAOptions
) -> int:
    """FLOPs of MiTA attention, the same for every backend.

    N d m each for the landmark scores S, the shared values, the closeness G and the shared part of
    the output; N d s k each for the logits and the values of the routed experts. A remainder: N d m
    each for S, G, its mean keys and its mean values, and N d each for its logits and its part of
    the output.

    Args:
        heads: Batch size times number of heads.
        num_tokens: N.
        dim: Head dimension d.
        num_landmarks: m.
        options: What the attention computes. Route-only without a remainder needs S and G alone of
            the landmarks.
    """
    landmark_products = 4 if options.shared or options.remainder else 2
    routed_keys = options.num_routed * options.topk + options.remainder
    return heads * num_tokens * dim * (landmark_products * num_landmarks + 2 * routed_keys)


def register() -> None:
    """Teach MMEngine's counter, and so every tool built on it, the attention operators."""
    from mmengine.analysis import complexity_analysis
    from mmengine.analysis.jit_handles import generic_activation_jit

    flop_handles = {
        'aten::scaled_dot_product_attention': _count_full_attention,
        'mita_seg::mita_attention': _count_mita_attention,
        'mita_seg::pool_landmarks': None,  # counted as nothing, without a warning
    }
    complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS.update(flop_handles)
    complexity_analysis._DEFAULT_SUPPORTED_ACT_OPS.update(
        {name: generic_activation_jit() for name in flop_handles}
    )


def _shape(value) -> list[int]:
    return value.type().sizes()


def _count_full_attention(inputs, outputs) -> int:
    *heads, num_queries, dim = _shape(inputs[0])
    return full_attention_flops(prod(heads), num_queries, _shape(inputs[1])[-2], dim)


def _count_mita_attention(inputs, outputs) -> int:
    query, _, _, landmarks, *scalars = inputs
    *heads, num_tokens, dim = _shape(query)
    given = zip(MiTAOptions._fields, scalars, strict=True)
    options = from_scalars(**{name: scalar.toIValue() for name, scalar in given})
    return mita_attention_flops(prod(heads), num_tokens, dim, _shape(landmarks)[-2], options)
