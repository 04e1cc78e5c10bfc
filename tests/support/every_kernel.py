"""Runs every kernel on both of its ways: what tools that watch a program's memory are to see.

    PYTHONPATH=tests compute-sanitizer --tool racecheck python -m support.every_kernel

One block and several, low and high tiles, several experts per query, half precision and float32,
pooling, and the loss; forward and backward.
"""

import torch

from mita_seg.layers import MiTAAttention
from mita_seg.ops import mita_attention, upsampled_cross_entropy

_CASES = [  # (tokens, landmarks, topk), options of the operator
    ((300, 9, 9), {}),
    ((520, 9, 40), {}),
    ((1024, 49, 49), {}),
    ((700, 100, 130), {}),
    ((300, 9, 9), {'num_routed': 2}),
    ((300, 9, 9), {'shared': False}),
    ((300, 9, 0), {}),
    ((5000, 49, 49), {}),
    ((3000, 100, 100), {'num_routed': 2}),
]
SMALL_CASES = [((70, 66, 3), {}), ((40, 3, 20), {'num_routed': 2}), ((1030, 3, 2), {})]


def run(device, cases):
    """Launch all kernels on a device."""
    torch.manual_seed(0)
    for sizes, options in cases:
        _attend(device, torch.bfloat16 if device == 'cuda' else torch.float32, *sizes, **options)
    _attend(device, torch.float32, 60, 9, 9)
    _attend(device, torch.float32, 60, 9, 9, dim=24)

    layer = MiTAAttention(32, 2, landmarks=(3, 4), topk=12, backend='triton').to(device)
    tokens = torch.randn(2, 10 * 11, 32, device=device, requires_grad=True)
    layer(tokens, (10, 11)).sum().backward()

    logits = torch.randn(2, 19, 9, 8, device=device, requires_grad=True)
    labels = torch.randint(0, 19, (2, 30, 35), device=device)
    upsampled_cross_entropy(logits, labels, backend='triton').loss.backward()


def _attend(device, dtype, tokens, landmarks, topk, dim=64, **options):
    shape = (1, 2, tokens, dim)
    tensors = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    pooled = torch.randn(1, 2, landmarks, dim, device=device, dtype=dtype, requires_grad=True)
    out = mita_attention(*tensors, pooled, topk=topk, backend='triton', **options)
    out.backward(torch.randn_like(out))


if __name__ == '__main__':
    run('cuda', _CASES)
    torch.cuda.synchronize()
