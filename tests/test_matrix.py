"""The table of versions: every environment has a row and a job; rows say what was found."""

import importlib.util
import json
import re

import pytest


@pytest.fixture
def matrix(repository, monkeypatch, tmp_path):
    """The script, which writes into an empty folder here."""
    spec = importlib.util.spec_from_file_location('matrix', repository / '.ci/test_matrix.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'RESULTS', tmp_path)
    monkeypatch.setattr(module, 'PAGE', tmp_path / 'versions.md')
    module.PAGE.write_text(f'before\n{module.BEGIN}\nold\n{module.END}\nafter\n')
    return module


def test_rows_say_what_was_found_or_that_nothing_was_run(matrix):
    kept = {'date': '2026-11-27', 'status': 1, 'seconds': 9, 'counts': {'passed': 5, 'failed': 2}}
    kept['versions'] = {'python': '3.12.1', 'torch': '2.13.0', 'numpy': '2.4.6'}
    (matrix.RESULTS / 'no-mm.json').write_text(json.dumps(kept))
    (matrix.RESULTS / 'pinned.json').write_text(json.dumps({'why': 'no Python 3.11'}))
    for _ in range(2):
        matrix.write_table()
        text = matrix.PAGE.read_text()
        assert text.startswith('before\n') and text.endswith('\nafter\n') and 'old' not in text
        rows = re.findall(r'^\| `(\S+)`.*\| (.*) \|$', text, re.MULTILINE)
        assert [name for name, _ in rows] == list(matrix.ENVIRONMENTS)
        assert dict(rows)['no-mm'] == '5 passed, 2 failed; 2026-11-27'
        assert dict(rows)['pinned'] == 'not run: no Python 3.11'
        assert dict(rows)['upstream'] == 'not run'


def test_results_are_kept_and_the_rest_is_run(matrix, monkeypatch):
    for name in matrix.ENVIRONMENTS:
        if name not in ('bare', 'lowest'):
            (matrix.RESULTS / f'{name}.json').write_text(json.dumps({'why': 'x'}))
    made = []
    monkeypatch.setattr(matrix, 'make_environment', lambda name, _: made.append(name))
    monkeypatch.setattr(matrix, 'find_python', lambda version: 'python')
    monkeypatch.setattr(matrix, 'run_tests', lambda *_: {**KEPT, 'status': 0})
    monkeypatch.setattr('sys.argv', ['test_matrix.py', '--keep'])
    assert matrix.main() == 0 and made == ['lowest', 'bare']
    monkeypatch.setattr('sys.argv', ['test_matrix.py', '--keep', '--only', 'bare'])
    assert matrix.main() == 0 and made[2:] == ['bare']


KEPT = {'date': 'today', 'counts': {}, 'versions': {'python': '3', 'torch': '2'}}


def test_the_scheduled_workflow_has_a_job_for_every_environment(matrix, repository):
    text = (repository / '.github/workflows/matrix.yml').read_text()
    jobs = dict(re.findall(r"\{name: (\S+), python: '(\S+)'\}", text))
    assert jobs == {name: wanted.python for name, wanted in matrix.ENVIRONMENTS.items()}


def test_the_lowest_torch_is_the_one_that_is_required(matrix, repository):
    text = (repository / 'pyproject.toml').read_text()
    (lowest,) = re.findall(r'"torch>=(\S+)"', text)
    assert matrix.ENVIRONMENTS['lowest'].torch == f'torch=={lowest}.0'
