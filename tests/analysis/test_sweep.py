import pytest
import torch

from mita_seg.analysis.sweep import check_sweep, draw_sweep, sweep_experts
from mita_seg.layers import MiTAAttention


@pytest.fixture
def model():
    return torch.nn.Sequential(MiTAAttention(16, 2, landmarks=(2, 2), topk=3, num_routed=2))


def test_every_combination_is_evaluated_and_the_model_restored(model, tmp_path):
    def evaluate():
        return {'mIoU': 10 * model[0].landmarks[1] + model[0].topk}

    cells = list(sweep_experts(evaluate, model, [(1, 2), (2, 2), (2, 3)], [0, 3]))
    assert [cell['mIoU'] for cell in cells] == [20, 23, 20, 23, 30, 33]
    assert cells[-1] == {'landmarks': [2, 3], 'topk': 3, 'mIoU': 33}
    assert (model[0].landmarks, model[0].topk) == ((2, 2), 3)
    picture = draw_sweep(cells, ((2, 2), 3), tmp_path / 'sweep.png')
    assert picture.stat().st_size > 5_000


def test_model_is_restored_after_a_failure(model):
    def fail():
        raise RuntimeError('out of memory')

    with pytest.raises(RuntimeError):
        next(sweep_experts(fail, model, [(3, 3)], [5]))
    assert (model[0].landmarks, model[0].topk) == ((2, 2), 3)


@pytest.mark.parametrize(
    ('landmarks', 'topk', 'message'),
    [((0, 2), 3, 'landmarks'), ((2, 2), -1, 'topk'), ((1, 1), 3, 'num_routed')],
)
def test_impossible_combinations_are_refused_first(model, landmarks, topk, message):
    with pytest.raises(ValueError, match=message):
        check_sweep(model, [(2, 2), landmarks], [3, topk])


def test_with_a_remainder_there_must_be_keys():
    layer = MiTAAttention(16, 2, landmarks=(2, 2), topk=3, shared=False, remainder=True)
    check_sweep(layer, [(2, 2)], [1, 99])
    with pytest.raises(ValueError, match='topk must be at least 1 with remainder=True, got 0'):
        check_sweep(layer, [(2, 2)], [0])
