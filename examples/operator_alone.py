"""The operator on tensors, with torch alone: what it computes, and how long it takes.

python examples/operator_alone.py [--grid 64 64]
"""

import argparse

import torch
import torch.nn.functional as F

from mita_seg import pooled_mita_attention
from mita_seg.utils.timing import Timer


def main(argv=None):
    """Print how MiTA attention compares with full attention on random tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--grid', nargs=2, type=int, default=(64, 64), help='rows, columns')
    grid = tuple(parser.parse_args(argv).grid)
    tokens = grid[0] * grid[1]
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    query, key, value = torch.randn(3, 1, 6, tokens, 64, device=device).unbind()  # [B, H, N, d]

    def full():
        return F.scaled_dot_product_attention(query, key, value)

    # With all keys in every expert and no shared expert, MiTA is full attention.
    if tokens <= 1024:  # the most keys per expert that the kernels take
        everything = pooled_mita_attention(
            query, key, value, grid, (2, 2), topk=tokens, shared=False
        )
        print(f'with all keys, largest difference: {(everything - full()).abs().max():.1e}')

    # 7x7 landmarks, pooled from the queries; each is an expert of 49 keys.
    def mita():
        return pooled_mita_attention(query, key, value, grid, (7, 7), topk=49)

    print(f'{tokens} tokens on {device}, milliseconds per call:')
    print(f'  full attention {1e3 * Timer(full, device).median(10):.2f}')
    print(f'  MiTA           {1e3 * Timer(mita, device).median(10):.2f}')


if __name__ == '__main__':
    main()
