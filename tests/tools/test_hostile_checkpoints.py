"""Every tool that reads a checkpoint: nothing in it runs, and one sentence names the file."""

import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mita_seg.utils.cli import printable
from support import hostile_checkpoints as hostile

# The ways to a checkpoint; the config, the checkpoint, a folder of pictures and one for all that
# is written take the place of the words.
WAYS = {
    'train --resume': ('train', ['CONFIG', '--work-dir', 'OUT', '--resume', 'load_from=FILE']),
    'train load_from': ('train', ['CONFIG', '--work-dir', 'OUT', 'load_from=FILE']),
    'train init_cfg': (
        'train',
        ['CONFIG', '--work-dir', 'OUT', 'model.backbone.init_cfg.type=Pretrained']
        + ['model.backbone.init_cfg.checkpoint=FILE'],
    ),
    'test': ('test', ['CONFIG', 'FILE', '--work-dir', 'OUT']),
    'compare': ('compare', ['CONFIG', '--work-dir', 'OUT', '--test-only', 'FILE']),
    'predict': ('predict', ['CONFIG', 'FILE', 'PICTURES', '--out', 'OUT']),
    'export': ('export', ['CONFIG', 'FILE', '--format', 'torch-export', '--out', 'OUT.pt2']),
    'convert': ('convert_checkpoint', ['FILE', 'OUT.pth']),
    'visualize_routing': ('visualize_routing', ['CONFIG', 'FILE', 'PICTURES', '--out', 'OUT']),
    'analyze_routing': ('analyze_routing', ['CONFIG', 'FILE', '--work-dir', 'OUT']),
    'sweep_experts': ('sweep_experts', ['CONFIG', 'FILE', '--work-dir', 'OUT']),
}
_WITHOUT_DATA = ('predict', 'export', 'convert', 'visualize_routing')


@pytest.fixture
def refused(tool, trained, tiny, pictures, tmp_path, capsys, request):
    """Give a file to a tool, which has to refuse it; returns what it says."""
    data = [option for option in tiny if 'data_root' in option or 'batch_size' in option]

    def run(way, path):
        name, arguments = WAYS[way]
        words = {'CONFIG': trained[0], 'PICTURES': str(pictures / '3.jpg')}
        words |= {'OUT': str(tmp_path / 'out'), 'FILE': str(path)}
        for word, value in words.items():
            arguments = [argument.replace(word, value) for argument in arguments]
        options = [each for each in arguments if '=' in each]
        arguments = [each for each in arguments if '=' not in each]
        if way not in _WITHOUT_DATA:
            unique = time.monotonic_ns()
            options += [*data, f'experiment_name=e{unique}', f'visualizer.name=v{unique}']
        if options:
            arguments += ['--cfg-options', *options]
        with pytest.raises(SystemExit) as end:
            tool(name).main(arguments)
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f'{name}.py: ') and said.count('\n') == 1
        assert Path(path).name in said
        return said

    return run


@pytest.mark.parametrize('way', WAYS)
def test_no_tool_runs_code_of_a_checkpoint(refused, tmp_path, way):
    trace = tmp_path / 'trace'
    files = hostile.running(trace)
    for name in ('code.pth', 'code-legacy.pth', 'code-objects.npz'):
        path = tmp_path / name
        path.write_bytes(files[name])
        assert 'is refused: it holds' in refused(way, path)
        assert not trace.exists()


@pytest.mark.parametrize('way', WAYS)
def test_no_tool_stumbles_over_lies_and_damage(refused, tmp_path, way):
    files = hostile.lying()
    for name in ('empty.pth', 'half.pth', 'flipped.pth', 'array-0.npz', 'tensor-0.safetensors'):
        path = tmp_path / name
        path.write_bytes(files[name])
        refused(way, path)
    if way != 'train --resume':  # which takes a folder for a checkpoint in parts, of MMEngine
        (tmp_path / 'folder.pth').mkdir()
        assert 'is a directory' in refused(way, tmp_path / 'folder.pth')


ODD = {
    'names': {'state_dict': {3: torch.zeros(1)}},
    'no-dict': {'state_dict': [1]},
    'no-weights': {'state_dict': {'backbone.pos_embed': 'text'}},
}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize('way', ['train load_from', 'train init_cfg', 'test', 'predict', 'convert'])
def test_weights_that_are_none_are_one_sentence(refused, tmp_path, way):
    for name, content in ODD.items():
        path = tmp_path / f'{name}.pth'
        torch.save(content, path)
        refused(way, path)


@pytest.mark.slow
def test_what_a_checkpoint_says_of_its_classes_is_not_trusted(tool, trained, pictures, tmp_path):
    content = torch.load(trained[1])
    for place, (classes, palette) in enumerate(
        [(3, [[1, 2]]), ('text', 'text'), ([[1]] * 7, [[1, 2, 300]] * 7), (['\x1b[2J'] * 7, 4)]
    ):
        content['meta'] = {'dataset_meta': {'classes': classes, 'palette': palette}, 'cfg': b''}
        torch.save(content, tmp_path / 'odd.pth')
        arguments = [trained[0], str(tmp_path / 'odd.pth'), str(pictures / '3.jpg')]
        assert tool('predict').main([*arguments, '--out', str(tmp_path / f'out{place}')]) == 0


def test_names_in_a_file_do_not_steer_the_terminal():
    assert printable('os\x1b[2J\x07.system\n and\tmore') == 'os?[2J?.system and more'
