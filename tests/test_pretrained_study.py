"""The study of MiTA in a pretrained encoder: its runs, and what times them."""

import copy
import re
import runpy
import subprocess
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mita_seg.comparison.variants import check_keys, parse_variant
from mita_seg.models.config_check import check_attention_configs
from mita_seg.utils.files import read_json

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / 'experiments/pretrained'
RUNS = [
    parse_variant(line)
    for line in subprocess.run(
        ['bash', STUDY / 'study.sh', 'list'], check=True, capture_output=True, text=True
    ).stdout.splitlines()
]
PLAIN = [run for run in RUNS if run.config.startswith('experiments/')]  # others are made by a part


@pytest.fixture(scope='module')
def configs():
    """Of each run of PLAIN; settings that look misspelt are refused."""
    files = {run.config: Config.fromfile(ROOT / run.config) for run in PLAIN}
    found = []
    for run in PLAIN:
        cfg = copy.deepcopy(files[run.config])
        check_keys(cfg, run.options)
        cfg.merge_from_dict(run.options)
        found.append(cfg)
    return found


def test_runs_have_an_attention_that_exists_and_no_two_are_the_same(configs):
    assert len(configs) >= 2 * 20
    for index, cfg in enumerate(configs):
        check_attention_configs(cfg.model)
        assert cfg not in configs[index + 1 :]


def test_the_report_names_every_run():
    table = (STUDY / 'README.md').read_text().partition('| run | attention |')[2]
    named = set(re.findall(r'`(full[\w-]*|mita[\w-]*)`', table.partition('\n\n')[0]))
    names = {re.sub(r'-lr[\d.]+$', '', run.name) for run in RUNS}
    assert names <= named


def test_pretrained_weights_learn_at_a_tenth_of_the_rate_but_for_lr1(configs):
    for run, cfg in zip(PLAIN, configs, strict=True):
        rate = cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult
        assert rate == (1 if run.name.endswith('-lr1') else 0.1)


@pytest.mark.long
def test_forward_times_are_compared_with_the_first_model(tmp_path, capsys):
    full, mita = (next(run for run in PLAIN if run.name == name) for name in ('full', 'mita'))
    main = runpy.run_path(str(STUDY / 'time_forward.py'))['main']
    small = 'model.backbone.num_layers=1,model.decode_head.num_layers=1'
    options = ','.join(f'{key}={value}' for key, value in mita.options.items())
    configs = [f'{ROOT / full.config}@full:{small}', f'{ROOT / mita.config}@mita:{small},{options}']
    main([*configs, '--pixels', '56', '--out', str(tmp_path)])
    rows = read_json(tmp_path / 'forward.json')['rows']
    assert [row['name'] for row in rows] == ['full', 'mita']
    assert all(row['tokens'] == 16 and row['eager_time_us'] > 0 for row in rows)
    assert '1.00x' in capsys.readouterr().out


@pytest.mark.long
def test_training_times_are_compared_with_the_first_model(tmp_path, capfd):
    full, mita = (next(run for run in PLAIN if run.name == name) for name in ('full', 'mita'))
    main = runpy.run_path(str(STUDY / 'time_training.py'))['main']
    small = (
        'model.type=EncoderDecoder,model.backbone.num_layers=1,model.decode_head.num_layers=1,'
        'model.data_preprocessor.size=(56,56),model.backbone.img_size=(56,56),'
        'train_dataloader.batch_size=2'
    )
    options = ','.join(f'{key}={value}' for key, value in mita.options.items())
    configs = [f'{ROOT / full.config}@full:{small}', f'{ROOT / mita.config}@mita:{small},{options}']
    main([*configs, '--out', str(tmp_path)])
    rows = read_json(tmp_path / 'training.json')['rows']
    assert [row['name'] for row in rows] == ['full', 'mita']
    assert all(row['batch'] == 2 and row['iter_ms'] > 0 for row in rows)
    assert '1.00x' in capfd.readouterr().out


@pytest.mark.parametrize('pixels', ['0', '50'])
def test_a_size_that_is_no_number_of_patches_is_refused(pixels, tmp_path, capsys):
    main = runpy.run_path(str(STUDY / 'time_forward.py'))['main']
    with pytest.raises(SystemExit):
        main(['a.py', '--pixels', pixels, '--out', str(tmp_path)])
    assert f'--pixels must be a multiple of 14, got {pixels}' in capsys.readouterr().err
