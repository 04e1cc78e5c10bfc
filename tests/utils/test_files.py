"""Files are whole or absent."""

import subprocess
import sys

import pytest

from mita_seg.utils.files import replacing, save_figure, write_config


def test_file_is_replaced_when_it_is_written(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with replacing(path) as file:
        file.write('new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_writer_that_raises_leaves_nothing_behind(tmp_path, error):
    (tmp_path / 'file').write_text('old')
    with pytest.raises(error), replacing(tmp_path / 'file') as file:
        file.write('half')
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ['file']
    assert (tmp_path / 'file').read_text() == 'old'


def test_figure_that_cannot_be_saved_leaves_nothing_behind(tmp_path):
    class Figure:
        def savefig(self, path, dpi):
            path.write_text('half')
            raise OSError

    with pytest.raises(OSError):
        save_figure(Figure(), tmp_path / 'figure.png')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_interruption_while_a_config_is_formatted_is_one(tmp_path, monkeypatch, error):
    config = pytest.importorskip('mmengine.config')
    cfg = config.Config({'a': 1})

    def interrupt(*_, **__):
        raise error

    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', interrupt)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else SyntaxError):
        write_config(tmp_path / 'config.py', cfg)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('ending', ['.py', '.json', '.yaml'])
def test_a_config_is_written_in_the_format_of_its_name(ending, tmp_path):
    config = pytest.importorskip('mmengine.config')
    path = tmp_path / f'config{ending}'
    write_config(path, config.Config({'a': {'b': 1}}))
    assert config.Config.fromfile(path).a.b == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.long
@pytest.mark.slow
def test_importing_the_package_needs_nothing_that_windows_lacks():
    script = """
import sys
for name in ('fcntl', 'resource'):
    sys.modules[name] = None  # importing it raises ImportError
import mita_seg.utils.files, mita_seg.engine.peak_memory, mita_seg.models
assert mita_seg.engine.peak_memory.peak_memory() == 0
"""
    subprocess.run([sys.executable, '-c', script], check=True)
