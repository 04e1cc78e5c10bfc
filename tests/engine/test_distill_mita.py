"""DistillMiTAHook in training runs."""

import gc
import json
import subprocess
import sys
import weakref

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.hooks import Hook
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.engine import AnnealMiTAHook, DistillMiTAHook, distill_mita
from mita_seg.finetuning import make_teacher
from support.ports import free_port
from support.segmentor_runs import make_segmentor_runner, model_config
from support.user_config import STOCK


class Note(Hook):
    """Notes the losses of every iteration."""

    def __init__(self):
        self.logs = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.logs.append({name: value.item() for name, value in outputs.items()})


def train(folder, *hooks, **options):
    note = Note()
    runner = make_segmentor_runner(folder, *hooks, note, **options)
    runner.train()
    return runner, note


@pytest.mark.parametrize('target', ['attention', 'block'])
def test_the_loss_is_added_until_the_end_and_the_teacher_is_freed(tmp_path, target, monkeypatch):
    made = []

    def make_and_note(part):
        teacher = make_teacher(part)
        made.append(weakref.ref(teacher))
        return teacher

    monkeypatch.setattr(distill_mita, 'make_teacher', make_and_note)
    hook = DistillMiTAHook(end=3, target=target, loss_weight=2.0)
    runner, note = train(tmp_path / 'run', hook)
    with_loss = ['distill.loss' in log for log in note.logs]
    assert with_loss == [True] * 3 + [False] * 3
    first = note.logs[0]
    assert first['loss'] == pytest.approx(first['decode.loss_ce'] + first['distill.loss'])
    gc.collect()
    assert made[0]() is None
    assert not any(module._forward_hooks for module in runner.model.modules())
    assert 'mita_teacher' in load_checkpoint_safely(tmp_path / 'run/iter_2.pth')
    assert 'mita_teacher' not in load_checkpoint_safely(tmp_path / 'run/iter_6.pth')


def test_a_resumed_run_has_the_same_teacher_and_ends_with_the_same_bits(tmp_path):
    runner, whole = train(tmp_path / 'whole', DistillMiTAHook(end=5))
    start = str(tmp_path / 'whole/iter_2.pth')
    again, resumed = train(tmp_path / 'resumed', DistillMiTAHook(end=5), resume=start)
    assert resumed.logs == whole.logs[2:]
    for name, value in runner.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_a_run_is_not_resumed_without_its_teacher(tmp_path):
    train(tmp_path / 'without', max_iters=2)
    start = str(tmp_path / 'without/iter_2.pth')
    runner = make_segmentor_runner(tmp_path / 'run', DistillMiTAHook(end=5), resume=start)
    with pytest.raises(ValueError, match='iteration 2 holds no teacher'):
        runner.train()
    # Past its end it is.
    train(tmp_path / 'later', DistillMiTAHook(end=2), resume=start)


@pytest.mark.long
@pytest.mark.slow
def test_a_compiled_segmentor_is_compiled_after_both_aids(tmp_path):
    counter = CompileCounterWithBackend('aot_eager')
    config = model_config('CompiledEncoderDecoder', compile_cfg={'backend': counter})
    compilations = []

    class Count(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            compilations.append(counter.frame_count)

    hooks = AnnealMiTAHook(end=3, num_stages=3), DistillMiTAHook(end=5), Count()
    _, note = train(tmp_path / 'run', *hooks, model=config)
    assert compilations == [0] * 5 + [1]
    assert note.logs[0]['distill.loss'] == 0  # full attention, as its teacher
    assert note.logs[2]['distill.loss'] > 0


@pytest.mark.parametrize('wrapper', [{'type': 'BFloat16OptimWrapper'}, {'accumulative_counts': 2}])
def test_works_in_mixed_precision_and_with_added_gradients(tmp_path, wrapper):
    hook = DistillMiTAHook(end=3)
    _, note = train(tmp_path / 'run', hook, max_iters=4, wrapper=wrapper)
    assert all(log['loss'] == log['loss'] for log in note.logs)
    assert ['distill.loss' in log for log in note.logs] == [True] * 3 + [False]


def test_within_data_parallel_processes_all_gradients_are_there(tmp_path):
    """The loss is added inside the wrapped model, where gradients are gathered."""
    hook = DistillMiTAHook(end=3)
    runner = make_segmentor_runner(tmp_path / 'run', hook, max_iters=3)
    hook.before_train(runner)
    batch = next(iter(runner.train_dataloader))
    data = runner.model.data_preprocessor(batch, True)

    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **kwargs):
            return self.module(**kwargs)

    losses = Wrapper(runner.model)(**data, mode='loss')
    losses['distill.loss'].backward()
    assert runner.model.backbone.layers[0].attn.qkv.weight.grad.any()


def test_a_swapped_model_of_mmsegmentation_trains_with_both_aids(tmp_path):
    model = {
        **STOCK,
        'type': 'mita_seg.models.build_swapped',
        'segmentor': 'EncoderDecoder',
        'attn_cfg': {'landmarks': (2, 2), 'topk': 3},
        'data_preprocessor': {'type': 'SegDataPreProcessor', 'size': (32, 32)},
    }
    for target in ('attention', 'block'):
        hooks = AnnealMiTAHook(end=3, num_stages=3), DistillMiTAHook(end=4, target=target)
        _, note = train(tmp_path / target, *hooks, model=model, max_iters=5)
        errors = [log.get('distill.loss') for log in note.logs]
        # Full attention, as ours and as MMCV computes it.
        assert errors[0] == pytest.approx(0, abs=1e-6) and errors[3] > 1e-6 and errors[4] is None


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_train_with_both_aids(repository, shapes_root, tmp_path):
    (config,) = (repository / 'configs/mita_segmenter_shapes').glob('*_mita-encdec_*.py')
    options = {
        **dict.fromkeys(
            ('crop_size', 'model.data_preprocessor.size', 'model.backbone.img_size'), '64,64'
        ),
        'model.backbone.num_layers': 2,
        'train_cfg.max_iters': 6,
        'train_cfg.val_interval': 6,
        'train_dataloader.batch_size': 2,
        'default_hooks.logger.interval': 1,
        'default_hooks.anneal.type': 'AnnealMiTAHook',
        'default_hooks.anneal.end': 5,
        'default_hooks.distill.type': 'DistillMiTAHook',
        'default_hooks.distill.end': 4,
        **{
            f'{part}_dataloader.dataset.data_root': shapes_root for part in ('train', 'val', 'test')
        },
    }
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2']
    command += ['--master_port', str(free_port()), repository / 'tools/train.py', config]
    command += ['--work-dir', tmp_path, '--launcher', 'pytorch', '--cfg-options']
    command += [f'{name}={value}' for name, value in options.items()]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [line['distill.loss'] for line in lines if 'distill.loss' in line]
    assert losses[0] == 0 < losses[3]  # full attention, then experts


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'end': 0}, ValueError, 'end must be an int of at least 1, got 0'),
        ({'end': 3, 'target': 'logits'}, ValueError, 'target must be'),
        ({'end': 3, 'loss_weight': 0}, ValueError, 'loss_weight must be above 0, got 0'),
        ({'end': 3, 'loss_weight': 'high'}, TypeError, 'loss_weight must be a number'),
    ],
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        DistillMiTAHook(**options)


def test_an_unknown_part_is_refused(tmp_path):
    runner = make_segmentor_runner(tmp_path / 'run', DistillMiTAHook(end=3, part='neck'))
    with pytest.raises(ValueError, match="part must name a module of the model, got 'neck'"):
        runner.train()
