import importlib.util

import pytest


@pytest.fixture
def tool(repository, monkeypatch):
    """Import tools/<name>.py, which is no package."""

    def load(name):
        path = repository / f'tools/{name}.py'
        spec = importlib.util.spec_from_file_location(f'tool_{name}', path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    # The tools set it for their own process.
    monkeypatch.setenv('LOCAL_RANK', '0')
    pytest.importorskip('mmengine')
    return load


@pytest.fixture
def shapes_configs(repository):
    """The demonstration's configs: full attention and MiTA."""
    folder = repository / 'configs/mita_segmenter_shapes'
    return [str(next(folder.glob(f'*_{kind}_*.py'))) for kind in ('full', 'mita-encdec')]


@pytest.fixture
def tiny(shapes_root):
    """Options that shrink the demonstration's configs to a few seconds."""
    options = [
        'crop_size=64,64',
        'model.data_preprocessor.size=64,64',
        'model.backbone.img_size=64,64',
        'model.backbone.num_layers=1',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'train_dataloader.batch_size=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
    ]
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    return options + [f'{loader}.dataset.data_root={shapes_root}' for loader in loaders]
