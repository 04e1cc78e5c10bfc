"""AnnealMiTAHook in training runs."""

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.hooks import Hook
from mmseg.registry import MODELS
from torch._dynamo.testing import CompileCounterWithBackend

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.engine import AnnealMiTAHook
from support.segmentor_runs import make_segmentor_runner, model_config

FULL = {'type': 'FullAttention'}


class Note(Hook):
    """Notes loss and stage of every iteration."""

    def __init__(self):
        self.losses, self.stages = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())
        self.stages.append(getattr(runner.model.backbone.layers[0].attn, 'stage', None))


def train(folder, *hooks, **options):
    note = Note()
    runner = make_segmentor_runner(folder, *hooks, note, **options)
    runner.train()
    return runner, note


def anneal(end=6, **options):
    return AnnealMiTAHook(end=end, num_stages=3, largest=12, **options)


def test_training_begins_as_full_attention_does(tmp_path):
    _, full = train(tmp_path / 'full', model=model_config(attention=FULL), max_iters=4)
    _, annealed = train(tmp_path / 'annealed', anneal(), max_iters=4)
    _, mita = train(tmp_path / 'mita', max_iters=1)
    assert annealed.losses[:2] == full.losses[:2]  # the stage of full attention
    assert annealed.losses[3] != full.losses[3] and mita.losses[0] != full.losses[0]


def test_a_resumed_run_goes_on_in_its_stage_with_the_same_bits(tmp_path):
    runner, whole = train(tmp_path / 'whole', anneal())
    assert [stage and stage.topk for stage in whole.stages] == [None, None, 12, 12, 6, 6]
    for step in (2, 4):
        start = str(tmp_path / f'whole/iter_{step}.pth')
        again, resumed = train(tmp_path / f'from{step}', anneal(), resume=start)
        assert resumed.stages == whole.stages[step:]
        for name, value in runner.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value), name


def test_a_checkpoint_from_the_midst_is_evaluated_in_its_stage(tmp_path):
    train(tmp_path / 'run', anneal(), max_iters=8)
    saved = load_checkpoint_safely(tmp_path / 'run/iter_4.pth')['mita_stages']
    assert saved['backbone.layers.0.attn']['topk'] == 12
    assert 'mita_stages' not in load_checkpoint_safely(tmp_path / 'run/iter_8.pth')
    for step, expected in ((4, 12), (8, None)):
        runner = make_segmentor_runner(tmp_path / f'test{step}', anneal())
        runner.load_checkpoint(str(tmp_path / f'run/iter_{step}.pth'))
        stage = runner.model.backbone.layers[0].attn.stage
        assert (stage and stage.topk) == expected


@pytest.mark.long
@pytest.mark.slow
def test_a_compiled_segmentor_is_compiled_once_after_the_last_stage(tmp_path):
    counter = CompileCounterWithBackend('eager')
    config = model_config('CompiledEncoderDecoder', compile_cfg={'backend': counter})
    compilations = []

    class Count(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            compilations.append(counter.frame_count)

    _, compiled = train(tmp_path / 'compiled', anneal(), Count(), model=config, max_iters=9)
    assert compilations == [0] * 6 + [1] * 3
    _, eager = train(tmp_path / 'eager', anneal(), max_iters=9)
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-3)


def test_models_without_mita_attention_are_refused(tmp_path):
    runner = make_segmentor_runner(
        tmp_path / 'run', anneal(), model=model_config(attention=FULL), max_iters=1
    )
    with pytest.raises(ValueError, match='no MiTAAttention'):
        runner.train()


def test_bad_settings_are_refused_when_the_hook_is_built():
    with pytest.raises(ValueError, match='end must be at least 1, got 0'):
        AnnealMiTAHook(end=0)
    with pytest.raises(TypeError, match='end must be an int'):
        AnnealMiTAHook(end=0.5)


def test_reasons_to_train_eagerly_add_up():
    model = MODELS.build(
        model_config('CompiledEncoderDecoder', compile_cfg={'backend': 'aot_eager'})
    )
    model.run_eagerly('one')
    model.run_eagerly('other')
    model.run_eagerly('one', False)
    assert model._eager_for == {'other'}
