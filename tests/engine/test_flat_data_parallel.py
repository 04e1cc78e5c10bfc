"""What several processes compute with it is in tests/distributed."""

import pytest
import torch
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed, nn

from mita_seg.engine import FlatDataParallel


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.used, self.other = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, inputs, mode):
        return {'loss': self.used(inputs).square().sum()}


@pytest.fixture
def one_process(tmp_path):
    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def step(model):
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(trained, lr=0.1))
    return model.train_step({'inputs': torch.ones(3, 2)}, wrapper)


def test_a_config_builds_it(one_process):
    model = MODEL_WRAPPERS.build({'type': 'FlatDataParallel'}, default_args={'module': Model()})
    assert is_model_wrapper(model)


def test_a_weight_without_gradient_is_named(one_process):
    model = FlatDataParallel(Model())
    with pytest.raises(
        RuntimeError, match=r'2 weights, other\.weight .*find_unused_parameters=True'
    ):
        step(model)


def test_frozen_weights_may_change_from_step_to_step(one_process):
    model = FlatDataParallel(Model())
    model.module.other.requires_grad_(False)
    for frozen in (False, True, False):
        model.module.used.bias.requires_grad_(not frozen)
        before = {name: weight.clone() for name, weight in model.module.named_parameters()}
        step(model)
        changed = {
            name
            for name, weight in model.module.named_parameters()
            if not torch.equal(weight, before[name])
        }
        assert changed == {'used.weight'} | (set() if frozen else {'used.bias'})


@pytest.mark.parametrize('value, error', [(0, ValueError), (True, TypeError), ('64', TypeError)])
def test_the_size_of_buckets_is_a_positive_number(one_process, value, error):
    with pytest.raises(error, match='bucket_cap_mb must be'):
        FlatDataParallel(Model(), bucket_cap_mb=value)


def test_without_a_launcher_it_says_what_is_missing():
    with pytest.raises(RuntimeError, match=r'launcher, as tools/dist_train\.sh'):
        FlatDataParallel(Model())
