"""Reading every image once."""

from mmcv.transforms import BaseTransform, Compose
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class CacheInMemory(BaseTransform):
    """Run transforms once for each image and hand out the same result ever after.

    For a data set that fits in memory (CamVid: 0.9 GB as packed samples), with ``num_workers=0``:
    every worker process would keep images of its own. The results are shared, so whatever follows
    must not change them in place; :class:`mita_seg.models.BatchSegDataPreProcessor` does not.

    Args:
        transforms (list[dict]): Transforms without randomness, from loading on.
    """

    def __init__(self, transforms):
        self.transforms = Compose(transforms)
        self.kept = {}

    def transform(self, results):
        """Look the sample up, or make it, by its ``img_path``."""
        path = results['img_path']
        if path not in self.kept:
            self.kept[path] = self.transforms(results)
        # A new dict: the collate function and loops may add or remove keys.
        return dict(self.kept[path])

    def __repr__(self):
        return f'{type(self).__name__}(transforms={self.transforms})'
