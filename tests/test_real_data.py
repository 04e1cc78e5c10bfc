"""Training, evaluation and inference on a few real ADE20K files."""

import importlib.util
import re

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmseg.apis import inference_model, init_model

CROP = (96, 96)


def run_tool(repository, name, arguments):
    spec = importlib.util.spec_from_file_location(name, repository / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(list(map(str, arguments)))


def shrink(cfg, root, name):
    """Small crops and images and a few iterations; everything else is as published."""
    cfg.experiment_name = cfg.visualizer.name = name
    cfg.model.data_preprocessor.size = cfg.model.backbone.img_size = CROP
    cfg.model.backbone.init_cfg = None
    cfg.model.test_cfg.update(crop_size=CROP, stride=(72, 72))
    cfg.train_cfg.update(max_iters=3, val_interval=100)
    cfg.default_hooks.logger.interval = 1
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].update(num_workers=0, persistent_workers=False)
        cfg[loader].dataset.data_root = str(root)
        for step in cfg[loader].dataset.pipeline:
            if step.type in ('Resize', 'RandomResize'):
                step.scale = (512, 128)
            if step.type == 'RandomCrop':
                step.crop_size = CROP
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    cfg.tta_pipeline[-1].transforms[0] = [
        {'type': 'Resize', 'scale_factor': ratio, 'keep_ratio': True} for ratio in (0.15, 0.2)
    ]


@pytest.mark.slow
@pytest.mark.long
def test_train_evaluate_and_infer(repository, ade20k_samples, tmp_path, monkeypatch, capsys):
    runner = pytest.importorskip('mmengine.runner')
    loader = runner.CheckpointLoader
    monkeypatch.setattr(loader, 'load_checkpoint', loader.load_checkpoint)
    monkeypatch.setenv('LOCAL_RANK', '0')

    (published,) = (repository / 'configs/mita_segmenter').glob('*_vit-t_mita-encdec_*.py')
    cfg = Config.fromfile(published)
    shrink(cfg, ade20k_samples, 'real')
    config = tmp_path / published.name
    cfg.dump(config)

    run_tool(repository, 'train', [config, '--work-dir', tmp_path / 'run'])
    checkpoint = tmp_path / 'run/iter_3.pth'
    losses = re.findall(r'loss: (\d+\.\d+)', capsys.readouterr().out)
    assert len(losses) == 3 and all(0 < float(loss) < 50 for loss in losses)

    few = ['--tta', '--cfg-options', 'test_dataloader.dataset.indices=3']
    for flags, images in (([], 9), (few, 3)):
        arguments = [config, checkpoint, '--work-dir', tmp_path / 'test', *flags]
        run_tool(repository, 'test', arguments)
        printed = capsys.readouterr().out
        assert f'[{images}/{images}]' in printed
        assert 0 <= float(re.findall(r'mIoU: (\d+\.\d+)', printed)[-1]) <= 100

    model = init_model(str(config), str(checkpoint), device='cpu')
    image = ade20k_samples / 'images/validation/ADE_val_00000001.jpg'
    prediction = inference_model(model, str(image))
    assert prediction.pred_sem_seg.data.shape == (1, *prediction.ori_shape)
    assert 0 <= prediction.pred_sem_seg.data.min() <= prediction.pred_sem_seg.data.max() < 150
