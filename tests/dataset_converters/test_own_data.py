"""Folders of images and masks, in every format, and what is wrong with them."""

import json

import numpy as np
import pytest

from support import drawn_folders as drawn

pytest.importorskip('mmseg')

from PIL import ExifTags, Image

from dataset_converters.own_data import Options, examine, write
from dataset_converters.own_data.class_list import read_class_file
from dataset_converters.own_data.polygons import fill, fill_circle
from dataset_converters.own_data.run_lengths import decode_runs
from dataset_converters.own_data.splits import choose_validation, group_names


def prepared(folder, out, **options):
    said = []
    plan = examine(folder, out, Options(**options), say=said.append)
    write(plan, say=said.append)
    return plan, '\n'.join(said)


def written_labels(out):
    return {path.stem: np.asarray(Image.open(path)) for path in out.glob('annotations/*/*.png')}


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['index', 'palette', 'colour', 'coco', 'labelme'])
def test_every_format_gives_the_same_data_set(tmp_path, kind):
    plan, said = prepared(drawn.draw(tmp_path / kind, kind), tmp_path / 'out')
    names = ['background' if kind in ('coco', 'labelme') else 'ground', 'house', 'tree']
    assert plan.classes.names == names and not plan.problems
    if kind in ('palette', 'colour'):
        assert plan.classes.palette.tolist() == [list(colour) for colour in drawn.COLOURS]
    found = written_labels(tmp_path / 'out')
    for number, stem in enumerate(drawn.stems()):
        assert np.array_equal(found[stem], drawn.labels(number)), stem
    splits = [
        len(list((tmp_path / f'out/images/{s}').iterdir())) for s in ('training', 'validation')
    ]
    assert splits == [8, 4] and '3 groups' in said  # one place is held back as a whole
    assert len({name.split('_')[0] for name in names_of(tmp_path / 'out', 'validation')}) == 1
    for picture in ('class_frequencies.png', 'samples.png'):
        with Image.open(tmp_path / 'out' / picture) as image:
            assert min(image.size) > 100
    files = json.loads((tmp_path / 'out/dataset.json').read_text())['files']
    assert len(files) == 12


def names_of(out, split):
    return sorted(path.stem for path in (out / 'images' / split).iterdir())


def test_what_does_not_fit_is_named_and_left_out(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'index')
    stems = drawn.stems()
    (folder / 'masks' / f'{stems[0]}.png').unlink()
    (folder / 'images' / f'{stems[1]}.jpg').unlink()
    Image.fromarray(drawn.labels(2).T.copy()).save(folder / 'masks' / f'{stems[2]}.png')
    (folder / 'images' / f'{stems[3]}.jpg').write_bytes(b'broken')
    (folder / 'masks' / f'{stems[4]}.png').write_bytes(b'broken')
    plan, said = prepared(folder, tmp_path / 'out')
    assert {reason: len(files) for reason, files in plan.problems.items()} == dict.fromkeys(
        (
            'image without a mask',
            'mask without an image',
            'mask of another size than its image',
            'image that cannot be read',
            'mask that cannot be read',
        ),
        1,
    )
    assert f'left out, image without a mask: 1, such as {folder}/images/{stems[0]}.jpg' in said
    assert len(written_labels(tmp_path / 'out')) == 7


def test_values_that_are_no_class(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'index')
    (folder / 'classes.txt').write_text('ground\nhouse')
    with pytest.raises(ValueError, match=r'1 values of the masks are no class: 2 .*--ignore-unk'):
        examine(folder, tmp_path / 'out', say=lambda sentence: None)
    prepared(folder, tmp_path / 'out', ignore_unknown=True)
    expected = drawn.labels(0)
    expected[expected == 2] = 255
    assert np.array_equal(written_labels(tmp_path / 'out')['north_00'], expected)


def test_255_is_no_class_of_masks_without_a_list(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'index')
    (folder / 'classes.txt').unlink()
    expected = drawn.labels(0)
    expected[:5] = 255
    Image.fromarray(expected).save(folder / 'masks/north_00.png')
    plan, _ = prepared(folder, tmp_path / 'out')
    assert plan.classes.names == ['class 0', 'class 1', 'class 2']
    assert np.array_equal(written_labels(tmp_path / 'out')['north_00'], expected)


