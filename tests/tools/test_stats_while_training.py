"""MiTAStatsHook in a training run."""

import json
import time
from types import SimpleNamespace

import pytest

pytest.importorskip('mmseg')

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmseg.registry import MODELS
from PIL import Image

import mita_seg.models  # noqa: F401  (registers what is built)
from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.datasets import PackSegViews, join_samples
from mita_seg.engine import MiTAStatsHook, mita_stats
from support.small_segmentor import CONFIG


@HOOKS.register_module()
class NoteMode(Hook):
    """Notes whether the model is in training mode after each iteration."""

    priority = 'LOWEST'
    training = []  # noqa: RUF012

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.training.append(runner.model.training)


LAYERS = ('backbone_0', 'backbone_1', 'decoder_0')


@pytest.fixture
def train(tool, tiny, shapes_configs, tmp_path):
    """Train a tiny model in a folder; half of the second layer is dropped at random."""

    def train(folder, *hooks):
        config = tmp_path / f'{folder}.py'
        config.write_text(f'_base_ = {shapes_configs[1]!r}\ncustom_hooks = {list(hooks)!r}\n')
        name = f'stats_{time.monotonic_ns()}'  # MMEngine keeps a run's visualizer by its name
        options = [*tiny, f'experiment_name={name}', f'visualizer.name={name}']
        options += ['model.backbone.num_layers=2', 'model.backbone.drop_path_rate=0.5']
        options += ['randomness.seed=0']
        path = tmp_path / folder
        tool('train').main([str(config), '--work-dir', str(path), '--cfg-options', *options])
        return path, load_checkpoint_safely(path / 'iter_4.pth')['state_dict']

    return train


@pytest.mark.long
@pytest.mark.slow
def test_stats_are_logged_and_training_ends_with_the_same_bits(train):
    _, expected = train('without')
    path, weights = train(
        'with', {'type': 'MiTAStatsHook', 'interval': 2, 'images': 2}, {'type': 'NoteMode'}
    )
    assert NoteMode.training == [True] * 4
    assert all(torch.equal(weights[name], value) for name, value in expected.items())

    (log,) = path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    stats = [line for line in lines if 'mita/shared_mass' in line]
    assert [line['step'] for line in stats] == [2, 4]
    for name in ('empty_experts', 'busiest_expert', 'unchosen_keys', 'overlap', 'shared_mass'):
        layers = [stats[0][f'mita_{layer}/{name}'] for layer in LAYERS]
        assert stats[0][f'mita/{name}'] == pytest.approx(np.mean(layers))
    loads = [value for name, value in stats[0].items() if name.startswith('mita_load_decoder_0/')]
    assert len(loads) > 1 and sum(loads) == pytest.approx(1)

    pictures = sorted(path.glob('*/vis_data/vis_image/mita_experts_*.png'))
    assert [picture.stem for picture in pictures] == ['mita_experts_2', 'mita_experts_4']
    pixels = np.asarray(Image.open(pictures[0]))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_a_model_without_mita_attention_is_warned_of_and_left_alone(monkeypatch):
    said = []
    monkeypatch.setattr(mita_stats, 'print_log', lambda text, **_: said.append(text))
    runner = SimpleNamespace(model=torch.nn.Linear(2, 2), iter=0, visualizer=None)
    hook = MiTAStatsHook(interval=1)
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, {'inputs': [], 'data_samples': []})
    assert said == ['MiTAStatsHook logs nothing: the model has no MiTAAttention']


@pytest.mark.parametrize('options', [{'interval': 0}, {'images': 0}, {'image_interval': -1}])
def test_numbers_out_of_range_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf'{name} must be an int of at least'):
        MiTAStatsHook(**options)


def test_a_joined_batch_is_looked_at_as_a_list_of_images(monkeypatch):
    init_default_scope('mmseg')
    draw = np.random.default_rng(0)
    results = [
        {
            'img': draw.integers(0, 256, (32, 48, 3), dtype=np.uint8),
            'gt_seg_map': draw.integers(0, 3, (32, 48), dtype=np.uint8),
        }
        for _ in range(3)
    ]
    samples = [PackSegViews().transform(result) for result in results]
    preprocessor = {'type': 'BatchSegDataPreProcessor', 'size': (32, 48)}
    model = MODELS.build(
        {'type': 'EncoderDecoder', 'data_preprocessor': preprocessor, **CONFIG}
    ).train()
    monkeypatch.setattr(mita_stats, 'print_log', lambda *_, **__: None)
    logged = []
    for batch in (pseudo_collate(samples), join_samples(samples)):
        scalars = {}
        visualizer = SimpleNamespace(
            add_scalars=lambda values, step, scalars=scalars: scalars.update(values),
            add_image=lambda name, image, step, scalars=scalars: scalars.update({name: image}),
        )
        runner = SimpleNamespace(model=model, iter=0, visualizer=visualizer)
        hook = MiTAStatsHook(interval=1, images=2)
        hook.before_train(runner)
        hook.after_train_iter(runner, 0, batch)
        logged.append(scalars)
    assert logged[0].keys() == logged[1].keys() and 'mita_experts' in logged[0]
    for name, value in logged[0].items():
        np.testing.assert_array_equal(value, logged[1][name])
