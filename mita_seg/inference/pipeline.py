"""The way of an image from its file to a model."""

from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose
from mmseg.registry import TRANSFORMS

from mita_seg.datasets import LoadCheckedImage
from mita_seg.datasets.label_need import class_of, leave_out_label_loading


def build_pipeline(cfg, tta=False):
    """Build a config's test pipeline for images without labels.

    Args:
        cfg (Config): With `test_dataloader` or `test_pipeline`; with `tta_pipeline` for `tta`.
        tta (bool): Whether the pipeline of test-time augmentation is wanted.

    Returns:
        tuple[Callable, Callable]: What reads ``dict(img_path=...)`` to a dict with ``img``, which
        is LoadCheckedImage where the config has the stock LoadImageFromFile; and what prepares
        such a dict for the model.

    Raises:
        ValueError: The config has no such pipeline.
    """
    pipeline = cfg.get('tta_pipeline') if tta else _test_pipeline(cfg)
    if not pipeline:
        raise ValueError(f'the config has no {"tta_pipeline" if tta else "test_pipeline"}')
    first, *rest = leave_out_label_loading(pipeline)
    if class_of(first, TRANSFORMS) is LoadImageFromFile:
        named = {key: value for key, value in first.items() if key not in ('type', '_scope_')}
        first = {**named, 'type': LoadCheckedImage}
    return TRANSFORMS.build(first), Compose(rest)


def _test_pipeline(cfg):
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while dataset and 'pipeline' not in dataset:
        dataset = (dataset.get('datasets') or [None])[0] or dataset.get('dataset')
    return (dataset or {}).get('pipeline') or cfg.get('test_pipeline')
