"""What the kernels can't run is said, or left to plain operations."""

from types import SimpleNamespace

import pytest
import torch
from operator_cases import DEVICE, on_device

from mita_seg.ops import mita_attention
from mita_seg.ops.triton import support

pytest.importorskip('triton')


def test_a_scale_that_is_not_positive_is_left_to_plain_operations():
    tensors = on_device([torch.randn(1, 1, rows, 16) for rows in (20, 20, 20, 4)])
    with pytest.raises(NotImplementedError, match='positive scales; got 0.25 and -1.0'):
        mita_attention(*tensors, topk=3, landmark_scale=-1, backend='triton')
    output = mita_attention(*tensors, topk=3, landmark_scale=-1)
    expected = mita_attention(*tensors, topk=3, landmark_scale=-1, backend='reference')
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(('kibibytes', 'fits'), [(99, False), (227, True)])
def test_gpus_of_little_shared_memory_are_left_to_plain_operations(kibibytes, fits, monkeypatch):
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setattr(support, '_shared_memory', lambda index: kibibytes * 1024)
    query = SimpleNamespace(
        device=torch.device('cuda', 0), dtype=torch.bfloat16, shape=(1, 2, 1024, 64)
    )
    reason = support.why_not(query, 49, 49)
    assert reason is None if fits else '227 KiB of shared memory' in reason


@pytest.mark.parametrize(
    ('query', 'options', 'message'),
    [
        (torch.randn(1, 1, 20, 12), {}, 'multiples of 8; got 12'),
        (torch.randn(1, 1, 20, 8), {}, 'from 16 to 128 .*got 8'),
        (torch.randn(1, 1, 20, 16).double(), {}, 'takes float32, bfloat16 and float16; got'),
        (torch.randn(1, 1, 1100, 16), {'topk': 1025}, 'at most 1024 .*got 4 and 1025'),
    ],
)
def test_what_the_kernels_cannot_do_is_said(query, options, message):
    query = query.to(DEVICE)
    landmarks = query[:, :, :4]
    with pytest.raises(NotImplementedError, match=f"backend='triton' can't run: .*{message}"):
        mita_attention(query, query, query, landmarks, **{'topk': 3, **options}, backend='triton')
