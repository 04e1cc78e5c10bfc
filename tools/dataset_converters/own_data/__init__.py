"""A folder of images and masks made ready for training.

``masks``, ``coco`` and ``labelme`` find pairs of image and mask in what people have; a mask is
read to codes, integers that stand for an index, a colour or a category. ``class_list`` says which
code is which class, ``survey`` reads everything once and counts, ``splits`` keeps groups together.
``writer`` writes the data set, with ``chart`` and ``config`` beside it; ``prepare`` ties these
together.
"""

from .prepare import Options, examine, write

__all__ = ['Options', 'examine', 'write']
