"""The errors of a full disk name the file, and end a tool with one sentence."""

import errno
import os

import numpy as np
import pytest

from mita_seg.utils.cli import ends_on_full_disk, user_errors
from mita_seg.utils.files import replacing, taking_place
from mita_seg.utils.full_disk import find_full_disk, naming, raise_unwritten
from mita_seg.utils.pictures import write_picture
from support.disk_errors import full


@pytest.mark.parametrize('guard', [ends_on_full_disk, user_errors])
def test_a_tool_ends_with_one_sentence(guard, tmp_path, capsys):
    path = tmp_path / 'file'
    with pytest.raises(SystemExit) as end, guard('tool.py'), replacing(path) as file:
        file.write('half')
        raise full()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f'tool.py: {str(path)!r} cannot be written: no space left on the disk\n'
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('guard', [ends_on_full_disk, user_errors])
def test_an_error_that_comes_of_a_full_disk_is_one(guard, capsys):
    with pytest.raises(SystemExit) as end, guard('tool.py'):
        try:
            raise full()
        except OSError as error:
            raise ValueError('the writer failed') from error
    assert end.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    # Nothing is known but where in the program it was raised.
    assert said.startswith('tool.py: a file cannot be written: no space left on the disk (in ')
    assert __file__ in said


def test_other_errors_go_on():
    with pytest.raises(OSError, match='denied'), ends_on_full_disk('tool.py'):
        raise OSError(errno.EACCES, 'denied')
    assert find_full_disk(ValueError('no space left')) is None


def test_a_tool_ends_quietly_where_its_output_is_on_the_disk(monkeypatch, tmp_path):
    class Full:
        def write(self, text):
            raise full()

        flush = write

    monkeypatch.setattr('sys.stderr', Full())
    with pytest.raises(SystemExit) as end, ends_on_full_disk('tool.py', 28):
        raise full(tmp_path)
    assert end.value.code == 28


def test_a_temporary_name_is_not_told(tmp_path):
    for name in (None, tmp_path / '.tmp'):
        with pytest.raises(OSError) as caught, naming(tmp_path / 'final', tmp_path / '.tmp'):
            raise full(name)
        assert caught.value.filename == str(tmp_path / 'final')
    with pytest.raises(OSError) as caught, naming(tmp_path / 'final'):
        raise full(tmp_path / 'another')
    assert caught.value.filename == str(tmp_path / 'another')


def test_a_folder_takes_the_place_of_another_when_it_is_whole(tmp_path):
    out, partial = tmp_path / 'out', tmp_path / 'partial'
    out.mkdir()
    (out / 'old').touch()
    for fails in (True, False):
        try:
            with taking_place(partial, out):
                partial.mkdir()
                (partial / 'new').touch()
                if fails:
                    raise full()
        except OSError as error:
            assert error.filename == str(out)
        assert [path.name for path in out.iterdir()] == ['old' if fails else 'new']
        assert not partial.exists()


def test_a_device_is_written_as_it_is():
    with replacing(os.devnull) as file:
        file.write('text')
    assert not os.path.isfile(os.devnull)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full on this system')
def test_a_full_device_is_named():
    with pytest.raises(OSError) as caught, replacing('/dev/full') as file:
        file.write('text')
    assert find_full_disk(caught.value).filename == '/dev/full'


def test_pictures_are_whole_or_absent(tmp_path, monkeypatch):
    pixels = np.zeros((4, 4, 3), np.uint8)
    write_picture(tmp_path / 'a.png', pixels)
    earlier = (tmp_path / 'a.png').read_bytes()

    def fail(*_):
        raise full()

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(OSError) as caught:
        write_picture(tmp_path / 'a.png', pixels + 1)
    assert caught.value.filename == str(tmp_path / 'a.png')
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
    assert (tmp_path / 'a.png').read_bytes() == earlier
    with pytest.raises(ValueError, match=r'a\.nothing'):
        write_picture(tmp_path / 'a.nothing', pixels)


def test_a_library_that_does_not_say_why(tmp_path):
    with pytest.raises(OSError, match=r"b\.mp4' cannot be written"):
        raise_unwritten(tmp_path / 'b.mp4')
    assert not list(tmp_path.iterdir())
