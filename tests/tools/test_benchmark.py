import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CASES = ['--cases', '64:2:4:4', '256:2:4:4', '--device', 'cpu', '--quick']
WITHOUT = """
import runpy, sys
for name in {missing!r}:
    sys.modules[name] = None  # importing it raises ImportError
sys.argv = ['benchmark.py', *{arguments!r}]
runpy.run_path('tools/benchmark.py', run_name='__main__')
"""
MM_PACKAGES = ('mmcv', 'mmengine', 'mmseg')


def run_without(missing, arguments, repository):
    script = WITHOUT.format(missing=missing, arguments=[str(part) for part in arguments])
    return subprocess.run(
        [sys.executable, '-c', script], cwd=repository, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_operator_writes_everything_without_any_mm_package(repository, tmp_path):
    done = run_without(MM_PACKAGES, ['operator', *CASES, '--out', tmp_path], repository)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'results.json').read_text())
    assert set(results) == {'environment', 'operator', 'kernels', 'model', 'training'}
    assert {'device', 'torch', 'date', 'threads', 'command', 'rounds', 'copy_gb_per_s'} <= set(
        results['environment']
    )
    assert results['environment']['command'].startswith('benchmark.py operator --cases 64:2:4:4')
    assert [(row['tokens'], row['backend']) for row in results['operator']] == [
        (tokens, backend) for tokens in (64, 256) for backend in ('sdpa', 'tiled')
    ]
    for row in results['operator']:
        assert row['status'] == 'ok'
        assert row['eager_forward_us'] > 0 and row['eager_forward_backward_us'] > 0
        assert row['output_error'] < 1e-5 and row['gradient_error'] < 1e-5
        assert row['floor_us'] > 0 and row['dtype'] == 'float32'
    report = (tmp_path / 'results.md').read_text()
    assert report in done.stdout + '\n'
    assert '| 256 | 2   | 4, 4 | tiled   |' in report
    assert (tmp_path / 'operator.png').read_bytes().startswith(b'\x89PNG')
    assert (tmp_path / 'operator.png').stat().st_size > 10_000


def run_outside(script, arguments, folder, *wrong):
    """Run a script in `folder`, whose packages are found before others; some are wrong."""
    for package in wrong:
        (folder / package).mkdir()
        (folder / package / '__init__.py').write_text(f'raise SystemExit("wrong {package}")')
    return subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_checkout_is_measured_from_any_folder_whatever_is_installed(repository, tmp_path):
    script = repository / 'tools/benchmark.py'
    arguments = ['operator', '--cases', '64:2:4:4', '--device', 'cpu', '--quick', '--out', 'out']
    done = run_outside(script, arguments, tmp_path, 'mita_seg', 'benchmarks')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out/results.json').exists()


