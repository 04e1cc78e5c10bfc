"""Build hook: puts the command-line tools and configs where onedl-mim looks for them."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class MIMFolder(BuildHookInterface):
    """Adds `_mita_seg_mim/` to wheels.

    For an installed wheel, onedl-mim 0.5.1 takes the first path component of the first entry of
    RECORD as the package's folder. Installers sort RECORD, so that entry would lie in
    `mita_seg-<version>.dist-info`, whose subfolders are reserved by the wheel specification. A
    folder that sorts before it is safe. An editable install needs none: MIM then takes the
    repository itself.
    """

    def initialize(self, version: str, build_data: dict) -> None:
        """Adds the folder to the files of a standard wheel."""
        if version == 'editable':
            return
        for name in ('configs', 'tools', 'model-index.yml'):
            build_data['force_include'][name] = f'_mita_seg_mim/{name}'
