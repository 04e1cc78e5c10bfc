"""Forward passes are timed in the precision that the config trains in."""

import pytest

pytest.importorskip('mmseg')

import torch

from mita_seg.comparison import measure


@pytest.mark.parametrize(
    ('optim_wrapper', 'dtype'),
    [
        (None, torch.float32),
        ({'type': 'OptimWrapper'}, torch.float32),
        ({'type': 'BFloat16OptimWrapper'}, torch.bfloat16),
        ({'type': 'AmpOptimWrapper'}, torch.get_autocast_dtype('cpu')),
        ({'type': 'AmpOptimWrapper', 'dtype': 'bfloat16'}, torch.bfloat16),
    ],
)
def test_forward_passes_run_in_the_precision_of_training(optim_wrapper, dtype):
    seen = set()

    class Model(torch.nn.Linear):
        def forward(self, x, mode):
            seen.add(super().forward(x).dtype)

    assert measure._time_forward(optim_wrapper, Model(4, 4), torch.randn(1, 4)) >= 0
    assert seen == {dtype}
