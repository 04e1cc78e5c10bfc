import os
import subprocess
import sys
import time
from fractions import Fraction
from http.client import IncompleteRead
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.engine.amp import enable_amp

WIDER = [f'model.{key}=192' for key in ('backbone.embed_dims', 'decode_head.in_channels')]


def options(tiny, *more):
    # Within a process MMEngine hands out an earlier run's logger and visualizer by their names.
    name = f'test_{time.monotonic_ns()}'
    return ['--cfg-options', *tiny, f'experiment_name={name}', f'visualizer.name={name}', *more]


def refusal(tool, name, capsys, *arguments):
    """What a tool says before it ends with status 2."""
    with pytest.raises(SystemExit) as end:
        tool(name).main(list(map(str, arguments)))
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f'{name}.py: ') and message.count('\n') == 1
    return message


@pytest.mark.slow
@pytest.mark.parametrize('amp', [False, True])
def test_train_resume_and_test(tool, tiny, shapes_configs, tmp_path, capsys, amp):
    config, work_dir = shapes_configs[0], tmp_path / 'run'
    flags = ['--work-dir', str(work_dir)] + ['--amp'] * amp
    train = tool('train').main
    train([config, *flags, '--resume', *options(tiny)])
    assert 'no checkpoint to resume' in capsys.readouterr().out
    train([config, *flags, '--resume', *options(tiny, 'train_cfg.max_iters=6')])
    assert 'resuming from' in capsys.readouterr().out
    assert (work_dir / 'iter_6.pth').exists()

    checkpoint = str(work_dir / 'iter_6.pth')
    out, painted = tmp_path / 'out', tmp_path / 'painted'
    tool('test').main(
        [config, checkpoint, '--work-dir', str(tmp_path / 'test')]
        + ['--out', str(out), '--show-dir', str(painted)]
        + options(tiny)
    )
    assert len(list(out.glob('*.png'))) == 4
    assert list(painted.rglob('*.png'))


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_bits(tool, tiny, shapes_configs, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f"""
_base_ = {shapes_configs[1]!r}
# Its state holds a function.
param_scheduler = [dict(type='OneCycleLR', eta_max=2e-3, total_steps=8, by_epoch=False)]
dataset = dict(metainfo=dict(nested=dict(kind=dict(a=[1]))))
train_pipeline = [
    dict(type='LoadCheckedImage'), dict(type='LoadCheckedLabels', num_classes=7),
    dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')]
train_dataloader = dict(num_workers=2, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(**dataset))
"""
    )
    more = options(tiny, 'model.backbone.drop_path_rate=0.5', 'randomness.seed=0')
    train = tool('train').main
    train([str(config), '--work-dir', str(tmp_path / 'whole'), *more])
    start = f'load_from={tmp_path}/whole/iter_2.pth'
    more = options(tiny, 'model.backbone.drop_path_rate=0.5', 'randomness.seed=0', start)
    train([str(config), '--work-dir', str(tmp_path / 'resumed'), '--resume', *more])
    whole, resumed = (
        load_checkpoint_safely(tmp_path / folder / 'iter_4.pth') for folder in ('whole', 'resumed')
    )
    assert whole['meta']['dataset_meta']['nested'] == {'kind': {'a': [1]}}
    for name, value in whole['state_dict'].items():
        assert torch.equal(resumed['state_dict'][name], value), name
    assert whole['optimizer']['param_groups'] == resumed['optimizer']['param_groups']


@pytest.mark.slow
@pytest.mark.parametrize('flags', [['--resume'], []])
def test_resume_and_load_from_are_taken_as_mmsegmentation_takes_them(
    tool, tiny, shapes_configs, tmp_path, capsys, flags
):
    state = {'meta': {'iter': 4, 'epoch': 0, 'seed': 0}, 'message_hub': {}, 'state_dict': {}}
    torch.save(state, tmp_path / 'chosen.pth')
    train = tool('train')

    def prepare(*more):
        settings = [*([] if flags else ['resume=True']), *more]
        arguments = [shapes_configs[0], '--work-dir', str(tmp_path / 'run'), *flags]
        return train.prepare_config(train.parse_args(arguments + options(tiny, *settings)))

    assert not prepare().resume
    assert 'no checkpoint to resume' in capsys.readouterr().out
    cfg = prepare(f'load_from={tmp_path}/chosen.pth')
    assert cfg.resume and cfg.load_from == f'{tmp_path}/chosen.pth'
    assert f'resuming from {tmp_path}/chosen.pth' in capsys.readouterr().out


