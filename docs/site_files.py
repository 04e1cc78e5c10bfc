"""Lets MkDocs read the documents where they are, under the names that they have on GitHub.

A link from one document to another then works in both places.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    '*.md',
    'docs/**/*.md',
    'docs/**/*.png',
    'configs/*/README.md',
    'experiments/*/README.md',
    'examples/*.py',
    'LICENSE',
    'CITATION.cff',
)


def on_files(files, config):
    """In place of what lies below docs_dir: the repository's documents, README.md as home page."""
    paths = sorted({path for pattern in DOCUMENTS for path in ROOT.glob(pattern)})
    own = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for path in paths
    ]
    theme = [file for file in files if not file.abs_src_path.startswith(str(ROOT / 'docs'))]
    return Files([*own, *theme])


def on_page_content(html, **_):
    """Leave out the roles of Sphinx that docstrings hold, as in :func:`convert`."""
    return re.sub(r':(?:func|class|meth|mod):(<code>)~?', r'\1', html)
