"""tools/complexity.py: its counts are those of MMSegmentation's get_flops."""

import json
import runpy
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import mmseg
import torch
from mmengine.analysis.print_helper import _format_size
from mmengine.logging import MMLogger
from PIL import Image

from mita_seg.complexity.measure import activation_bytes

SMALL = ['model.backbone.num_layers=1', 'model.backbone.patch_size=8', 'test_dataloader=None']


@pytest.fixture
def run(tool, tmp_path):
    """Run the tool; returns what it wrote as JSON."""

    def run(config, *arguments):
        command = [config, '--device', 'cpu', '--out', tmp_path, *arguments]
        tool('complexity').main([*map(str, command), '--cfg-options', *SMALL])
        return json.loads((tmp_path / 'complexity.json').read_text())

    return run


def stock_counts(config, size):
    """What get_flops of MMSegmentation prints: FLOPs and parameters."""
    (path,) = Path(mmseg.__file__).parent.glob('.mim/tools/analysis_tools/get_flops.py')
    options = {'model.backbone.num_layers': 1, 'model.backbone.patch_size': 8}
    args = Namespace(config=config, shape=[size, size], cfg_options=options)
    result = runpy.run_path(str(path))['inference'](args, MMLogger.get_instance('get_flops'))
    return result['flops'], result['params']


@pytest.mark.slow
@pytest.mark.skipif(mmseg.__version__ == '1.2.2', reason='get_flops of 1.2.2 fails by itself')
def test_counts_are_those_of_get_flops(run, shapes_configs, tmp_path, capsys):
    full, mita = shapes_configs
    found = run(mita, '--sizes', '64', '96x128')
    printed = capsys.readouterr().out
    assert '64x64' in printed and '96x128' in printed
    side = found['rows'][0]['MiTA']
    assert (_format_size(side['flops']), _format_size(side['params'])) == stock_counts(mita, 64)
    assert found['rows'][1]['MiTA']['flops'] > 2 * side['flops']
    assert Image.open(tmp_path / 'complexity.png').size[0] > 500
    assert '64x64' in (tmp_path / 'complexity.md').read_text()

    found = run(full, '--sizes', '64', '--landmarks', '2', '2', '--topk', '4')
    side = found['rows'][0]['full']
    assert (_format_size(side['flops']), _format_size(side['params'])) == stock_counts(full, 64)
    assert found['rows'][0]['MiTA']['flops'] < side['flops']
    assert found['rows'][0]['MiTA']['params'] == side['params']


def test_activations_are_what_autograd_keeps_without_parameters():
    class Model(torch.nn.Sequential):
        def forward(self, inputs, mode):
            return super().forward(inputs)

    model = Model(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    # The input and the two sides of the activation, float32; no weights, and nothing twice.
    assert activation_bytes(model, torch.zeros(10, 8)) == 4 * 10 * (8 + 16 + 16)
    assert not model.training


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--sizes', '0'], "invalid size value: '0'"),
        (['--sizes', '64xx'], "invalid size value: '64xx'"),
        (['--topk', '4'], '--landmarks and --topk go together'),
        (['--landmarks', '0', '2', '--topk', '4'], 'landmarks must be two ints of at least 1'),
    ],
)
def test_wrong_input_is_refused(run, shapes_configs, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        run(shapes_configs[0], *arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
