"""Twelve drawn images of three places, and their masks in every format that is read."""

import json

import numpy as np
from PIL import Image

NAMES = ['ground', 'house', 'tree']
COLOURS = [(90, 120, 60), (200, 60, 40), (20, 160, 30)]
SIZE = (72, 96)  # height, width


def stems():
    return [f'{place}_{number:02d}' for place in ('north', 'south', 'west') for number in range(4)]


def boxes(number):
    """A class and left, top, right, bottom of each box; the later ones lie over the earlier."""
    left = 4 * number
    return [(1, (left, 20, left + 40, 60)), (2, (left + 10, 30, left + 24, 50))]


def labels(number):
    mask = np.zeros(SIZE, np.uint8)
    for index, (left, top, right, bottom) in boxes(number):
        mask[top:bottom, left:right] = index
    return mask


def draw_images(folder, ending='.jpg'):
    folder.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(stems()):
        pixels = np.array(COLOURS, np.uint8)[labels(number)]
        noise = np.random.default_rng(number).integers(-20, 20, pixels.shape)
        pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f'{stem}{ending}')


def draw(folder, kind):
    """Draw the images and, in the format named `kind`, the masks."""
    draw_images(folder / 'images')
    globals()[f'_{kind}'](folder)
    return folder


def _save_masks(folder, picture_of):
    (folder / 'masks').mkdir()
    for number, stem in enumerate(stems()):
        picture_of(labels(number)).save(folder / 'masks' / f'{stem}.png')


def _index(folder):
    _save_masks(folder, Image.fromarray)
    (folder / 'classes.txt').write_text('\n'.join(NAMES))


def _palette(folder):
    def picture_of(mask):
        picture = Image.fromarray(mask)
        picture.putpalette([part for colour in COLOURS for part in colour])
        return picture

    _save_masks(folder, picture_of)
    (folder / 'classes.json').write_text(json.dumps(NAMES))


def _colour(folder):
    _save_masks(folder, lambda mask: Image.fromarray(np.array(COLOURS, np.uint8)[mask]))
    lines = [f'{name},{r},{g},{b}' for name, (r, g, b) in zip(NAMES, COLOURS, strict=True)]
    (folder / 'class_dict.csv').write_text('\n'.join(['name,r,g,b', *lines]))


def _coco(folder):
    content = {'images': [], 'annotations': []}
    content['categories'] = [{'id': 7, 'name': NAMES[1]}, {'id': 9, 'name': NAMES[2]}]
    for number, stem in enumerate(stems()):
        image = {'id': number, 'file_name': f'{stem}.jpg', 'height': SIZE[0], 'width': SIZE[1]}
        content['images'].append(image)
        for index, (left, top, right, bottom) in reversed(boxes(number)):
            content['annotations'].append(
                {
                    'image_id': number,
                    'category_id': {1: 7, 2: 9}[index],
                    'area': (right - left) * (bottom - top),
                    'segmentation': [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    (folder / 'instances.json').write_text(json.dumps(content))


def _labelme(folder):
    for number, stem in enumerate(stems()):
        shapes = [
            {
                'label': NAMES[index],
                'shape_type': 'rectangle' if index == 1 else 'polygon',
                'points': [[left, top], [right, bottom]]
                if index == 1
                else [[left, top], [right, top], [right, bottom], [left, bottom]],
            }
            for index, (left, top, right, bottom) in boxes(number)
        ]
        content = {'imagePath': f'{stem}.jpg', 'imageHeight': SIZE[0], 'imageWidth': SIZE[1]}
        path = folder / 'images' / f'{stem}.json'
        path.write_text(json.dumps({**content, 'shapes': shapes}))
