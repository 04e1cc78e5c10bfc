"""Which way up images and label maps are read."""

from PIL import ExifTags, Image


def exif_orientation(path):
    """The orientation that an image file asks viewers for.

    Images and label maps are read as their pixels are stored, in training, evaluation and checks:
    :class:`LoadCheckedImage` leaves the EXIF orientation out, which the stock
    ``LoadImageFromFile`` applies. A label map is drawn on the array of pixels and carries no
    orientation of its own, so nothing but the stored pixels is sure to match it; where image and
    label map have the same stored size, which the loading requires, turning one of them alone would
    part them without a trace (orientations 2 to 4, and all of them in square images). A label map
    that was drawn on the turned image must be turned back, or the image saved as it is shown.
    In a TIFF the orientation is part of the format: decoders apply it, whoever asks.

    Args:
        path (str | os.PathLike): The image.

    Returns:
        int: 1 (as stored) to 8; 1 also where the file says nothing, and for TIFF.

    Raises:
        OSError: The file cannot be opened as an image.
    """
    with Image.open(path) as image:
        if image.format == 'TIFF':
            return 1
        return image.getexif().get(ExifTags.Base.Orientation, 1)
