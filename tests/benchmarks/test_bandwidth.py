"""The table of bytes to move against the addresses that the interpreted kernels touch."""

from collections import defaultdict

import numpy as np
import pytest
import torch

from benchmarks.bandwidth import kernel_bytes
from benchmarks.cases import HEAD_DIM, Case
from benchmarks.kernels import count_segments, count_selected_keys
from mita_seg.ops import pooled_mita_attention
from mita_seg.ops.triton.blocks import choose_blocks
from mita_seg.ops.triton.gpu import ARCHITECTURES
from mita_seg.ops.triton.launch import next_power_of_2

pytest.importorskip('triton')
GPU = ARCHITECTURES[90]  # as the interpreter is treated
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='kernels are not interpreted')


@pytest.fixture
def touched(monkeypatch):
    """Bytes read and written by each launch, {kernel: [(read, written), ...]}, as they happen.

    Each byte counts once a launch; what a launch reads after writing it was not there to be read.
    """
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    log, launches = [], defaultdict(list)

    def note(written, pointers, mask):
        chosen = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)  # some are integers
        width = pointers.get_element_ty().primitive_bitwidth // 8
        log.append((pointers.data[chosen].ravel(), written, width))

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def noting_load(self, pointers, mask, *rest):
        note(False, pointers, mask)
        return load(self, pointers, mask, *rest)

    def noting_store(self, pointers, value, mask, *rest):
        note(True, pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(InterpreterBuilder, 'create_masked_load', noting_load)
    monkeypatch.setattr(InterpreterBuilder, 'create_masked_store', noting_store)
    run = GridExecutor.__call__

    def noting_run(self, *args, **options):
        run(self, *args, **options)
        addresses = np.concatenate([entry[0] for entry in log])
        written = np.concatenate([np.full(len(entry[0]), entry[1]) for entry in log])
        widths = np.concatenate([np.full(len(entry[0]), entry[2]) for entry in log])
        log.clear()
        _, first = np.unique(addresses, return_index=True)
        _, stored = np.unique(addresses[written], return_index=True)
        launches[self.fn.__name__].append(
            (widths[first][~written[first]].sum(), widths[written][stored].sum())
        )

    monkeypatch.setattr(GridExecutor, '__call__', noting_run)
    return launches


@pytest.mark.slow
@pytest.mark.parametrize(
    ('case', 'dtype'),
    [
        (Case(576, 1, 4, 5), torch.float16),  # block maxima, keys that no expert selects
        (Case(64, 2, 36, 33), torch.float32),  # several blocks of both, half the heads at once
    ],
    ids=str,
)
def test_table_has_the_bytes_that_the_kernels_touch(case, dtype, touched):
    shape = (1, case.heads, case.tokens, HEAD_DIM)
    inputs = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
    counts = count_selected_keys(*inputs[:2], case), count_segments(inputs[0], case)
    output = pooled_mita_attention(
        *inputs, case.grid, case.landmark_grid, topk=case.topk, backend='triton'
    )
    torch.autograd.grad(output, inputs, torch.randn(shape).to(dtype))

    table = kernel_bytes(case, dtype, *counts, GPU)
    assert set(table) == set(touched)
    for name, launches in touched.items():
        read, written = (sum(counts) for counts in zip(*launches, strict=True))
        more_read, more_written = surplus(name, case, dtype)
        assert 0 <= written - table[name].written <= more_written, name
        assert -more_read <= table[name].read - read <= slack(name, case), name


def surplus(name, case, dtype):
    """How much more is read and written where the selection takes more blocks than it must."""
    blocks = choose_blocks(
        case.heads, case.tokens, HEAD_DIM, case.landmarks, case.topk, 1, dtype.itemsize, GPU
    )
    if name != '_topk_and_sort_kernel' or blocks.key_block == 1:
        return 0, 0
    more = 4 * case.heads * case.landmarks * (next_power_of_2(case.topk) - case.topk)
    return more * blocks.key_block, more


def slack(name, case):
    """How much less is read where the data leave tiles empty or make look-ups coincide."""
    if name == '_reduce_and_place_kernel':  # indices in a binary search
        return 4 * case.heads * case.landmarks * case.topk
    if name in ('_attend_kernel', '_query_backward_kernel', '_expert_backward_kernel'):
        return 4 * case.heads * (case.tokens // 16 + case.landmarks)
    return 0
