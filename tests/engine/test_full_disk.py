"""A run ends at the first write that fails, in its logs too."""

import logging
import os

import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.visualization import LocalVisBackend

from mita_seg.engine.whole_pictures import WholeLocalVisBackend
from support.disk_errors import full
from support.engine_runs import ITERATIONS, make_runner


@pytest.fixture
def runner(tmp_path):
    return make_runner(tmp_path / 'run', ITERATIONS, 3, num_workers=0)


class Full:
    """A file on a full disk."""

    def write(self, text):
        raise full()

    def flush(self):
        pass


def test_a_log_that_cannot_be_written_ends_the_run(runner, capsys):
    (handler,) = [each for each in runner.logger.handlers if hasattr(each, 'baseFilename')]
    handler.close()
    handler.stream, handler.level = Full(), logging.INFO
    with pytest.raises(OSError) as caught:
        runner.logger.error('a line')
    assert caught.value.filename == handler.baseFilename
    assert 'Logging error' not in capsys.readouterr().err
    handler.stream = None
    runner.logger.handlers.remove(handler)


def test_other_errors_of_a_log_are_as_before(runner, capsys):
    assert isinstance(runner.logger, MMLogger)
    runner.logger.error('%d', 'no number')
    assert 'Logging error' in capsys.readouterr().err


class Writing(Hook):
    """A hook of a user, whose write fails."""

    def before_train(self, runner):
        raise full()


def test_a_hook_that_names_no_file_is_told_by_the_folder(runner):
    runner.register_hook(Writing())
    with pytest.raises(OSError) as caught:
        runner.train()
    assert caught.value.filename == runner.work_dir


def test_other_errors_are_not_of_the_folder(runner, monkeypatch):
    """Such as a full /dev/shm, which semaphores of loaders need."""

    def fail(*_, **__):
        raise full()

    monkeypatch.setattr(runner.model, 'train_step', fail)
    with pytest.raises(OSError) as caught:
        runner.train()
    assert caught.value.filename is None


def test_local_pictures_are_whole(runner, monkeypatch):
    backends = list(runner.visualizer._vis_backends.values())
    assert [type(each) for each in backends] == [WholeLocalVisBackend]
    assert isinstance(backends[0], LocalVisBackend)
    backends[0].add_image('a', np.zeros((4, 4, 3), np.uint8), 3)
    folder = backends[0]._img_save_dir
    assert os.listdir(folder) == ['a_3.png']

    def fail(*_):
        raise full()

    monkeypatch.setattr('os.replace', fail)
    with pytest.raises(OSError) as caught:
        backends[0].add_image('b', np.zeros((4, 4, 3), np.uint8))
    assert caught.value.filename == os.path.join(folder, 'b_0.png')
    assert os.listdir(folder) == ['a_3.png']
