"""Spellings of file names' suffixes."""

_SAME = {'.jpeg': '.jpg', '.tiff': '.tif'}


def spelt_otherwise(name, suffix):
    """Whether a file is of a kind that a data set reads, but its suffix is spelt another way.

    Args:
        name (str): The file's name.
        suffix (str): The end of the names that the data set reads, ``'.jpg'`` or ``'_rgb.png'``.

    Returns:
        bool: True for ``'a.JPG'`` and ``'a.jpeg'`` where `suffix` is ``'.jpg'``.
    """
    return not name.endswith(suffix) and _spelling(name).endswith(_spelling(suffix))


def _spelling(name):
    name = name.lower()
    return next(
        (name.removesuffix(long) + short for long, short in _SAME.items() if name.endswith(long)),
        name,
    )
