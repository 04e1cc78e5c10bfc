"""Reading every image once."""

import pickle

from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CacheInMemory(BaseTransform):
    """Run transforms once for each sample and hand out the same result ever after.

    A sample is all that the data set says of it: the same image with another label map, another
    ``label_map`` or ``reduce_zero_label`` is another sample.

    For a data set that fits in memory (CamVid: 0.25 GB by PackSegViews), with ``num_workers=0``:
    every worker process would keep images of its own. The results are shared, so whatever follows
    must not change them in place; :class:`mita_seg.models.BatchSegDataPreProcessor` does not.

    Args:
        transforms (list[dict]): Transforms without randomness, from loading on.
    """

    def __init__(self, transforms):
        self.transforms = Compose(transforms)
        self.kept = {}

    def transform(self, results):
        """Look the sample up, or make it, by everything that the transforms are given."""
        # Before they run: they add to `results`, and to the lists in it.
        key = pickle.dumps(results)
        if key not in self.kept:
            self.kept[key] = self.transforms(results)
        # A new dict: the collate function and loops may add or remove keys.
        return dict(self.kept[key])

    def __repr__(self):
        return f'{type(self).__name__}(transforms={self.transforms})'
