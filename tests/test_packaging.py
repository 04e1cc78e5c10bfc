"""Wheel contents, dependencies, pins, and the scripts around them."""

import ctypes
import os
import re
import runpy
import subprocess
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from mita_seg import __version__

ROOT = Path(__file__).resolve().parent.parent
TASKS = ('train', 'test')
SCRIPTS = (*(f'tools/{way}_{task}.sh' for way in ('dist', 'slurm') for task in TASKS), '.ci/run')


@pytest.fixture
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(
            archive.read(f'mita_seg-{__version__}.dist-info/METADATA').decode()
        )


def requirements(metadata):
    return [Requirement(line) for line in metadata.get_all('Requires-Dist')]


def pins(python_version):
    """Name -> version, as pip reads constraints.txt on a Python version."""
    found = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if line.startswith('#'):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({'python_version': python_version}):
            assert pin.name not in found, f'{pin.name} is pinned twice'
            (specifier,) = pin.specifier
            assert specifier.operator == '=='
            found[pin.name] = specifier.version
    return found


def test_wheel_holds_the_package_and_mims_files_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name) for name in archive.namelist()]
    assert {name.parts[0] for name in names} == {
        'mita_seg',
        '_mita_seg_mim',
        f'mita_seg-{__version__}.dist-info',
    }
    assert not [name for name in names if 'tests' in name.parts or '__pycache__' in name.parts]
    page = {name.name for name in names if name.match('visualization/page_parts/*')}
    assert page == {'page.html', 'page.js', 'style.css'}
    assert Path('mita_seg/py.typed') in names  # type checkers read the annotations then
    for folder in ('_mita_seg_mim', 'mita_seg/.mim'):
        inside = {str(name.relative_to(folder)) for name in names if name.is_relative_to(folder)}
        assert {'model-index.yml', 'tools/train.py', 'tools/test.py'} <= inside
        assert 'configs/_base_/default_runtime.py' in inside
        for folder in ('mita_segmenter', 'mita_segmenter_camvid'):
            assert f'configs/{folder}/metafile.yaml' in inside


def test_installed_alone_it_names_no_openmmlab_package(metadata):
    plain = {r.name for r in requirements(metadata) if r.marker is None}
    assert plain == {'torch', 'numpy', 'safetensors'}


def test_no_console_scripts(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith('entry_points.txt')], (
            'MIM would take the folder of the scripts for the package'
        )


def test_no_extra_brings_a_torch_of_its_own(metadata):
    """As torchvision does, which timm requires."""
    names = {requirement.name for requirement in requirements(metadata)}
    assert not names & {'torchvision', 'torchaudio', 'timm'}


# An extra for models that users bring; the repository's own environments leave it out.
USERS_MODELS = ('transformers',)


@pytest.mark.parametrize('python_version', ['3.10', '3.11', '3.12', '3.13'])
def test_constraints_pin_every_dependency(metadata, python_version):
    pinned = pins(python_version)
    for requirement in requirements(metadata):
        if requirement.name not in ('mita_seg', *USERS_MODELS):
            assert requirement.specifier.contains(pinned[requirement.name]), requirement


def test_citation_gives_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == __version__


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_executable_and_parse(script):
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(['bash', '-n', ROOT / script], check=True)


@pytest.mark.parametrize('script', [s for s in SCRIPTS if s.startswith('tools/')])
def test_scripts_of_several_processes_say_how_to_call_them(script):
    result = subprocess.run([ROOT / script], capture_output=True, text=True)
    assert result.returncode == 2
    arguments = 'PARTITION JOB_NAME CONFIG' if 'slurm' in script else 'CONFIG .*GPUS'
    assert re.match(rf'usage: \S+ {arguments}', result.stderr)


def test_missing_libraries_are_named_in_one_sentence(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr('sys.platform', 'linux')
    monkeypatch.setattr(ctypes, 'CDLL', absent)
    with pytest.raises(SystemExit, match=r'lacks .*libgl1\) and .*libglib2.0-0\)\.$'):
        runpy.run_path(str(ROOT / '.ci/check_machine.py'))


def test_another_python_is_named_in_one_sentence(monkeypatch):
    monkeypatch.setattr('sys.version_info', (3, 9, 1))
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: None)
    with pytest.raises(SystemExit, match=r'lacks Python 3\.10 to 3\.13 \(this is 3\.9;.*\)\.$'):
        runpy.run_path(str(ROOT / '.ci/check_machine.py'))
