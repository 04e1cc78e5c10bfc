"""The examples run."""

import runpy
from pathlib import Path

import cv2
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / 'examples'


def run(name, *arguments):
    """Call the example's main."""
    runpy.run_path(str(EXAMPLES / name))['main']([*arguments])


def test_the_operator_alone_with_all_keys_is_full_attention(capsys):
    run('operator_alone.py', '--grid', '12', '16')
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert float(first.rpartition(' ')[2]) < 1e-5
    assert second.startswith('192 tokens')


def test_a_vit_of_timm_is_swapped_and_restored(capsys):
    pytest.importorskip('timm')
    run('swap_timm.py', '--size', '64', '96')
    tokens, swapped, restored = capsys.readouterr().out.splitlines()[-3:]
    assert tokens == '25 tokens of 192 channels'
    assert float(swapped.rpartition(' ')[2]) > 1e-4
    assert float(restored.rpartition(' ')[2]) == 0


@pytest.mark.slow
def test_a_folder_of_ones_own_is_trained_and_validated(programs, shapes_root, tmp_path, repository):
    """On drawn scenes whose labels are moved to begin at 0."""
    pytest.importorskip('mmseg')
    folder = tmp_path / 'own'
    for part in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (folder / kind / part).mkdir(parents=True)
        for image in (shapes_root / 'images' / part).iterdir():
            (folder / 'images' / part / image.name).write_bytes(image.read_bytes())
        for path in (shapes_root / 'annotations' / part).iterdir():
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) - 1  # 0, not labelled: 255
            cv2.imwrite(str(folder / 'annotations' / part / path.name), labels)
    config = tmp_path / 'small.py'
    config.write_text(
        f'_base_ = {str(EXAMPLES / "own_folder.py")!r}\n'
        'model = dict(backbone=dict(num_layers=1))\n'
        'train_cfg = dict(max_iters=2, val_interval=2)\n'
        'param_scheduler = []\n'
        + ''.join(
            f'{part}_dataloader = dict(num_workers=0, persistent_workers=False, dataset='
            f'dict(data_root={str(folder)!r}))\n'
            for part in ('train', 'val', 'test')
        )
    )

    command = [repository / 'tools/train.py', config]
    command += ['--work-dir', tmp_path / 'run', '--cfg-options', 'train_dataloader.batch_size=2']
    status, printed = programs.run(*command)
    assert status == 0, printed
    assert 'mIoU' in printed
