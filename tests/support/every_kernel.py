"""Runs every kernel on both of its ways: what tools that watch a program's memory are to see.

    PYTHONPATH=tests compute-sanitizer --tool racecheck python -m support.every_kernel

One block and several, low and high tiles, several experts per query, half precision and float32,
pooling, k-means of the landmarks, and the loss; forward and backward.
"""

import torch

from mita_seg.layers import MiTAAttention
from mita_seg.ops import mita_attention, upsampled_cross_entropy
from mita_seg.ops.clustering import cluster_in_torch

_HALF, _SINGLE = torch.bfloat16, torch.float32
_CASES = [  # (tokens, landmarks, topk), dtype, head dimension, options of the operator
    ((300, 9, 9), _HALF, 64, {}),
    ((520, 9, 40), _HALF, 64, {}),
    ((1024, 49, 49), _HALF, 64, {}),
    ((700, 100, 130), _HALF, 64, {}),
    ((300, 9, 9), _HALF, 64, {'num_routed': 2}),
    ((300, 9, 9), _HALF, 64, {'shared': False}),
    ((300, 9, 9), _HALF, 64, {'shared': False, 'remainder': True}),
    ((700, 100, 130), _HALF, 64, {'shared': False, 'remainder': True}),
    ((300, 9, 0), _HALF, 64, {}),
    ((300, 9, 9), _HALF, 24, {}),
    ((300, 9, 9), _SINGLE, 64, {}),
    ((5000, 49, 49), _HALF, 64, {}),
    ((3000, 100, 100), _HALF, 64, {'num_routed': 2}),
]
SMALL_CASES = [  # which launch every kernel, too
    ((70, 66, 3), _SINGLE, 16, {}),
    ((40, 3, 20), _SINGLE, 16, {'num_routed': 2}),
    ((1030, 3, 2), _SINGLE, 16, {}),
    ((70, 66, 3), _SINGLE, 16, {'shared': False, 'remainder': True}),
]


def run(device, cases):
    """Launch all kernels on a device."""
    torch.manual_seed(0)
    for sizes, dtype, dim, options in cases:
        _attend(device, dtype, dim, *sizes, **options)

    layer = MiTAAttention(32, 2, landmarks=(2, 3), topk=4, backend='triton').to(device)
    tokens = torch.randn(1, 5 * 7, 32, device=device, requires_grad=True)
    layer(tokens, (5, 7)).sum().backward()

    _cluster(device, torch.float32, 70, 35)
    if device == 'cuda':
        _cluster(device, torch.bfloat16, 3000, 100)

    logits = torch.randn(1, 7, 5, 4, device=device, requires_grad=True)
    labels = torch.randint(0, 7, (1, 16, 18), device=device)
    upsampled_cross_entropy(logits, labels, backend='triton').loss.backward()


def _attend(device, dtype, dim, tokens, landmarks, topk, **options):
    shape = (1, 2, tokens, dim)
    tensors = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    pooled = torch.randn(1, 2, landmarks, dim, device=device, dtype=dtype, requires_grad=True)
    out = mita_attention(*tensors, pooled, topk=topk, backend='triton', **options)
    out.backward(torch.randn_like(out))


def _cluster(device, dtype, tokens, num_landmarks):
    from mita_seg.ops.triton.op import clustering  # the kernels, without a GPU too

    query, landmarks = (
        torch.randn(1, 2, rows, 64, device=device, dtype=dtype, requires_grad=True)
        for rows in (tokens, num_landmarks)
    )
    clustering(query, landmarks, 2, cluster_in_torch).sum().backward()


if __name__ == '__main__':
    run('cuda', _CASES)
    torch.cuda.synchronize()
