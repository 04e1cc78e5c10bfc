"""Build hook: puts the command-line tools and configs where onedl-mim and openmim look for them."""

import shutil
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INDEX = 'model-index.yml'


class MIMFolder(BuildHookInterface):
    """Adds `_mita_seg_mim/` to wheels, and the list of models to `mita_seg/.mim/`.

    For an installed wheel, onedl-mim 0.5.1 takes the first path component of the first entry of
    RECORD as the package's folder. Installers sort RECORD, so that entry would lie in
    `mita_seg-<version>.dist-info`, whose subfolders are reserved by the wheel specification. A
    folder that sorts before it is safe. An editable install needs none: MIM then takes the
    repository itself.
    """

    def initialize(self, version: str, build_data: dict) -> None:
        """Adds the files to a standard wheel."""
        if version == 'editable':
            return
        for name in ('configs', 'tools', INDEX):
            build_data['force_include'][name] = f'_mita_seg_mim/{name}'
        # Hatchling gives a file one place only.
        self.copies = Path(tempfile.mkdtemp())
        copy = shutil.copy(Path(self.root, INDEX), self.copies)
        build_data['force_include'][str(copy)] = f'mita_seg/.mim/{INDEX}'

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        """Deletes what only the build needed."""
        if version != 'editable':
            shutil.rmtree(self.copies)
