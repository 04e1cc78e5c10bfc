"""The files of MMEngine's local visualization, of which none is half written."""

import os

import cv2
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import force_init_env

from mita_seg.utils.files import write_config
from mita_seg.utils.full_disk import naming
from mita_seg.utils.pictures import write_picture


@VISBACKENDS.register_module()
class WholeLocalVisBackend(LocalVisBackend):
    """LocalVisBackend that says so when it cannot write.

    The stock one leaves half a picture, and goes on. It takes the same arguments.
    """

    @force_init_env
    def add_config(self, config, **kwargs):
        """Write the config."""
        write_config(self._config_save_file, config)

    @force_init_env
    def add_image(self, name, image, step=0, **kwargs):
        """Write a picture `[h, w, 3]`, uint8, RGB, as PNG."""
        os.makedirs(self._img_save_dir, exist_ok=True)
        path = os.path.join(self._img_save_dir, f'{name}_{step}.png')
        write_picture(path, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def _dump(self, value_dict, file_path, file_format):
        with naming(file_path):
            super()._dump(value_dict, file_path, file_format)


def write_whole_files(visualizer):
    """Let a visualizer use :class:`WholeLocalVisBackend` for every stock LocalVisBackend.

    Args:
        visualizer (Visualizer): Changed in place; its backends keep their names.
    """
    for name, backend in visualizer._vis_backends.items():
        if type(backend) is LocalVisBackend:
            whole = WholeLocalVisBackend(backend._save_dir)
            vars(whole).update(vars(backend))  # its paths, which depend on what was written
            visualizer._vis_backends[name] = whole
