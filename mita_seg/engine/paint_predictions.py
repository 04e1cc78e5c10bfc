"""Predictions as pictures, one per image."""

from pathlib import Path

import mmcv
from mmengine import fileio
from mmengine.registry import HOOKS
from mmseg.engine import SegVisualizationHook


@HOOKS.register_module()
class PaintPredictionsHook(SegVisualizationHook):
    """``SegVisualizationHook`` that numbers the pictures of a test.

    That of MMSegmentation 1.2.2 gives images of equal names in different folders one file. The
    image is painted as its pixels are stored, as LoadCheckedImage reads it.

    Args:
        *args: As in ``SegVisualizationHook``.
        **kwargs: As in ``SegVisualizationHook``.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.painted = 0

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Paint the predictions of a batch."""
        if not self.draw:
            return
        for sample in outputs:
            self.painted += 1
            content = fileio.get(sample.img_path, backend_args=self.backend_args)
            image = mmcv.imfrombytes(content, flag='color_ignore_orientation')
            self._visualizer.add_datasample(
                f'test_{Path(sample.img_path).name}',
                mmcv.bgr2rgb(image),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                step=self.painted,
            )
