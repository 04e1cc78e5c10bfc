"""Workers and the measuring process end with the comparison, however that ends."""

import os
import runpy
import subprocess
import sys

import pytest

pytest.importorskip('mmseg')

from mita_seg.comparison import workers

# Stands for compare.py: a process that starts another and waits for it.
_PARENT = """
import os, sys
from mita_seg.comparison.workers import start_attached
start_attached('waits', [], sys.stdout, dict(os.environ)).wait()
"""
_CHILD = """
import time
from mita_seg.comparison.workers import end_with_parent
end_with_parent()
print('ready', flush=True)
time.sleep(1000)
"""


def test_a_process_ends_with_a_killed_parent(tmp_path):
    (tmp_path / 'waits.py').write_text(_CHILD)
    paths = os.pathsep.join((str(tmp_path), os.environ['PYTHONPATH']))
    parent = subprocess.Popen(
        [sys.executable, '-c', _PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': paths},
    )
    assert parent.stdout.readline() == 'ready\n'
    parent.kill()
    # Both write there: it ends when both are gone.
    assert parent.stdout.read() == ''
    parent.wait()


@pytest.mark.filterwarnings('ignore:.*found in sys.modules')
@pytest.mark.parametrize('module', ['measure', 'single_run'])
def test_both_kinds_of_process_hold_on_to_their_parent(module, monkeypatch):
    class HeldError(Exception):
        pass

    def end_with_parent():
        raise HeldError

    monkeypatch.setattr(workers, 'end_with_parent', end_with_parent)
    with pytest.raises(HeldError):
        runpy.run_module(f'mita_seg.comparison.{module}', run_name='__main__')
