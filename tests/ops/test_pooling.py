"""Landmark pooling against windows written out."""

import math

import pytest
import torch

from mita_seg.ops import pool_landmarks


def windows_written_out(patches, num_landmarks):
    """patches [h, w, d] -> [mh * mw, d]"""
    (height, width, _), (rows, columns) = patches.shape, num_landmarks
    return torch.stack(
        [
            patches[
                math.floor(i * height / rows) : math.ceil((i + 1) * height / rows),
                math.floor(j * width / columns) : math.ceil((j + 1) * width / columns),
            ].mean((0, 1))
            for i in range(rows)
            for j in range(columns)
        ]
    )


@pytest.mark.parametrize(
    ('grid', 'num_landmarks'),
    [((8, 8), (4, 4)), ((7, 11), (3, 4)), ((5, 3), (6, 6)), ((1, 9), (2, 2)), ((6, 6), (1, 1))],
)
@pytest.mark.parametrize(('start', 'after'), [(0, 0), (1, 0), (5, 3)])
def test_equals_adaptive_windows_over_patch_tokens_only(grid, num_landmarks, start, after):
    patches = grid[0] * grid[1]
    query = torch.randn(2, 3, start + patches + after, 8, dtype=torch.float64)
    landmarks = pool_landmarks(query, grid, num_landmarks, start=start)
    assert landmarks.shape == (2, 3, num_landmarks[0] * num_landmarks[1], 8)
    expected = windows_written_out(
        query[1, 2, start : start + patches].view(*grid, 8), num_landmarks
    )
    torch.testing.assert_close(landmarks[1, 2], expected, atol=1e-12, rtol=0)


def test_special_tokens_get_no_gradient():
    query = torch.randn(1, 2, 20, 8, requires_grad=True)
    pool_landmarks(query, (3, 5), (2, 2), start=2).sum().backward()
    assert not query.grad[:, :, :2].any() and not query.grad[:, :, 17:].any()
    assert query.grad[:, :, 2:17].all()


def test_strided_queries():
    query = torch.randn(2, 12, 3, 8, dtype=torch.float64).transpose(1, 2)
    landmarks = pool_landmarks(query, (3, 4), (2, 2))
    expected = pool_landmarks(query.contiguous(), (3, 4), (2, 2))
    assert torch.equal(landmarks, expected)
