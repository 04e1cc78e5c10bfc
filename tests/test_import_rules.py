"""Imports run one way, models -> layers -> ops, and the lower rooms need torch alone."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.forked_programs import ForkedPrograms

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / 'mita_seg'
ALLOWED = {
    'ops': {'mita_seg.ops'},
    'layers': {'mita_seg.ops', 'mita_seg.layers'},
    'augment': {'mita_seg.augment'},
    'conversion': {'mita_seg.conversion', 'mita_seg.utils.files', 'safetensors'},
    'swap': {'mita_seg.swap', 'mita_seg.layers', 'mita_seg.ops'},
    'finetuning': {'mita_seg.finetuning', 'mita_seg.analysis', 'mita_seg.layers'}
    | {'mita_seg.ops'},
    'analysis': {'mita_seg.analysis', 'mita_seg.layers', 'mita_seg.ops', 'mita_seg.utils.files'}
    | {'matplotlib'},
}
# What is imported only for a family of models.
OPTIONAL = {
    'swap/families/mmcv.py': {'mmcv'},
    'swap/families/mmseg.py': {'mmseg'},
    'swap/families/timm.py': {'timm'},
    'swap/families/torchvision.py': {'torchvision'},
    'swap/families/huggingface.py': {'transformers'},
}
# In benchmarks/, beside the operator: nothing of the package that needs MMSegmentation,
BENCHMARKS = {
    *('benchmarks', 'mita_seg.ops', 'mita_seg.utils.files', 'mita_seg.utils.tables'),
    *('mita_seg.utils.timing', 'mita_seg.utils.attention_colours', 'matplotlib'),
}
# but in the parts that measure models and trainings.
BENCHMARKS_OF_MODELS = {
    'models.py': {'mmengine', 'mmseg', 'mita_seg'},
    'training.py': {'mmengine', 'mita_seg'},
    'exported.py': {'mmengine', 'mmseg', 'mita_seg'},
    'request.py': {'mita_seg.utils.cli', 'mita_seg.models', 'mita_seg.utils.quiet'},
}


def imported_modules(path):
    """Absolute names of the modules that a file imports, relative imports resolved."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield '.'.join((*base, *(node.module or '').split('.'))).strip('.')


@pytest.mark.parametrize('room', ALLOWED)
def test_lower_rooms_import_only_torch_and_rooms_below(room):
    for path in (PACKAGE / room).rglob('*.py'):
        names = ALLOWED[room] | OPTIONAL.get(path.relative_to(PACKAGE).as_posix(), set())
        require_imports_within(names, path)


def test_benchmarks_import_only_torch_and_what_needs_torch_alone():
    for path in (ROOT / 'benchmarks').glob('*.py'):
        require_imports_within(BENCHMARKS | BENCHMARKS_OF_MODELS.get(path.name, set()), path)


def test_the_package_imports_nothing_of_the_repository_around_it():
    """The folders beside `mita_seg` are not installed with it."""
    around = {'benchmarks', 'configs', 'docs', 'examples', 'experiments', 'tests', 'tools'}
    for path in PACKAGE.rglob('*.py'):
        for module in imported_modules(path):
            assert module.split('.')[0] not in around, f'{path} imports {module}'


def require_imports_within(names, path):
    """The modules named, those below them, torch, Triton and the standard library."""
    for module in imported_modules(path):
        top = module.split('.')[0]
        if top == 'mita_seg':
            allowed = any(module == name or module.startswith(name + '.') for name in names)
        else:
            allowed = top in {'torch', 'triton', *names} or top in sys.stdlib_module_names
        assert allowed, f'{path} imports {module}'


@pytest.mark.slow
def test_package_offers_its_main_names_and_imports_torch_for_none_before_it_is_used():
    script = """
import sys
sys.modules['mmengine'] = None  # importing it raises ImportError
import mita_seg
assert 'torch' not in sys.modules
from mita_seg import FullAttention, MiTAAttention, restore_attention, swap_attention
from mita_seg import mita_attention, pooled_mita_attention
import mita_seg.layers, mita_seg.ops, mita_seg.swap
assert MiTAAttention is mita_seg.layers.MiTAAttention
assert mita_attention is mita_seg.ops.mita_attention
assert 'pooled_mita_attention' in dir(mita_seg)
"""
    subprocess.run([sys.executable, '-c', script], check=True)


@pytest.fixture(scope='module')
def torch_alone():
    """Runs programs in processes that have imported torch."""
    forked = ForkedPrograms(sys.executable, ['torch'], dict(os.environ))
    yield forked
    forked.end()


@pytest.mark.slow
@pytest.mark.parametrize('room', ALLOWED)
def test_lower_rooms_import_without_any_mm_package(room, torch_alone, tmp_path):
    (tmp_path / 'script.py').write_text(f"""
import sys
for name in ('mmcv', 'mmengine', 'mmseg', 'cv2'):
    sys.modules[name] = None  # importing it raises ImportError
import mita_seg.{room}
""")
    status, printed = torch_alone.run(tmp_path / 'script.py')
    assert status == 0, printed


@pytest.mark.slow
def test_the_operator_works_without_triton():
    script = """
import sys
sys.modules['triton'] = None  # importing it raises ImportError
import torch
import mita_seg.ops as ops
q, k, v = torch.randn(3, 1, 2, 12, 16, requires_grad=True).unbind()
ops.pooled_mita_attention(q, k, v, (3, 4), (2, 2), topk=3).sum().backward()
try:
    ops.pooled_mita_attention(q, k, v, (3, 4), (2, 2), topk=3, backend='triton')
except NotImplementedError as error:
    assert "backend='triton' can't run" in str(error)
else:
    raise AssertionError('ran without Triton')
"""
    subprocess.run([sys.executable, '-c', script], check=True)
