"""Whether a config asks for label maps that its data set does not have."""

from mmcv.transforms import LoadAnnotations as AnyAnnotations
from mmseg.datasets.transforms import (
    LoadAnnotations,
    LoadBiomedicalAnnotation,
    LoadBiomedicalData,
    LoadDepthAnnotation,
)
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS, TRANSFORMS

from .loading import LoadCheckedLabels

_KNOWN = ('mmcv', 'mmseg', 'mita_seg')
_LABEL_LOADING = (AnyAnnotations, LoadBiomedicalAnnotation, LoadDepthAnnotation)
_OTHER_LOADING = (*_LABEL_LOADING, LoadBiomedicalData)


def find_label_loading(pipeline):
    """Find the transform that loads label maps, also inside others such as CacheInMemory.

    Args:
        pipeline (Sequence): Configs of transforms, or lists of them.

    Returns:
        tuple[type, dict] | None: Its class, ``LoadAnnotations`` or one derived from it, and config.
    """
    return find_transform(pipeline, LoadAnnotations)


def find_transform(pipeline, kind):
    """Find the first transform of a class, also inside others such as CacheInMemory.

    Args:
        pipeline (Sequence): Configs of transforms, or lists of them.
        kind (type): The class.

    Returns:
        tuple[type, dict] | None: Its class, `kind` or one derived from it, and config.
    """
    return next((found for found in _transforms(pipeline) if _is_a(found[0], kind)), None)


def leave_out_label_loading(pipeline):
    """Take the loading of label maps out of a pipeline, also within others such as TestTimeAug.

    Args:
        pipeline (Sequence): Configs of transforms, or lists of them; left as it is.

    Returns:
        list: The configs without it, and without lists that held nothing else.
    """
    kept = []
    for transform in pipeline:
        if isinstance(transform, (list, tuple)):
            transform = leave_out_label_loading(transform)
            if not transform:
                continue
        elif isinstance(transform, dict):
            if _is_a(class_of(transform, TRANSFORMS), _LABEL_LOADING):
                continue
            if transform.get('transforms'):
                transform = {
                    **transform,
                    'transforms': leave_out_label_loading(transform['transforms']),
                }
        kept.append(transform)
    return kept


def require_labels(cfg, loader, samples, pipeline):
    """Refuse data without label maps where training, a metric or the pipeline reads them.

    Args:
        cfg (Config): The config, for its evaluators.
        loader (str): Name of the data loader in it.
        samples (list[dict]): The samples of its data set.
        pipeline (Sequence): The data set's pipeline.

    Raises:
        ValueError: There are no label maps, or nothing loads them, but they are needed.
    """
    loading = find_label_loading(pipeline)
    if not any('seg_map_path' in sample for sample in samples):
        lacking = f'{loader}: the data set has no label maps (data_prefix names no seg_map_path)'
        # Ours lets samples without label maps pass.
        if loading and not issubclass(loading[0], LoadCheckedLabels):
            raise ValueError(f'{lacking}, but its pipeline loads them ({loading[0].__name__})')
        # Labels may be drawn by a transform that is not known here.
        if loader == 'train_dataloader' and not loading:
            return
    elif not loading and _is_without_labels(pipeline, cfg):
        lacking = f'{loader}: no transform of the pipeline loads label maps (LoadCheckedLabels)'
    else:
        return
    if loader == 'train_dataloader':
        raise ValueError(f'{lacking}, but training needs them')
    evaluator = loader.replace('dataloader', 'evaluator')
    for metric in _metrics(cfg.get(evaluator)):
        kind = class_of(metric, METRICS)
        if _is_a(kind, IoUMetric) and not metric.get('format_only'):
            raise ValueError(
                f'{lacking}, but {evaluator} compares with them ({kind.__name__}); '
                'format_only=True and output_dir=FOLDER make it write the predictions instead'
            )


def _transforms(pipeline):
    """Class and config of every transform, also of those inside others."""
    for transform in pipeline or ():
        if isinstance(transform, dict):
            yield class_of(transform, TRANSFORMS), transform
            yield from _transforms(transform.get('transforms'))
        elif isinstance(transform, (list, tuple)):
            yield from _transforms(transform)
        else:
            yield type(transform), {}


def _is_without_labels(pipeline, cfg):
    """Whether it is sure that a pipeline loads no labels: no transform is a stranger."""
    kinds = [kind for kind, _ in _transforms(pipeline)]
    return (
        bool(kinds)
        and all(str(getattr(kind, '__module__', '')).split('.')[0] in _KNOWN for kind in kinds)
        and not any(_is_a(kind, _OTHER_LOADING) for kind in kinds)
        and not find_label_loading(cfg.get('tta_pipeline'))  # it may be used in its place
    )


def _metrics(evaluator):
    """The metrics of a metric, a list of them, or an evaluator with ``metrics``."""
    metrics = evaluator.get('metrics', evaluator) if isinstance(evaluator, dict) else evaluator
    metrics = [metrics] if isinstance(metrics, dict) else metrics
    return [metric for metric in metrics or () if isinstance(metric, dict)]


def class_of(config, registry):
    """The class that a config names, in its scope.

    Args:
        config (dict): With `type`, a name or the class itself, and perhaps `_scope_`.
        registry (Registry): Where names are looked up.

    Returns:
        type | None: The class; None where the name is unknown.
    """
    kind = config.get('type')
    if not isinstance(kind, str):
        return kind
    if '_scope_' not in config:
        return registry.get(kind)
    with registry.switch_scope_and_registry(config['_scope_']) as scoped:
        return scoped.get(kind)


def _is_a(kind, classes):
    return isinstance(kind, type) and issubclass(kind, classes)
