"""Inputs that the operator tests share."""

import torch

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