@pytest.mark.parametrize('name, more', [('train', []), ('test', ['weights.pth'])])
def test_wrong_input_is_one_sentence(tool, tiny, shapes_configs, tmp_path, capsys, name, more):
    config = shapes_configs[0]
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    more = [str(tmp_path / file) for file in more]
    work_dir = ['--work-dir', str(tmp_path / 'run')]
    message = refusal(tool, name, capsys, 'gone.py', *more, *work_dir)
    assert "config 'gone.py' does not exist" in message

    (tmp_path / 'broken.py').write_text('model = dict(\n')
    message = refusal(tool, name, capsys, tmp_path / 'broken.py', *more, *work_dir)
    assert 'broken.py' in message and 'SyntaxError' in message

    (tmp_path / 'file').touch()
    message = refusal(
        tool, name, capsys, config, *more, '--work-dir', tmp_path / 'file/run', *options(tiny)
    )
    assert 'work_dir' in message and 'cannot be written' in message

    roots = [
        f'{loader}.dataset.data_root=gone' for loader in ('train_dataloader', 'test_dataloader')
    ]
    message = refusal(tool, name, capsys, config, *more, *work_dir, *options(tiny, *roots))
    assert "data_root 'gone' does not exist" in message and 'make_shapes_dataset.py' in message


def test_training_and_testing_need_their_own_data_only(
    tool, tiny, shapes_configs, tmp_path, capsys
):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')

    def prepare(name, *loaders, more=()):
        module = tool(name)
        gone = [f'{loader}_dataloader.dataset.data_root=gone' for loader in loaders]
        arguments = [shapes_configs[0], *[str(tmp_path / 'weights.pth')] * (name == 'test')]
        arguments += ['--work-dir', str(tmp_path / 'run'), *options(tiny, *gone, *more)]
        return module.prepare_config(module.parse_args(arguments))

    prepare('train', 'test')
    prepare('test', 'train', 'val')
    without = [f'val_{part}=None' for part in ('cfg', 'dataloader', 'evaluator')]
    prepare('train', 'test', more=without)
    for name, loader in (('train', 'train'), ('train', 'val'), ('test', 'test')):
        with pytest.raises(FileNotFoundError, match=f"^{loader}_dataloader: data_root 'gone'"):
            prepare(name, loader)


@pytest.mark.parametrize('name', ['train', 'test'])
def test_data_root_is_of_all_loaders_and_options_go_before_it(
    tool, tiny, shapes_configs, shapes_root, tmp_path, capsys, name
):
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    more = [str(tmp_path / 'weights.pth')] * (name == 'test')
    arguments = [shapes_configs[0], *more, '--work-dir', str(tmp_path / 'run')]
    root = os.path.relpath(shapes_root)  # as nothing else calls it
    small = [option for option in tiny if 'data_root' not in option]
    special = f'test_dataloader.dataset.data_root={shapes_root}'
    module = tool(name)
    cfg = module.prepare_config(
        module.parse_args([*arguments, '--data-root', root, *options(small, special)])
    )
    roots = [cfg[f'{loader}_dataloader'].dataset.data_root for loader in ('train', 'val', 'test')]
    assert roots == [root, root, str(shapes_root)]

    message = refusal(tool, name, capsys, *arguments, '--data-root', 'gone', *options(small))
    assert message == f"{name}.py: --data-root 'gone' is no folder\n"


def test_bad_checkpoints(tool, tiny, shapes_configs, tmp_path, capsys):
    config, work_dir = shapes_configs[0], ['--work-dir', str(tmp_path / 'run')]
    good = tmp_path / 'good.pth'
    torch.save({'state_dict': {'weight': torch.zeros(100)}, 'meta': {}}, good)
    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes(good.read_bytes()[:500])
    foreign = tmp_path / 'foreign.pth'
    torch.save({'state_dict': Fraction(1, 2)}, foreign)
    for path, words in (
        (tmp_path / 'gone.pth', 'does not exist'),
        (truncated, 'truncated'),
        (foreign, 'refused: it holds fractions.Fraction'),
    ):
        message = refusal(tool, 'test', capsys, config, path, *work_dir, *options(tiny))
        assert path.name in message and words in message
        message = refusal(
            tool, 'train', capsys, config, *work_dir, *options(tiny, f'load_from={path}')
        )
        assert path.name in message and words in message

    # Only a built model can tell that this one does not fit.
    with pytest.raises(SystemExit) as end:
        tool('test').main([config, str(good), *work_dir, *options(tiny)])
    assert end.value.code == 2
    assert f"checkpoint '{good}' does not fit the config" in capsys.readouterr().err


