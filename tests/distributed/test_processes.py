"""Two processes compute what one does with the same global batch, to rounding."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip('mmseg')

from support.process_runs import SETTINGS, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def results(two_processes):
    """{setting: (losses, weights)} of each process."""
    return [torch.load(two_processes / f'{rank}.pth') for rank in range(2)]


@pytest.mark.parametrize('name', SETTINGS)
def test_losses_and_weights_are_those_of_one_process(name, results):
    # Compilation changes nothing, and takes seconds.
    losses, weights = train(replace(SETTINGS[name], segmentor={}))
    (first_losses, first), (second_losses, second) = (result[name] for result in results)
    # Each process tells the loss of its own images.
    assert (first_losses != second_losses).all()
    means = (first_losses + second_losses) / 2
    torch.testing.assert_close(means, losses, rtol=1e-10, atol=1e-10)
    assert losses[0] != losses[-1]
    torch.testing.assert_close(first, weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
