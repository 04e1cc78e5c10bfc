"""Imports run one way, models -> layers -> ops, and the lower rooms need torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / 'mita_seg'
ALLOWED = {
    'ops': {'mita_seg.ops'},
    'layers': {'mita_seg.ops', 'mita_seg.layers'},
    'augment': {'mita_seg.augment'},
    'conversion': {'mita_seg.conversion', 'mita_seg.files', 'safetensors'},
}


def imported_modules(path):
    """Absolute names of the modules that a file imports, relative imports resolved."""
    package = ('mita_seg', *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield '.'.join((*base, *(node.module or '').split('.'))).strip('.')


@pytest.mark.parametrize('room', ALLOWED)
def test_lower_rooms_import_only_torch_and_rooms_below(room):
    for path in (PACKAGE / room).rglob('*.py'):
        for module in imported_modules(path):
            top = module.split('.')[0]
            if top == 'mita_seg':
                allowed = any(
                    module == name or module.startswith(name + '.') for name in ALLOWED[room]
                )
            else:
                libraries = {'torch', 'triton', *ALLOWED[room]}
                allowed = top in libraries or top in sys.stdlib_module_names
            assert allowed, f'{path} imports {module}'


@pytest.mark.parametrize('room', ALLOWED)
def test_lower_rooms_import_without_any_mm_package(room):
    script = f"""
import sys
for name in ('mmcv', 'mmengine', 'mmseg', 'cv2'):
    sys.modules[name] = None  # importing it raises ImportError
import mita_seg.{room}
"""
    subprocess.run([sys.executable, '-c', script], check=True)
