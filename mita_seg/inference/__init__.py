"""Trained segmentors on pictures of one's own.

``segmentor`` calls a model on images, through the pipeline of its config (``pipeline``) and by
several sliding windows at a time (``windows``); ``classes`` knows their names and colours. For
whole folders ``sources`` finds images and videos, ``files`` writes label maps and overlays, and
``contact_sheet`` a page that shows them; ``predict`` ties these together.
"""

from .segmentor import Segmentor, load_segmentor

__all__ = ['Segmentor', 'load_segmentor']
