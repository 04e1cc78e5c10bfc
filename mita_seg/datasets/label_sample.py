"""A look at some images and label maps of a data set, for what training would not notice."""

import copy

import numpy as np
from mmseg.registry import TRANSFORMS

from .label_need import find_label_loading, find_transform
from .loading import LoadCheckedImage, LoadCheckedLabels
from .orientation import exif_orientation

_LOOKED_AT = 32


def spread(samples):
    """Some samples, evenly spread over the data set.

    Args:
        samples (Sequence[dict]): All of them.

    Returns:
        list[dict]: 32 of them, or all where there are fewer.
    """
    places = np.linspace(0, len(samples) - 1, min(len(samples), _LOOKED_AT)).round().astype(int)
    return [samples[place] for place in places]


class SeenLabels:
    """The labels in some label maps of a training set, which may have several parts."""

    def __init__(self):
        self.maps = 0
        self.classes = set()
        self.ignored = None
        self.why_ignored = ''

    def look(self, dataset, samples, pipeline):
        """Read images and label maps as the pipeline does, as far as it loads them.

        Args:
            dataset (BaseSegDataset): The data set.
            samples (Sequence[dict]): Those of its samples that are to be read.
            pipeline (Sequence): Configs of its transforms.

        Raises:
            FileNotFoundError, ValueError: As :class:`LoadCheckedImage` and
                :class:`LoadCheckedLabels`, where the pipeline has them.
        """
        images = find_transform(pipeline, LoadCheckedImage)
        samples = _with_images(samples, images and TRANSFORMS.build(images[1]))
        kind, config = find_label_loading(pipeline) or (None, None)
        if kind is None:
            for _ in samples:
                pass
            return
        load = TRANSFORMS.build(config)
        checked = isinstance(load, LoadCheckedLabels)
        ignored = load.ignore_index if checked else dataset.ignore_index
        for sample, size in samples:
            if 'seg_map_path' not in sample:
                continue
            try:
                labels = load({**copy.deepcopy(sample), **size})['gt_seg_map']
                values = np.unique(labels).tolist()
            # The stock transform answers in many ways: training will, too.
            except Exception as error:
                if checked and isinstance(error, (FileNotFoundError, ValueError)):
                    raise
                continue
            self.maps += 1
            if ignored in values:
                self.ignored = ignored
                self.why_ignored = ' (and so is 0: reduce_zero_label)' * dataset.reduce_zero_label
            self.classes.update(value for value in values if value != ignored)

    def warning(self):
        """A sentence if there is nothing to tell apart.

        Returns:
            str | None: The sentence.
        """
        if not self.maps or len(self.classes) > 1:
            return None
        held = f'class {next(iter(self.classes))} alone' if self.classes else 'no class at all'
        beside = advice = ''
        if self.ignored is not None:
            beside = f' beside {self.ignored}, which is ignored{self.why_ignored}'
            advice = '; if an ignored label means a class, it needs an index of its own'
        return (
            f'the label maps looked at ({self.maps}) hold {held}{beside}: a model learns nothing '
            f'from them, whatever accuracy it reports{advice}'
        )


def _with_images(samples, load):
    """Samples, each with the size of its image, which is loaded for that if `load` is given."""
    for sample in samples:
        results = load(copy.deepcopy(sample)) if load else {}
        yield sample, {key: results[key] for key in ('ori_shape', 'img_shape') if key in results}


def warn_of_orientations(samples):
    """A sentence if images have an EXIF orientation.

    Args:
        samples (Sequence[dict]): The samples whose ``img_path`` is looked at.

    Returns:
        str | None: The sentence.
    """
    turned = []
    for sample in samples:
        try:
            if exif_orientation(sample['img_path']) != 1:
                turned.append(sample['img_path'])
        # Loading names damaged files; Pillow has half a dozen exceptions for them.
        except Exception:
            continue
    if not turned:
        return None
    return (
        f'{len(turned)} of {len(samples)} images looked at have an EXIF orientation, such as '
        f'{turned[0]!r}: their label maps must show the pixels as stored, as LoadCheckedImage '
        'reads them (LoadImageFromFile turns the image alone)'
    )
