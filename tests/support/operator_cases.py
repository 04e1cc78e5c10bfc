"""Inputs that the operator tests share, and calls with gradients."""

import torch

from mita_seg.ops import mita_attention

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'  # where the Triton kernels are tested
NAMES = ('output', 'query', 'key', 'value', 'landmarks')  # what with_gradients returns

# name: (B, H, N, d, m, k, s, shared)
CASES = {
    'usual': (2, 3, 64, 16, 9, 7, 1, True),
    'odd_sizes': (1, 2, 127, 16, 5, 11, 1, True),
    'one_batch_one_head': (1, 1, 63, 16, 4, 6, 1, True),
    'one_landmark': (2, 2, 40, 16, 1, 6, 1, True),
    'one_key': (2, 2, 40, 16, 6, 1, 1, True),
    'one_token': (1, 2, 1, 16, 3, 2, 1, True),
    'all_keys': (1, 2, 33, 16, 4, 33, 1, True),
    'more_keys_than_tokens': (1, 2, 33, 16, 4, 50, 1, True),
    'more_landmarks_than_tokens': (1, 2, 5, 16, 12, 3, 1, True),
    'two_experts': (2, 2, 50, 16, 6, 5, 2, True),
    'every_expert': (1, 2, 50, 16, 6, 5, 6, True),
    'compress_only': (2, 2, 50, 16, 6, 0, 1, True),
    'route_only': (2, 2, 50, 16, 6, 5, 1, False),
    'route_only_three_experts': (1, 2, 50, 16, 6, 5, 3, False),
    'tall_tiles': (1, 1, 500, 16, 3, 4, 1, True),
}


def make_inputs(case, dtype=torch.float64, seed=0, requires_grad=True):
    """-> (query, key, value, landmarks), keyword arguments"""
    batch, heads, tokens, dim, landmarks, topk, num_routed, shared = CASES[case]
    generator = torch.Generator().manual_seed(seed)

    def draw(rows):
        drawn = torch.randn(batch, heads, rows, dim, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).requires_grad_(requires_grad)

    tensors = (draw(tokens), draw(tokens), draw(tokens), draw(landmarks))
    return tensors, {'topk': topk, 'num_routed': num_routed, 'shared': shared}


def gradients(output, tensors, seed=1):
    """Gradients of a fixed random weighting of the output; None where there is none."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return torch.autograd.grad(output, tensors, weights, allow_unused=True)


def on_device(tensors, dtype=torch.float32):
    """Leaves on the device of the kernels."""
    return [tensor.detach().to(DEVICE, dtype).requires_grad_() for tensor in tensors]


def draw_inputs(tokens, landmarks, dim=16, batch=1, heads=1, dtype=torch.float32, scale=1, seed=0):
    """-> query, key, value, landmarks, on the device of the kernels."""
    generator = torch.Generator().manual_seed(seed)
    return on_device(
        [
            scale * torch.randn(batch, heads, rows, dim, generator=generator)
            for rows in (tokens, tokens, tokens, landmarks)
        ],
        dtype,
    )


def with_gradients(tensors, attend=mita_attention, **arguments):
    """Output, and gradients of query, key, value and landmarks."""
    output = attend(*tensors, **arguments)
    return output, *gradients(output, tensors)


def relative_error(result, wanted):
    """Of norms, in float64."""
    return ((result.double() - wanted.double()).norm() / wanted.double().norm()).item()
