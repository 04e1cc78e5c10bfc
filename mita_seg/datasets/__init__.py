"""Checks of the data: transforms (registered on import) and a look at the folders."""

from .loading import LoadCheckedImage, LoadCheckedLabels
from .preflight import check_data

__all__ = ['LoadCheckedImage', 'LoadCheckedLabels', 'check_data']
