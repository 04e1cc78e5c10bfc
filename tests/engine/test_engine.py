"""Parts of the training loop that do not wait for the device."""

from types import SimpleNamespace

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner

from mita_seg.engine import BFloat16OptimWrapper, DeferredRuntimeInfoHook


class Model(BaseModel):
    """A regression whose loss and precision can be seen."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.dtypes = []

    def forward(self, inputs, mode):
        out = self.layer(inputs)
        self.dtypes.append(out.dtype)
        return {'loss': out.float().square().mean(), 'acc': out.detach().float().mean()}


class Inputs(torch.utils.data.Dataset):
    def __len__(self):
        return 14

    def __getitem__(self, index):
        return {'inputs': torch.tensor([index, 1.0])}


def optim_wrapper(**options):
    return {'optimizer': {'type': 'SGD', 'lr': 1e-4}, 'clip_grad': {'max_norm': 0.1}, **options}


def train(folder, wrapper, hook, max_iters=7):
    torch.manual_seed(0)
    runner = Runner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader={
            'dataset': Inputs(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 2,
            'num_workers': 0,
            'collate_fn': {'type': 'default_collate'},
        },
        train_cfg={'by_epoch': False, 'max_iters': max_iters},
        optim_wrapper=wrapper,
        default_hooks={'runtime_info': hook, 'logger': None, 'checkpoint': None},
        experiment_name=f'{folder.name}_{hook["type"]}_{wrapper.get("type")}',
        log_level='ERROR',
        default_scope='mmseg',
    )
    runner.train()
    scalars = runner.message_hub.log_scalars
    names = ('train/loss', 'train/acc', 'train/grad_norm')
    return runner, {name: scalars[name].data[0].tolist() for name in names}


def test_deferred_log_holds_what_the_stock_hooks_log(tmp_path):
    stock = optim_wrapper(type='OptimWrapper')
    ours = BFloat16OptimWrapper.__name__
    _, expected = train(tmp_path, stock, {'type': RuntimeInfoHook.__name__})
    runner, got = train(
        tmp_path,
        optim_wrapper(type=ours),
        {'type': DeferredRuntimeInfoHook.__name__, 'interval': 3},
    )
    assert runner.model.dtypes == [torch.bfloat16] * 7
    for name, values in expected.items():
        assert len(got[name]) == len(values) == 7
        assert got[name] == pytest.approx(values, rel=0.05), name


def test_losses_are_read_at_the_interval_only(tmp_path):
    hub = MessageHub('deferred')
    runner = type('Runner', (), {'message_hub': hub, 'iter': 0, 'max_iters': 5})()
    runner.optim_wrapper = None
    hook = DeferredRuntimeInfoHook(interval=2)
    known = []
    for runner.iter in range(5):
        hook.after_train_iter(runner, runner.iter, outputs={'loss': torch.tensor(runner.iter)})
        scalars = hub.log_scalars
        known.append(len(scalars['train/loss'].data[0]) if 'train/loss' in scalars else 0)
    assert known == [0, 2, 2, 4, 5]  # and at the end


@pytest.mark.parametrize(('logged', 'expected'), [([4], 4), ([4, 6], 2), ([], 50)])
def test_by_default_losses_are_read_when_they_are_logged(logged, expected):
    hook = DeferredRuntimeInfoHook()
    hook.before_train(
        SimpleNamespace(
            hooks=[hook, *(LoggerHook(interval=interval) for interval in logged)],
            message_hub=MessageHub('by default'),
            train_dataloader=SimpleNamespace(dataset=None),
            **dict.fromkeys(('epoch', 'iter', 'max_epochs', 'max_iters'), 0),
        )
    )
    assert hook.interval == expected


def test_gradients_are_clipped():
    model = Model()
    wrapper = BFloat16OptimWrapper(
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0), clip_grad={'max_norm': 0.1}
    )
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    with wrapper.optim_context(model):
        loss = model(torch.full((1, 2), 100.0), 'loss')['loss']
    wrapper.update_params(loss)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm() == pytest.approx(0.1, rel=1e-3)
    assert wrapper.grad_norm > 1


def test_is_registered_and_bad_interval_is_refused():
    assert OPTIM_WRAPPERS.get('BFloat16OptimWrapper') is BFloat16OptimWrapper
    for interval in (0, 2.5):
        with pytest.raises(ValueError, match=f'interval must be .* or None, got {interval}'):
            DeferredRuntimeInfoHook(interval=interval)
