"""Trained segmentors as files that run without this package: ONNX or PyTorch's exported program."""

from .export import Export, export_segmentor
from .formats import FORMATS, check_packages

__all__ = ['FORMATS', 'Export', 'check_packages', 'export_segmentor']
