"""Images of every kind and with lying headers, each made by a few lines of code."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

COLOUR = (200, 100, 50)  # red, green, blue of all pixels
SIZE = (12, 8)  # width, height


def encoded(image, kind, **options):
    """An image of Pillow as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_opencv(pixels, ending):
    """An array as the bytes of a file, which may have 16 bits or floats."""
    return cv2.imencode(ending, pixels)[1].tobytes()


def png(width, height, depth=8, kind=2, data=b''):
    """A PNG with any header; `data` is what it holds before compression."""
    content = b'\x89PNG\r\n\x1a\n'
    header = struct.pack('>4sIIBBBBB', b'IHDR', width, height, depth, kind, 0, 0, 0)
    for chunk in (header, b'IDAT' + zlib.compress(data), b'IEND'):
        content += struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
    return content


def plain():
    return Image.new('RGB', SIZE, COLOUR)


def jpeg(width, height):
    """A JPEG of 12x8 pixels whose header says another size."""
    data = bytearray(encoded(plain(), 'JPEG', quality=95, subsampling=0))
    place = data.index(b'\xff\xc0') + 5
    data[place : place + 4] = struct.pack('>HH', height, width)
    return bytes(data)


def bmp(width, height, offset=None):
    """A BMP of 12x8 pixels whose header says another size, or where the pixels begin."""
    data = bytearray(encoded(plain(), 'BMP'))
    data[18:26] = struct.pack('<ii', width, height)
    if offset is not None:
        data[10:14] = struct.pack('<I', offset)
    return bytes(data)


def kinds():
    """Images that are read, all of one colour, and the colour: red, green, blue.

    Returns:
        dict[str, tuple[bytes, tuple]]: By name.
    """
    image = plain()
    grey = Image.new('L', SIZE, 200)
    other = Image.new('RGB', SIZE, (1, 2, 3))
    wide = np.tile(np.array(COLOUR[::-1], np.uint16) * 257, (8, 12, 1))
    clear = image.convert('RGBA')
    clear.putalpha(0)
    several = {'save_all': True, 'append_images': [other]}
    white = (200, 200, 200)
    return {
        'rgb.png': (encoded(image, 'PNG'), COLOUR),
        'rgb.jpg': (encoded(image, 'JPEG', quality=95), COLOUR),
        'rgb.bmp': (encoded(image, 'BMP'), COLOUR),
        'rgb.ppm': (encoded(image, 'PPM'), COLOUR),
        'rgb.webp': (encoded(image, 'WEBP', lossless=True), COLOUR),
        'jpeg-called.png': (encoded(image, 'JPEG', quality=95), COLOUR),
        'grey.png': (encoded(grey, 'PNG'), white),
        'bits.png': (encoded(grey.point(lambda value: 255).convert('1'), 'PNG'), (255,) * 3),
        'grey-16.png': (by_opencv(np.full((8, 12), 200 * 257, np.uint16), '.png'), white),
        'grey-16.tif': (by_opencv(np.full((8, 12), 200 * 257, np.uint16), '.tif'), white),
        'rgb-16.png': (by_opencv(wide, '.png'), COLOUR),
        'alpha.png': (encoded(clear, 'PNG'), COLOUR),
        'grey-alpha.png': (encoded(grey.convert('LA'), 'PNG'), white),
        'palette.png': (encoded(image.quantize(4), 'PNG'), COLOUR),
        'palette-alpha.png': (encoded(image.quantize(4), 'PNG', transparency=0), COLOUR),
        'cmyk.jpg': (encoded(image.convert('CMYK'), 'JPEG', quality=95), COLOUR),
        'cmyk.tif': (encoded(image.convert('CMYK'), 'TIFF'), COLOUR),
        'frames.gif': (encoded(image.quantize(4), 'GIF', **several), COLOUR),
        'frames.png': (encoded(image, 'PNG', **several), COLOUR),
        'frames.webp': (encoded(image, 'WEBP', lossless=True, **several), COLOUR),
        'pages.tif': (encoded(image, 'TIFF', **several), COLOUR),
        'wide.png': (encoded(image.resize((65535, 1)), 'PNG'), COLOUR),
        'tall.png': (encoded(image.resize((1, 65535)), 'PNG'), COLOUR),
        'upside-down.bmp': (bmp(12, -8), COLOUR),
    }


def refused():
    """Files that are refused.

    Returns:
        dict[str, bytes]: By name.
    """
    data = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    noise_png, noise_jpg = (encoded(Image.fromarray(data), kind) for kind in ('PNG', 'JPEG'))
    flipped = bytearray(noise_png)
    flipped[500] ^= 4
    return {
        'empty.png': b'',
        'empty.jpg': b'',
        'page.png': b'<html>not found</html>',
        'half.png': noise_png[: len(noise_png) // 2],
        'half.jpg': noise_jpg[: len(noise_jpg) // 2],
        'flipped.png': bytes(flipped),
        'float.tif': by_opencv(np.full((8, 12), 0.5, np.float32), '.tif'),
        'huge.png': png(60000, 60000),
        'larger.png': png(12000, 12000),
        'short.png': png(100, 100, data=bytes(50)),
        'nothing.png': png(0, 10),
        'chunk.png': noise_png[:33] + b'\xff' + noise_png[34:],
        'chunks.png': noise_png[:29] + b'\xff' * 8 + noise_png[37:],  # no PNG for Pillow
        'last-chunk.png': noise_png[:-12] + b'\xff' + noise_png[-11:],
        'depth.png': png(10, 10, depth=3, data=bytes(400)),
        'huge.jpg': jpeg(60000, 60000),
        'larger.jpg': jpeg(12000, 8000),
        'nothing.jpg': jpeg(0, 0),
        'huge.bmp': bmp(10**6, 10**6),
        'larger.bmp': bmp(12000, 12000),
        'lowest.bmp': bmp(-(2**31), -(2**31)),
        'overflowing.bmp': bmp(2**16, 2**16 + 1),
        'offset.bmp': bmp(12, 8, offset=2**31),
        'huge.ppm': b'P6 100000 100000 255\n' + bytes(30),
        'larger.ppm': b'P6 1000 1000 255\n' + bytes(30),
    }
