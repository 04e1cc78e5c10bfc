"""`mim train` and `mim test`, from an editable install and from a wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from mita_seg.checkpoint import load_checkpoint_safely
from support.forked_programs import ForkedPrograms

ROOT = Path(__file__).resolve().parent.parent
CONFIG = next((ROOT / 'configs').glob('mita_segmenter_shapes/*_mita-encdec_*.py'))
MODELS = {
    'ade20k': 'mita-segmenter_vit-t_mita-dec_8xb1-160k_ade20k-512x512',
    'camvid': 'mita-segmenter_vit-t-p8_mita-encdec_1xb16-4k_camvid-352x480',
}
MIM = Path(sys.executable).with_name('mim')
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MIM.exists(), reason='mim is not installed'),
]


class Environment:
    """A virtual environment with a mita_seg of its own; the rest comes from the present one."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
        self.python = folder / 'bin/python'
        paths = sysconfig.get_paths(vars={'base': str(folder), 'platbase': str(folder)})
        Path(paths['purelib'], 'present.pth').write_text(sysconfig.get_path('purelib'))
        self.programs = None

    def mim(self, *args, cwd):
        """What a command of mim prints, which must succeed."""
        if self.programs is None:
            self.programs = ForkedPrograms(
                self.python, ['mim', 'mmengine.runner'], self.variables()
            )
        status, printed = self.programs.run(MIM, *args, cwd=cwd, variables=self.variables())
        assert status == 0, printed
        return printed

    def variables(self):
        return {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}

    def run(self, *args, cwd):
        """Standard output of a Python command, which must succeed."""
        command = [self.python, *args]
        done = subprocess.run(
            command, cwd=cwd, env=self.variables(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def end(self):
        if self.programs is not None:
            self.programs.end()

    def install(self, *args, cwd):
        offline = ('--no-deps', '--no-index', '--no-build-isolation', '--ignore-installed')
        self.run('-m', 'pip', 'install', *offline, *args, cwd=cwd)


@pytest.fixture(scope='module')
def editable(tmp_path_factory):
    """An editable install of a copy: a checkout's work_dirs may hold configs of the same names."""
    folder = tmp_path_factory.mktemp('editable')
    shutil.copytree(
        ROOT,
        folder / 'repository',
        ignore=shutil.ignore_patterns(
            '.git', '.venv', '.*_cache', 'data', 'work_dirs', '__pycache__'
        ),
    )
    environment = Environment(folder / 'venv')
    environment.install('--editable', folder / 'repository', cwd=folder)
    yield environment
    environment.end()


@pytest.fixture(scope='module')
def installed(tmp_path_factory, wheel):
    folder = tmp_path_factory.mktemp('installed')
    environment = Environment(folder / 'venv')
    environment.install(wheel, cwd=folder)
    yield environment
    environment.end()


def tiny(shapes_root):
    """Options that make the config train one iteration."""
    options = ['--work-dir', 'run', '--cfg-options', 'train_dataloader.batch_size=2']
    options += ['train_cfg.max_iters=1', 'default_hooks.checkpoint.interval=1']
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options.append(f'{loader}.dataset.data_root={shapes_root}')
    return options


def train_and_test(environment, package, config, shapes_root, folder):
    """Run both commands; returns what they print."""
    options = tiny(shapes_root)
    trained = environment.mim('train', package, config, *options, cwd=folder)
    assert (folder / 'run/iter_1.pth').exists()
    command = ['test', package, config, '--checkpoint', 'run/iter_1.pth']
    tested = environment.mim(*command, *options, cwd=folder)
    assert 'mIoU' in tested
    return trained, tested


def test_with_our_tools_and_a_config_by_name(editable, shapes_root, tmp_path):
    for printed in train_and_test(editable, 'mita_seg', CONFIG.name, shapes_root, tmp_path):
        assert 'we find the config file in codebase mita_seg' in printed
    for data, name in MODELS.items():
        listed = editable.mim('search', 'mita_seg', '--dataset', data, cwd=tmp_path)
        assert name in listed and 'none published' in listed


@pytest.mark.long
def test_two_processes_without_a_gpu(editable, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')
    processes = ['--launcher', 'pytorch', '--gpus', '2']
    options = [*tiny(shapes_root), 'model.backbone.num_layers=1', 'find_unused_parameters=True']
    options += [f'{part}=None' for part in ('val_cfg', 'val_dataloader', 'val_evaluator')]
    editable.mim('train', 'mita_seg', CONFIG.name, *processes, *options, cwd=tmp_path)
    checkpoint = load_checkpoint_safely(tmp_path / 'run/iter_1.pth')
    assert len(checkpoint['random_state']['processes']) == 2


@pytest.mark.long
def test_download_gives_the_config_where_there_are_no_weights(editable, tmp_path):
    for name in MODELS.values():
        command = ['download', 'mita_seg', '--config', name, '--dest', tmp_path]
        assert f'Successfully dumped {name}.py' in editable.mim(*command, cwd=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [f'{name}.py']
        (tmp_path / f'{name}.py').unlink()


@pytest.mark.long
def test_with_mmsegmentations_tools(installed, shapes_root, tmp_path):
    names = ('onedl-mmsegmentation', 'mmsegmentation')
    (package,) = {d.name for d in metadata.distributions()}.intersection(names)
    train_and_test(installed, package, CONFIG, shapes_root, tmp_path)


def test_wheel_is_what_runs(installed, tmp_path):
    found = installed.run('-c', 'import mita_seg; print(mita_seg.__file__)', cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(installed.python.parent.parent)


def test_wheel_reinstalls_and_uninstalls_cleanly(tmp_path, wheel):
    environment = Environment(tmp_path / 'venv')
    site = next(tmp_path.glob('venv/lib/python*/site-packages'))
    for _ in range(2):
        environment.install(wheel, cwd=tmp_path)
    environment.run('-m', 'pip', 'uninstall', '--yes', 'mita_seg', cwd=tmp_path)
    assert [path.name for path in site.iterdir()] == ['present.pth']
