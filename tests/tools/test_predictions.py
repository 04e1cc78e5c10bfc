"""What tools/test.py writes, of which images, and with which evaluators."""

import shutil
import time

import numpy as np
import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.registry import MODELS
from PIL import Image

import mita_seg.datasets
import mita_seg.models  # noqa: F401
from mita_seg.engine.save_predictions import leave_files_to_evaluators
from mita_seg.utils.distinct_names import distinct_names

_CONFIG = """
_base_ = {base!r}
_test = dict(
    type='ShapesDataset',
    data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
    pipeline={{{{_base_.test_pipeline}}}})
test_dataloader = dict(_delete_=True, batch_size=1, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ConcatDataset', datasets=[
        dict(**_test, data_root={first!r}), dict(**_test, data_root={second!r})]))
tta_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
        [dict(type='LoadCheckedLabels', num_classes=7)], [dict(type='PackSegInputs')]])]
"""


@pytest.fixture
def two_towns(tmp_path, shapes_root, shapes_configs):
    """A config of two data sets in one, whose images have equal names, and random weights."""
    second = tmp_path / 'second'
    shutil.copytree(shapes_root, second)
    image = next((second / 'images/validation').iterdir())
    image.rename(image.with_stem('other_name'))
    labels = second / f'annotations/validation/{image.stem}.png'
    labels.rename(labels.with_stem('other_name'))
    config = tmp_path / 'config.py'
    config.write_text(
        _CONFIG.format(base=shapes_configs[0], first=str(shapes_root), second=str(second))
    )
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(
        {'model.data_preprocessor.size': (64, 64), 'model.backbone.img_size': (64, 64)}
    )
    init_default_scope('mmseg')
    checkpoint = tmp_path / 'random.pth'
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, checkpoint)
    return str(config), str(checkpoint)


def options(*more):
    name = f'test_{time.monotonic_ns()}'
    sizes = [f'model.{key}=64,64' for key in ('data_preprocessor.size', 'backbone.img_size')]
    return ['--cfg-options', *sizes, f'experiment_name={name}', f'visualizer.name={name}', *more]


def names_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.png'))


@pytest.mark.slow
@pytest.mark.parametrize('flags', [pytest.param([], marks=pytest.mark.long), ['--tta']])
def test_images_of_equal_names_are_kept_apart(tool, two_towns, tmp_path, shapes_root, flags):
    config, checkpoint = two_towns
    out, painted = tmp_path / 'out', tmp_path / 'painted'
    work_dir = ['--work-dir', str(tmp_path / 'run')]
    more = [*flags, '--out', str(out), '--show-dir', str(painted)]
    tool('test').main([config, checkpoint, *work_dir, *more, *options()])
    found = names_below(out)
    assert len(found) == 8 and 'other_name.png' in found
    assert sum(name.startswith(f'{tmp_path.name}/second/images/') for name in found) == 3
    labels = np.unique(np.concatenate([np.asarray(Image.open(out / n)).ravel() for n in found]))
    assert labels.min() >= 1 and labels.max() <= 7  # 0 is ignored in the files
    assert len(names_below(painted)) == 8


@pytest.mark.long
@pytest.mark.slow
def test_several_evaluators(tool, two_towns, tmp_path):
    config, checkpoint = two_towns
    out, config = tmp_path / 'out', Config.fromfile(config)
    config.test_evaluator = [{'type': 'IoUMetric'}, {'type': 'IoUMetric', 'prefix': 'other'}]
    config.dump(tmp_path / 'dumped.py')
    work_dir = ['--work-dir', str(tmp_path / 'run'), '--out', str(out)]
    tool('test').main([str(tmp_path / 'dumped.py'), checkpoint, *work_dir, *options()])
    assert len(names_below(out)) == 8


def test_which_evaluators_write():
    def left(evaluators):
        cfg = Config({'test_evaluator': evaluators})
        return leave_files_to_evaluators(cfg, 'out'), cfg.test_evaluator

    iou = {'type': 'IoUMetric'}
    assert left(iou) == (False, [iou])
    assert left({'type': IoUMetric, 'output_dir': 'other'}) == (False, [{'type': IoUMetric}])
    # This one does nothing but write.
    assert left([{**iou, 'format_only': True}]) == (False, [])
    assert left({'metrics': [iou]}) == (False, {'metrics': [iou]})
    # The format of the Cityscapes server is not ours.
    cityscapes = {'type': 'CityscapesMetric', 'output_dir': 'other'}
    written = {**cityscapes, 'output_dir': 'out', 'keep_results': True}
    assert left([iou, cityscapes]) == (True, [iou, written])


def test_distinct_names():
    assert distinct_names(['/d/a/1.jpg', '/d/b/2.jpg']) == {'/d/a/1.jpg': '1', '/d/b/2.jpg': '2'}
    assert distinct_names(['/d/a/1.jpg', '/d/b/1.jpg', '/d/b/1.jpg']) == {
        '/d/a/1.jpg': 'a/1',
        '/d/b/1.jpg': 'b/1',
    }
    assert distinct_names(['/d/1.jpg', '/d/1.png']) == {'/d/1.jpg': '1.jpg', '/d/1.png': '1.png'}
    # Short names that would meet: the ending kept by one is part of another's name.
    assert len(set(distinct_names(['/d/1.jpg', '/d/1.png', '/d/1.jpg.png']).values())) == 3
