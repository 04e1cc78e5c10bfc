"""Predictions as files, one per image."""

from inspect import signature
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from PIL import Image

from mita_seg.utils.distinct_names import distinct_names
from mita_seg.utils.files import replacing


class SavePredictionsHook(Hook):
    """Writes the predictions of a test as PNG files of class indices.

    ``out/NAME.png`` for the image ``NAME.jpg``, with the labels' own values, as IoUMetric does it.
    Images of equal names in different folders keep the part of their paths that tells them apart.

    Args:
        out (str | os.PathLike): The folder.
    """

    def __init__(self, out):
        self.out = Path(out)
        self.names = {}

    def before_test(self, runner):
        """Find a name for every image of the test set."""
        dataset = runner.test_dataloader.dataset
        if hasattr(dataset, 'get_data_info'):
            paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
            self.names = distinct_names(paths)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Write the predictions of a batch."""
        for sample in outputs or ():
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            if sample.get('reduce_zero_label', False):
                labels = labels + 1  # as in the files, where 0 is ignored
            if sample.img_path not in self.names:
                self.names = distinct_names([*self.names, sample.img_path])
            path = self.out / f'{self.names[sample.img_path]}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, 'wb') as file:
                Image.fromarray(labels.astype(np.uint8)).save(file, 'PNG')


def leave_files_to_evaluators(cfg, out):
    """Let the evaluators of a config write predictions that have a format of their own for them.

    Those of IoUMetric are left to SavePredictionsHook.

    Args:
        cfg (Config): With `test_evaluator`: a metric, a list of them, or an evaluator with
            `metrics`. Changed in place.
        out (str): The folder.

    Returns:
        bool: Whether any of them writes.
    """
    given = cfg.get('test_evaluator')
    if not given:
        return False
    metrics = given.get('metrics', given) if isinstance(given, dict) else given
    metrics = [metrics] if isinstance(metrics, dict) else metrics
    write, kept = False, []
    for metric in metrics:
        kind = METRICS.get(metric.type) if isinstance(metric.type, str) else metric.type
        if kind is IoUMetric:
            metric.pop('output_dir', None)
            if metric.get('format_only'):
                continue  # it does nothing but write
        elif kind is not None and 'output_dir' in signature(kind).parameters:
            metric.update(output_dir=out, keep_results=True)
            write = True
        kept.append(metric)
    if isinstance(given, dict) and 'metrics' in given:
        given.metrics = kept
    else:
        cfg.test_evaluator = kept
    return write