def test_installed_without_a_checkout_it_says_that_it_needs_one(wheel, repository, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        script = archive.extract('mita_seg/.mim/tools/benchmark.py', tmp_path / 'installed')
    (tmp_path / 'mita_seg').symlink_to(repository / 'mita_seg')
    done = run_outside(script, ['operator'], tmp_path, 'benchmarks')
    assert done.returncode == 2
    assert done.stderr == (
        'benchmark.py: needs a checkout of the repository, since the benchmarks are not installed '
        f'with mita_seg; got {script}, outside of one\n'
    )


@pytest.mark.slow
def test_model_without_mm_packages_says_what_to_install(repository, tmp_path):
    done = run_without(MM_PACKAGES, ['all', '--out', tmp_path / 'out'], repository)
    assert done.returncode == 2
    assert 'extra "mmseg"' in done.stderr and 'operator' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()


def test_without_matplotlib_there_is_no_plot_but_all_else(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'benchmarks.plot', None)
    arguments = ['operator', *CASES, '--backends', 'sdpa', '--out', str(tmp_path)]
    assert tool('benchmark').main(arguments) == 0
    assert 'no plot' in capsys.readouterr().err
    assert not (tmp_path / 'operator.png').exists()
    assert (tmp_path / 'results.md').exists() and (tmp_path / 'results.json').exists()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--backends', 'tiled', 'flush'], "got 'flush'"),
        (['--cases', '1000:6:49:49'], 'N must be a square'),
        (['--cases', '1024'], 'N:BH:M:K'),
        (['--crops', '500:1'], 'multiple of 32'),
        (['--device', 'tpu'], 'tpu'),
        (['--dtype', 'int8'], 'int8'),
    ],
)
def test_bad_options_are_refused_before_any_work(tool, tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as end:
        tool('benchmark').main(['operator', *options, '--out', str(tmp_path / 'out')])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def refusal(tool, arguments, capsys, out):
    with pytest.raises(SystemExit) as end:
        tool('benchmark').main([*arguments, '--out', str(out)])
    assert end.value.code == 2 and not out.exists()
    return capsys.readouterr().err


def test_kernels_are_refused_without_cuda(tool, tmp_path, capsys):
    message = refusal(tool, ['kernels', '--device', 'cpu'], capsys, tmp_path / 'out')
    assert message == (
        "benchmark.py: --device must be 'cuda' for kernels, which only a GPU runs; got 'cpu'\n"
    )


def test_all_on_a_cpu_leaves_the_kernels_out(tool, repository):
    from benchmarks.request import read_request

    request = read_request(tool('benchmark').parse_args(['--device', 'cpu']), repository)
    assert request.cases and request.crops
    assert not request.kernel_cases and not request.trainings


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['training'], "training takes CONFIG files, and nothing else does; got 'training'"),
        (['model', 'a.py'], "got 'model a.py'"),
        (['training', 'a.py', '--iters', '1'], '--iters must be at least 2'),
        (['operator', '--cfg-options', 'a=1'], "--cfg-options is for training; got 'operator'"),
        (['training', 'a.py', 'folder/a.py', '--device', 'cpu'], 'config given twice: a'),
        (['training', 'absent.py', '--device', 'cpu'], "config 'absent.py' does not exist"),
    ],
)
def test_bad_trainings_are_refused(tool, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert words in refusal(tool, arguments, capsys, tmp_path / 'out')


def test_training_on_a_cpu_is_refused_where_mmengine_would_take_a_gpu(
    tool, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    arguments = ['training', 'a.py', '--device', 'cpu']
    assert "--device must be 'cuda' for training" in refusal(
        tool, arguments, capsys, tmp_path / 'out'
    )


@pytest.mark.slow
def test_training_loops_run_one_after_the_other(tool, tiny, shapes_configs, tmp_path, capsys):
    full, mita = shapes_configs
    arguments = ['training', full, '--iters', '4', mita, '--out', str(tmp_path)]
    options = [option for option in tiny if 'train_cfg' not in option]
    assert tool('benchmark').main([*arguments, '--cfg-options', *options]) == 0
    rows = json.loads((tmp_path / 'results.json').read_text())['training']
    assert [row['config'] for row in rows] == [Path(config).stem for config in (full, mita)]
    for row in rows:
        assert row['iterations'] == 4 and row['iteration_ms'] > 0
        assert (tmp_path / 'training' / row['config']).is_dir()
    report = (tmp_path / 'results.md').read_text()
    assert report in capsys.readouterr().out + '\n'
    assert f'| {rows[0]["config"]} ' in report


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_was_measured(tool, shapes_configs, tmp_path, monkeypatch):
    models = pytest.importorskip('benchmarks.models')

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, 'make_training_iteration', interrupt)
    arguments = ['model', '--config', shapes_configs[0], '--crops', '64:1', '--device', 'cpu']
    with pytest.raises(KeyboardInterrupt):
        tool('benchmark').main([*arguments, '--quick', '--out', str(tmp_path)])
    rows = json.loads((tmp_path / 'results.json').read_text())['model']
    measures = [row['measure'] for row in rows]
    assert measures == 3 * ['training step'] + 3 * ['inference']
    assert '| inference     | stock |' in (tmp_path / 'results.md').read_text()


def test_missing_config_is_refused(tool, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        tool('benchmark').main(['model', '--config', 'absent.py', '--out', str(tmp_path / 'out')])
    assert end.value.code == 2
    assert "config 'absent.py' does not exist" in capsys.readouterr().err


def test_a_wrong_backend_makes_the_exit_status_1(tool, tmp_path, monkeypatch, capsys):
    from benchmarks import backends

    wrong = backends.BACKENDS['tiled']._replace(attend=lambda q, k, v, case: v + 0 * (q + k))
    monkeypatch.setitem(backends.BACKENDS, 'tiled', wrong)
    assert tool('benchmark').main(['operator', *CASES, '--out', str(tmp_path)]) == 1
    rows = json.loads((tmp_path / 'results.json').read_text())['operator']
    assert [row['status'] for row in rows] == ['ok', 'wrong'] * 2
    before_the_report = capsys.readouterr().out.split('# Benchmark')[0]
    assert before_the_report.count(f'  tiled: wrong: {rows[1]["reason"]}\n') == 2
