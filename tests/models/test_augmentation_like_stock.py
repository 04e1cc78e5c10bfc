"""Augmentation on the device draws from the distributions of the stock transforms."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.structures import PixelData
from mmseg.registry import TRANSFORMS
from mmseg.structures import SegDataSample

from mita_seg.models import BatchSegDataPreProcessor

DRAWS = 600
WINDOW = (48, 48)
# Two samples of one distribution differ by more in one of 1,000 cases (Kolmogorov and Smirnov).
LARGEST_DISTANCE = 1.95 * (2 / DRAWS) ** 0.5
GEOMETRY = [
    {'type': 'RandomResize', 'scale': (256, 64), 'ratio_range': (0.5, 2.0), 'keep_ratio': True},
    {'type': 'RandomCrop', 'crop_size': WINDOW, 'cat_max_ratio': 0.75},
    {'type': 'RandomFlip', 'prob': 0.5},
]
COLOURS = [{'type': 'PhotoMetricDistortion'}]


def distance(first, second, rounding=0.0):
    """Largest distance between two cumulative distributions, for values that were rounded."""
    places = np.concatenate((first, second))

    def share(sample, offset):
        return np.searchsorted(np.sort(sample), places + offset, 'right') / len(sample)

    return max(
        (share(first, 0) - share(second, rounding)).max(),
        (share(second, 0) - share(first, rounding)).max(),
    )


def stock(image, labels, transforms):
    """Augmented images [H, W, 3], BGR, and labels, as the stock transforms make them."""
    transforms = Compose([TRANSFORMS.build(transform) for transform in transforms])
    for _ in range(DRAWS):
        results = transforms(
            {
                'img': image.copy(),
                'gt_seg_map': labels.copy(),
                'seg_fields': ['gt_seg_map'],
                'img_shape': image.shape[:2],
            }
        )
        yield results['img'], results['gt_seg_map']


def ours(image, labels, size, **options):
    preprocessor = BatchSegDataPreProcessor(size, bgr_to_rgb=True, seg_pad_val=255, **options)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels)[None]))
    data = {
        'inputs': [torch.from_numpy(image.transpose(2, 0, 1).copy())] * DRAWS,
        'data_samples': [sample] * DRAWS,
    }
    batch = preprocessor(data, training=True)
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        labels = sample.gt_sem_seg.data[0].numpy()
        rows, columns = (labels != 255).any(1).sum(), (labels != 255).any(0).sum()
        image = image.flip(0).permute(1, 2, 0).numpy()[:rows, :columns]
        yield image, labels[:rows, :columns]


def assert_alike(drawn, figures, rounding=1e-6):
    """All figures of the two ways' images have one mean, spread and distribution."""
    samples = [np.array([figures(*pair) for pair in pairs]).T for pairs in drawn]
    for first, second in zip(*samples, strict=True):
        spread = first.std()
        assert abs(first.mean() - second.mean()) < 4 * spread * (2 / DRAWS) ** 0.5 + 0.5
        assert second.std() == pytest.approx(spread, rel=0.2, abs=1e-6)
        assert distance(first, second, rounding) < LARGEST_DISTANCE


@pytest.fixture(autouse=True)
def seeds():
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.mark.slow
def test_scales_places_and_flips():
    rows, columns = np.meshgrid(np.arange(60), np.arange(100), indexing='ij')
    image = np.stack((2 * columns, 3 * rows, 0 * rows), -1).astype(np.uint8)
    # Half of the image is one class: `cat_max_ratio` refuses many windows.
    labels = np.where(columns < 55, 3, rows // 20).astype(np.int64)

    def figures(image, labels):
        column, row = image[..., 0].astype(float), image[..., 1].astype(float)
        return (
            *labels.shape,
            column.mean(),
            row.mean(),
            np.ptp(column) / labels.shape[1],  # one by the scale
            column[:, -1].mean() > column[:, 0].mean(),  # mirrored or not
            (labels == 3).mean(),
        )

    options = {'scale': (256, 64), 'cat_max_ratio': 0.75, 'colour_prob': 0}
    assert_alike((stock(image, labels, GEOMETRY), ours(image, labels, WINDOW, **options)), figures)


def test_colours():
    draw = np.random.default_rng(0)
    image = cv2.GaussianBlur(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8), (3, 3), 0)
    image[..., 0] //= 2
    labels = np.zeros((24, 24), np.int64)

    def figures(image, labels):
        pixels = image.astype(float)
        spread = pixels.max(-1) - pixels.min(-1)
        return (*pixels.mean((0, 1)), pixels.std(), spread.mean(), *np.ptp(pixels, axis=(0, 1)))

    still = {'ratio_range': (1, 1), 'flip_prob': 0}
    drawn = stock(image, labels, COLOURS), ours(image, labels, (24, 24), **still)
    assert_alike(drawn, figures, rounding=1.5)  # stock images are rounded several times
