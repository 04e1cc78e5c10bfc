"""MMEngine's FSDPStrategy. That sharded weights train as whole ones is in test_processes.py."""

import re
import runpy

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip('mmseg')


def test_a_checkpoint_of_sharded_training_evaluates(
    two_processes, shapes_root, repository, tmp_path, monkeypatch
):
    monkeypatch.setenv('LOCAL_RANK', '0')  # which the tool sets
    test = runpy.run_path(repository / 'tools/test.py')
    command = [str(two_processes / name) for name in ('fsdp_0.py', 'fsdp/iter_2.pth')]
    command += ['--data-root', str(shapes_root), '--work-dir', str(tmp_path)]
    command += ['--cfg-options', 'runner_type=Runner', f'experiment_name={tmp_path.name}']
    test['main'](command)
    while_training, afterwards = (
        re.findall(r'aAcc: [\d.]+  mIoU: [\d.]+', next(folder.glob('*/*.log')).read_text())
        for folder in (two_processes / 'fsdp', tmp_path)
    )
    assert len(afterwards) == 1 and afterwards == while_training
