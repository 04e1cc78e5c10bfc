"""Two processes of tools/test.py evaluate a checkpoint alike, to the bit."""

import json

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope


@pytest.mark.slow
@pytest.mark.long
def test_predictions_and_metrics_of_two_processes(
    repository, programs, tiny, shapes_configs, tmp_path, capsys
):
    cfg = Config.fromfile(shapes_configs[1])
    init_default_scope('mmseg')
    cfg.merge_from_dict({'model.backbone.img_size': (64, 64), 'model.backbone.num_layers': 1})
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'model.pth')
    found = []
    for name in ('first', 'second'):
        folder = tmp_path / name
        command = [repository / 'tools/test.py', shapes_configs[1]]
        command += [tmp_path / 'model.pth', '--work-dir', folder / 'run', '--out', folder / 'out']
        options = ['--cfg-options', *tiny, 'env_cfg.cudnn_benchmark=True']
        status, printed = programs.run(*command, *options)
        assert status == 0, printed
        predictions = {path.name: path.read_bytes() for path in (folder / 'out').glob('*.png')}
        (metrics,) = (folder / 'run').glob('*/*.json')
        metrics = json.loads(metrics.read_text())
        found.append((predictions, {name: metrics[name] for name in ('mIoU', 'aAcc', 'mAcc')}))
        (log,) = (folder / 'run').glob('*/*.log')
        assert 'cudnn_benchmark=False' in log.read_text().replace(' ', '')
    assert len(found[0][0]) == 4
    assert found[0] == found[1]
