"""Workers and the measuring process end with the comparison, however that ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('mmseg')

from mita_seg.comparison import measure, worker

# Stands for compare.py: a process that starts another and waits for it.
_PARENT = """
import os, sys
from mita_seg.comparison.lifeline import start_attached
child = start_attached('waits', [], sys.stderr, dict(os.environ))
print(child.pid, flush=True)
child.wait()
"""
_CHILD = """
import time
from mita_seg.comparison.lifeline import end_with_parent
end_with_parent()
print('ready', flush=True)
time.sleep(1000)
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_ends_with_a_killed_parent(tmp_path):
    (tmp_path / 'waits.py').write_text(_CHILD)
    paths = os.pathsep.join((str(tmp_path), os.environ['PYTHONPATH']))
    with open(tmp_path / 'log.txt', 'w') as log:
        parent = subprocess.Popen(
            [sys.executable, '-c', _PARENT],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, 'PYTHONPATH': paths},
        )
    child = int(parent.stdout.readline())
    while 'ready' not in (tmp_path / 'log.txt').read_text():
        assert parent.poll() is None
        time.sleep(0.05)
    assert is_running(child)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    while is_running(child):  # ends, or the test hangs
        time.sleep(0.05)


@pytest.mark.parametrize('module', [measure, worker])
def test_both_kinds_of_process_hold_on_to_their_parent(module, monkeypatch, tmp_path):
    called = []

    def end_with_parent():
        called.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'end_with_parent', end_with_parent)
    options = {measure: [str(tmp_path)]}
    options[worker] = ['--work-dir', '.', '--config', 'c.py', '--folder', '.', '--seed', '0']
    with pytest.raises(KeyboardInterrupt):
        module.main(options[module])
    assert called