def test_classes_can_be_ignored(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'colour')
    plan, _ = prepared(folder, tmp_path / 'out', ignored=('ground',))
    assert plan.classes.names == ['house', 'tree']
    table = np.array([255, 0, 1])
    labels = written_labels(tmp_path / 'out')['north_00']
    assert np.array_equal(labels, table[drawn.labels(0)])
    with pytest.raises(ValueError, match="--ignore 'sea' is neither"):
        examine(folder, tmp_path / 'new', Options(ignored=('sea',)), say=lambda sentence: None)


def test_unlabelled_pixels_can_be_ignored(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'coco')
    plan, _ = prepared(folder, tmp_path / 'out', unlabelled='ignore')
    assert plan.classes.names == ['house', 'tree']
    assert set(np.unique(written_labels(tmp_path / 'out')['north_00'])) == {0, 1, 255}


def test_black_and_white_masks_beside_their_images(tmp_path):
    folder = tmp_path / 'given'
    drawn.draw_images(folder, '.JPG')
    for number, stem in enumerate(drawn.stems()):
        mask = np.where(drawn.labels(number) > 0, 255, 0).astype(np.uint8)
        Image.fromarray(np.stack([mask] * 3, axis=2)).save(folder / f'{stem}_mask.png')
    plan, _ = prepared(folder, tmp_path / 'out', group='none')
    assert plan.classes.names == ['background', 'foreground']
    assert np.array_equal(written_labels(tmp_path / 'out')['west_03'], drawn.labels(11) > 0)
    suffixes = {path.suffix for path in tmp_path.glob('out/images/*/*')}
    assert suffixes == {'.jpg'} and plan.splits.count('validation') in (2, 3)


def test_folders_that_name_the_split(tmp_path):
    folder = tmp_path / 'given'
    for number in range(12):
        split = ('train', 'val', 'test')[number % 3]
        for kind, pixels in (
            ('images', np.zeros((*drawn.SIZE, 3), np.uint8)),
            ('labels', drawn.labels(number)),
        ):
            path = folder / split / kind / f'{number // 3}.png'  # equal names in each split
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    plan, said = prepared(folder, tmp_path / 'out')
    assert plan.splits == ['test'] * 4 + ['training'] * 4 + ['validation'] * 4
    assert 'split as the folders name it' in said
    for path in (tmp_path / 'out/annotations').glob('*/*.png'):
        split, number = path.parent.name, int(path.stem[-1])
        number = 3 * number + ['training', 'validation', 'test'].index(split)
        assert np.array_equal(np.asarray(Image.open(path)), drawn.labels(number))


def test_images_of_several_kinds_become_png_of_the_stored_pixels(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'index')
    turned = folder / f'images/{drawn.stems()[0]}.jpg'
    pixels = np.random.default_rng(0).integers(0, 256, (*drawn.SIZE, 3), dtype=np.uint8)
    turned.unlink()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(pixels).save(turned.with_suffix('.png'), exif=exif)
    _, said = prepared(folder, tmp_path / 'out')
    assert '1 images have an EXIF orientation' in said
    (written,) = (tmp_path / 'out').glob(f'images/*/{turned.stem}.png')
    assert np.array_equal(np.asarray(Image.open(written)), pixels)


def test_a_third_folder_is_no_second_set_of_images(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'index')
    (folder / 'objects').mkdir()
    for stem in drawn.stems():
        Image.fromarray(drawn.labels(0)).save(folder / f'objects/{stem}.png')
    with pytest.raises(ValueError, match='no pair of image and mask'):
        examine(folder, tmp_path / 'out', say=lambda sentence: None)
    plan, _ = prepared(folder, tmp_path / 'out', images='images', masks='masks')
    assert len(plan.splits) == 12 and not plan.problems


def test_colours_without_a_list_are_told(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'colour')
    (folder / 'class_dict.csv').unlink()
    with pytest.raises(ValueError, match=r'the masks hold colours, \(90, 120, 60\) .*classes.txt'):
        examine(folder, tmp_path / 'out', say=lambda sentence: None)


def test_nothing_foreign_is_overwritten(tmp_path):
    folder = drawn.draw(tmp_path / 'given', 'index')
    for _ in range(2):  # what it wrote itself is replaced
        prepared(folder, tmp_path / 'out')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other/thesis.txt').touch()
    for out, words in (
        (tmp_path / 'other', 'holds other files'),
        (folder / 'out', 'lies in the folder'),
        (tmp_path, 'holds the folder'),
    ):
        with pytest.raises(ValueError, match=words):
            examine(folder, out)