def test_bad_pretrained_weights_are_found_among_several_initialisations(
    tool, tiny, shapes_configs, tmp_path, capsys
):
    gone = tmp_path / 'gone.pth'
    inits = [{'type': 'TruncNormal', 'layer': 'Linear'}, {'type': 'Pretrained'}]
    inits[1]['checkpoint'] = str(gone)
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(shapes_configs[0])!r}\nmodel = dict(backbone=dict(init_cfg={inits!r}))\n'
    )
    work_dir = ['--work-dir', str(tmp_path / 'run')]
    message = refusal(tool, 'train', capsys, config, *work_dir, *options(tiny))
    assert str(gone) in message and 'does not exist' in message


@pytest.mark.slow
def test_training_starts_from_other_classes_but_not_from_another_width(
    tool, tiny, shapes_configs, tmp_path, capsys
):
    config, run = shapes_configs[0], ['--work-dir', str(tmp_path / 'run')]
    train = tool('train').main
    train([config, *run, *options(tiny)])
    start = f'load_from={tmp_path}/run/iter_4.pth'
    more = ['--work-dir', str(tmp_path / 'more')]
    train([config, *more, *options(tiny, start, 'model.decode_head.num_classes=9')])

    with pytest.raises(SystemExit) as end:
        train([config, *more, *options(tiny, start, *WIDER)])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert 'iter_4.pth' in message and 'does not fit the config' in message
    assert 'size mismatch' in message


def test_amp_and_tta_need_the_config_to_allow_them(tool, tiny, shapes_configs, tmp_path, capsys):
    config, work_dir = shapes_configs[0], ['--work-dir', str(tmp_path / 'run')]
    message = refusal(
        tool,
        'train',
        capsys,
        config,
        '--amp',
        *work_dir,
        *options(tiny, 'optim_wrapper.type=Other'),
    )
    assert "optim_wrapper.type='OptimWrapper'" in message
    torch.save({'state_dict': {}}, tmp_path / 'empty.pth')
    message = refusal(
        tool, 'test', capsys, config, tmp_path / 'empty.pth', '--tta', *work_dir, *options(tiny)
    )
    assert 'tta_pipeline' in message


def test_start_from_weights_of_which_none_fits(tool, tiny, shapes_configs, tmp_path, capsys):
    start = tmp_path / 'other.pth'
    torch.save({'state_dict': {'blocks.0.norm1.weight': torch.ones(3)}}, start)
    with pytest.raises(SystemExit) as end:
        tool('train').main(
            [shapes_configs[0], '--work-dir', str(tmp_path / 'run')]
            + options(tiny, f'load_from={start}')
        )
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert f"checkpoint '{start}' holds no weight of the model" in message
    assert 'blocks.0.norm1.weight' in message and 'model.backbone.init_cfg.checkpoint' in message


@pytest.mark.parametrize('kind', ['OptimWrapper', 'mmengine.OptimWrapper', OptimWrapper])
def test_amp_takes_the_wrapper_by_name_and_as_a_class(kind):
    cfg = Config({'optim_wrapper': {'type': kind, 'optimizer': {'type': 'SGD'}}})
    enable_amp(cfg)
    expected = 'AmpOptimWrapper' if torch.cuda.is_available() else 'BFloat16OptimWrapper'
    assert cfg.optim_wrapper.type == expected


@pytest.mark.long
@pytest.mark.slow
def test_custom_imports_of_a_user_do_not_hide_our_models(shapes_configs, tmp_path):
    (tmp_path / 'my_project.py').write_text('')
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = {shapes_configs[1]!r}\ncustom_imports = dict(imports=['my_project'])\n"
    )
    script = f"""
from mita_seg.utils.cli import load_config
cfg = load_config({str(config)!r})
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
init_default_scope('mmseg')
MODELS.build(cfg.model)
"""
    path = os.pathsep.join((str(tmp_path), os.environ['PYTHONPATH']))
    environment = {**os.environ, 'PYTHONPATH': path}
    subprocess.run([sys.executable, '-c', script], env=environment, check=True)


