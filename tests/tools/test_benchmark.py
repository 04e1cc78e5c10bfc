import json
import subprocess
import sys

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


def test_operator_writes_everything_without_any_mm_package(repository, tmp_path):
    done = run_without(MM_PACKAGES, ['operator', *CASES, '--out', tmp_path], repository)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / 'results.json').read_text())
    assert set(results) == {'environment', 'operator', 'model'}
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


def test_model_without_mm_packages_says_what_to_install(repository, tmp_path):
    done = run_without(MM_PACKAGES, ['all', '--out', tmp_path / 'out'], repository)
    assert done.returncode == 2
    assert 'extra "mmseg"' in done.stderr and 'operator' in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()


def test_without_matplotlib_there_is_no_plot_but_all_else(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'mita_seg.benchmark.plot', None)
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


def test_missing_config_is_refused(tool, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        tool('benchmark').main(['model', '--config', 'absent.py', '--out', str(tmp_path / 'out')])
    assert end.value.code == 2
    assert "config 'absent.py' does not exist" in capsys.readouterr().err


def test_a_wrong_backend_makes_the_exit_status_1(tool, tmp_path, monkeypatch):
    from mita_seg.benchmark import backends

    wrong = backends.BACKENDS['tiled']._replace(attend=lambda q, k, v, case: v + 0 * (q + k))
    monkeypatch.setitem(backends.BACKENDS, 'tiled', wrong)
    assert tool('benchmark').main(['operator', *CASES, '--out', str(tmp_path)]) == 1
    rows = json.loads((tmp_path / 'results.json').read_text())['operator']
    assert [row['status'] for row in rows] == ['ok', 'wrong'] * 2