def test_class_files(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return read_class_file(tmp_path / name)

    both = [('road sign', (1, 2, 3), 0), ('sky', (4, 5, 6), 1)]
    assert read('a.txt', 'road sign 1 2 3\nsky 4 5 6\n') == both
    assert read('a.txt', '# name and colour\n1 2 3 road sign\n4 5 6\tsky\n') == both
    assert read('a.csv', 'name,r,g,b\nroad sign,1,2,3\nsky,4,5,6\n') == both
    assert read('a.txt', 'road sign:1,2,3::\nsky:4,5,6::\n') == both
    assert read('a.json', '{"road sign": [1, 2, 3], "sky": [4, 5, 6]}') == both
    assert read('a.json', '[{"name": "sky", "color": [4, 5, 6], "value": 3}]')[0][2] == 3
    assert read('a.txt', 'area 51\nsky') == [('area 51', None, 0), ('sky', None, 1)]
    for text, words in (('', 'names no class'), ('a\na', "names 'a' twice"), ('a 1 2 256', '255')):
        with pytest.raises(ValueError, match=words):
            read('a.txt', text)


def test_groups():
    frames = ['seq1/frame_001', 'seq1/frame_002', 'seq2/frame_001', 'seq2/frame_002']
    assert group_names(frames) == ['seq1/', 'seq1/', 'seq2/', 'seq2/']
    assert group_names(['a_1', 'a_2', 'b_1', 'b_2']) == ['a', 'a', 'b', 'b']
    assert group_names(['img_1', 'img_2', 'img_3']) == ['img_1', 'img_2', 'img_3']  # one group
    assert group_names(['anna', 'bert']) == ['anna', 'bert']
    assert group_names(['1_a', '1_b', '2_a'], r'^(\d)_') == ['1', '1', '2']
    with pytest.raises(ValueError, match='does not match'):
        group_names(['a'], r'\d')


def test_validation_keeps_every_class_in_training():
    classes = np.zeros((10, 2), int)
    classes[:, 0], classes[3, 1] = 1, 1  # one image alone holds the second class
    for seed in range(5):
        chosen = choose_validation(list('abcdefghij'), classes, 0.3, seed)
        assert chosen.sum() == 3 and not chosen[3]
    with pytest.raises(ValueError, match='one group'):
        choose_validation(['a', 'a'], classes[:2], 0.3)


def test_outlines_fill_the_pixels_whose_centres_are_inside():
    canvas = np.zeros((6, 8), int)
    fill(canvas, [1, 1, 7, 1, 7, 5, 1, 5], 1)
    fill(canvas, [[-9, 2], [3, 2], [3, 3], [-9, 3]], 2)
    expected = np.zeros((6, 8), int)
    expected[1:5, 1:7], expected[2, :3] = 1, 2
    assert np.array_equal(canvas, expected)
    canvas[:] = 0
    fill(canvas, [1.6, 1.4, 4.4, 1.4, 4.4, 3.6, 1.6, 3.6], 1)
    assert np.argwhere(canvas).min(0).tolist() == [1, 2]
    assert np.argwhere(canvas).max(0).tolist() == [3, 3]
    triangle, circle = np.zeros((100, 100), int), np.zeros((100, 100), int)
    fill(triangle, [10, 10, 90, 10, 10, 90], 1)
    fill_circle(circle, (50, 50), 30, 1)
    assert abs(triangle.sum() - 3200) < 50 and abs(circle.sum() - np.pi * 900) < 20
    with pytest.raises(ValueError, match='three points'):
        fill(canvas, [1, 1, 2, 2], 1)


def test_run_lengths():
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)  # by columns: 2 zeros, 1 one, 1 zero, 2 ones
    assert np.array_equal(decode_runs({'size': [2, 3], 'counts': [2, 1, 1, 2]}, (2, 3)), mask)
    # As text: each count from the fourth on is the difference to the last but one.
    assert np.array_equal(decode_runs({'size': [2, 3], 'counts': '2111'}, (2, 3)), mask)
    long = decode_runs({'size': [10, 10], 'counts': [40, 60]}, (10, 10))
    assert np.array_equal(decode_runs({'size': [10, 10], 'counts': 'X1l1'}, (10, 10)), long)
    with pytest.raises(ValueError, match='do not fit'):
        decode_runs({'size': [2, 3], 'counts': [2]}, (2, 3))
