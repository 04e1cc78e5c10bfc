"""From twelve drawn images to trained twins and their predictions."""

import time

import numpy as np
import pytest

from support import drawn_folders as drawn

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from PIL import Image
from torch import nn

SMALL = ['model.backbone.num_layers=1', 'model.backbone.embed_dims=48']
SMALL += [f'model.decode_head.{key}=48' for key in ('in_channels', 'channels', 'embed_dims')]
SMALL += ['train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
SMALL += ['default_hooks.checkpoint.interval=2']
SMALL += [
    f'{loader}_dataloader.{key}'
    for loader in ('train', 'val')
    for key in ('num_workers=0', 'persistent_workers=False')
]


@pytest.mark.slow
def test_from_a_folder_to_predictions(tool, tmp_path, capsys):
    folder = drawn.draw(tmp_path / 'garden', 'index')
    out = tmp_path / 'data/garden'
    arguments = [str(folder), '--out', str(out), '--iters', '40', '--pretrained', 'none']
    assert tool('prepare_dataset').main(arguments) == 0
    said = capsys.readouterr().out
    assert '12 pairs' in said and '96x72 pixels each' in said and 'garden_mita.py' in said

    full, mita = (Config.fromfile(out / f'garden_{twin}.py') for twin in ('full', 'mita'))
    assert full.num_classes == 3 and full.crop_size == (72, 72)
    for part in ('backbone', 'decode_head'):
        kinds = [cfg.model[part].pop('attn_cfg').type for cfg in (full, mita)]
        assert kinds == ['FullAttention', 'MiTAAttention']
    assert full.model == mita.model  # they differ in nothing else

    name = f'test_{time.monotonic_ns()}'
    options = ['--cfg-options', *SMALL, f'experiment_name={name}', f'visualizer.name={name}']
    config, predicted = str(out / 'garden_mita.py'), tmp_path / 'predictions'
    tool('train').main([config, '--work-dir', str(tmp_path / 'run'), *options])
    checkpoint = str(tmp_path / 'run/iter_2.pth')
    arguments = [config, checkpoint, str(folder / 'images'), '--out', str(predicted), '--tta']
    assert tool('predict').main([*arguments, *options]) == 0
    maps = [np.asarray(Image.open(path)) for path in (predicted / 'labels').iterdir()]
    assert len(maps) == 12 and all(each.shape == drawn.SIZE for each in maps)
    assert max(each.max() for each in maps) < 3


@pytest.mark.parametrize('pretrained', [True, False])
def test_pretrained_weights_learn_slowly_and_get_a_remainder(pretrained, tool, tmp_path):
    folder = drawn.draw(tmp_path / 'garden', 'index')
    weights = ['--pretrained', 'vit.pth' if pretrained else 'none']
    out = tmp_path / 'data/garden'
    assert tool('prepare_dataset').main([str(folder), '--out', str(out), *weights]) == 0
    cfg = Config.fromfile(out / 'garden_mita.py')
    model = nn.ModuleDict({'backbone': nn.Linear(1, 1), 'decode_head': nn.Linear(1, 1)})
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {id(weight): group['lr'] for group in groups for weight in group['params']}
    encoder, decoder = (rates[id(part.weight)] for part in model.values())
    assert decoder == 2e-4
    assert encoder == pytest.approx(2e-5 if pretrained else 2e-4)
    attn_cfg = cfg.model.backbone.attn_cfg
    added = {'kmeans_steps': 1, 'shared': False, 'remainder': True} if pretrained else {}
    sizes = {'type', 'landmarks', 'topk'}
    assert {name: attn_cfg[name] for name in attn_cfg if name not in sizes} == added


def test_wrong_input_is_one_sentence_and_left_out_files_are_status_1(tool, tmp_path, capsys):
    main = tool('prepare_dataset').main
    folder = drawn.draw(tmp_path / 'garden', 'index')
    for arguments, words in (
        ([tmp_path / 'gone'], 'does not exist'),
        ([folder, '--validation', '1'], '--validation must be'),
        ([folder, '--classes', 'gone.txt'], "class list 'gone.txt' cannot be read"),
        ([folder, '--images', 'images'], '--images and --masks go together'),
        ([folder / 'images'], 'no pair of image and mask (12 images, 0 masks)'),
    ):
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), '--out', str(tmp_path / 'out')])
        message = capsys.readouterr().err
        assert end.value.code == 2 and words in message and message.count('\n') == 1
    assert not (tmp_path / 'out').exists()
    (folder / 'masks/north_00.png').unlink()
    assert main([str(folder), '--out', str(tmp_path / 'out')]) == 1
