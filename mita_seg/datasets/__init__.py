"""Data sets and checks of the data: registered on import, and a look at the folders."""

from .cache import CacheInMemory
from .camvid import CamVidDataset
from .join_samples import PackSegViews, join_samples
from .loading import LoadCheckedImage, LoadCheckedLabels
from .preflight import check_data, training_loaders
from .shapes_dataset import ShapesDataset
from .visualizer import StoredImageVisualizer

__all__ = [
    'CacheInMemory',
    'CamVidDataset',
    'LoadCheckedImage',
    'LoadCheckedLabels',
    'PackSegViews',
    'ShapesDataset',
    'StoredImageVisualizer',
    'check_data',
    'join_samples',
    'training_loaders',
]