@pytest.mark.parametrize('name, more', [('train', []), ('test', ['weights.pth'])])
def test_threads_are_chosen_before_the_config_is_read(
    tool, tiny, shapes_configs, tmp_path, monkeypatch, name, more
):
    """Reading it imports what may compute."""
    module, calls = tool(name), []
    monkeypatch.setattr(module, 'limit_threads_beside_gpu', lambda: calls.append('threads'))
    monkeypatch.setattr(module, 'prepare_config', lambda args: calls.append('config') or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.main([shapes_configs[0], *more])
    assert calls == ['threads', 'config']


@pytest.mark.parametrize('error', [OSError('no route to host'), IncompleteRead(b'')])
def test_pretrained_weights_without_a_network(
    tool, tiny, shapes_configs, tmp_path, capsys, monkeypatch, error
):
    def download(*_):
        raise error

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    config = tmp_path / 'config.py'
    init = {'type': 'Pretrained', 'checkpoint': 'https://example.org/vit-cce8c795.pth'}
    config.write_text(
        f'_base_ = {shapes_configs[0]!r}\nmodel = dict(backbone=dict(init_cfg={init!r}))\n'
    )
    message = refusal(tool, 'train', capsys, config, '--work-dir', tmp_path / 'run', *options(tiny))
    assert f'checkpoint {init["checkpoint"]!r} cannot be downloaded' in message
    assert 'model.backbone.init_cfg.checkpoint=FILE' in message
    assert 'model.backbone.init_cfg=None' in message


FAMILY = ('mmengine', 'mmcv', 'mmseg')
NEEDED_FOR_HELP = (
    'analyze_routing',
    'compare',
    'complexity',
    'export',
    'sweep_experts',
    'test',
    'train',
    'visualize_routing',
)
ARGUMENTS = {'make_shapes_dataset': ['out'], 'prepare_camvid': ['in'], 'prepare_ade20k': ['.']}


@pytest.mark.parametrize('name', [*NEEDED_FOR_HELP, *ARGUMENTS])
def test_without_mmsegmentation_a_tool_says_what_to_install(repository, tmp_path, name):
    for kind in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (tmp_path / kind / split).mkdir(parents=True)
    script = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({FAMILY!r}))  # importing one raises ModuleNotFoundError
sys.argv = [{name!r}, *{ARGUMENTS.get(name, ['--help'])!r}]
sys.path.insert(0, {str(repository / 'tools')!r})  # as Python does for a script
runpy.run_path({str(repository / f'tools/{name}.py')!r}, run_name='__main__')
"""
    run = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 2 and run.stderr.count('\n') == 1
    assert run.stderr.startswith(f'{name}.py: ')
    assert 'mmengine, mmcv, mmseg cannot be found: install mita_seg with its extra' in run.stderr


TOOLS = sorted(path.stem for path in (Path(__file__).parents[2] / 'tools').glob('*.py'))


@pytest.mark.slow
@pytest.mark.parametrize('name', TOOLS)
def test_help_loads_no_family_of_packages(repository, name):
    """MIM asks for it before every run."""
    run = subprocess.run(
        [sys.executable, '-X', 'importtime', repository / f'tools/{name}.py', '-h'],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.split('|')[-1].strip() for line in run.stderr.splitlines()}
    slow = {'mmcv', 'mmseg', 'mmengine.runner', 'torchvision', 'matplotlib.pyplot'}
    assert 'argparse' in loaded and not loaded & slow
    # MIM passes this option on to a tool whose help mentions it.
    assert '--gpus' not in run.stdout


def test_a_machine_without_the_others_checkpoints_is_refused(
    tool, tiny, shapes_configs, tmp_path, capsys, monkeypatch
):
    others = 'mita_seg.engine.resuming.all_gather_object'
    monkeypatch.setattr(others, lambda own: ['iter_2.pth', own])
    with pytest.raises(SystemExit) as end:
        arguments = [shapes_configs[0], '--work-dir', str(tmp_path / 'run'), '--resume']
        tool('train').main([*arguments, *options(tiny)])
    assert end.value.code == 2
    said = 'train.py: process 0 goes on from iter_2.pth, process 1 from the beginning'
    assert said in capsys.readouterr().err
