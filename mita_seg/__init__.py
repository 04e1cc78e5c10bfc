"""MiTA attention for semantic segmentation with MMSegmentation."""

__version__ = '0.1.0'
