import warnings

import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from PIL import ExifTags, Image

from mita_seg.datasets import check_data, training_loaders


@pytest.fixture
def root(tmp_path):
    for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
        (tmp_path / folder / 'training').mkdir(parents=True)
        for index in range(5):
            Image.new('L', (2, 1)).save(tmp_path / folder / 'training' / f'{index}.{suffix}')
    return tmp_path


def config(root, **dataset):
    prefix = {'img_path': 'images/training', 'seg_map_path': 'annotations/training'}
    dataset = {
        'type': 'ADE20KDataset',
        'data_root': str(root),
        'data_prefix': prefix,
        'pipeline': [{'type': 'NeverBuilt'}],
        **dataset,
    }
    return Config({'train_dataloader': {'dataset': dataset}, 'val_dataloader': None})


def test_complete(root):
    check_data(config(root))


def test_missing_root_says_where_to_get_data(root):
    with pytest.raises(FileNotFoundError, match=r"train_dataloader: data_root '.*gone' .*prepare"):
        check_data(config(root / 'gone'))


def test_missing_folder(root):
    with pytest.raises(FileNotFoundError, match=r"seg_map_path '.*annotations/train'"):
        check_data(
            config(root, data_prefix={'img_path': 'images', 'seg_map_path': 'annotations/train'})
        )


def test_missing_labels_are_counted_and_named(root):
    for index in (1, 3):
        (root / f'annotations/training/{index}.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'2 of 5 label maps are missing: .*1\.png.*3\.png'):
        check_data(config(root))


def test_split_file(root):
    (root / 'split.txt').write_text('0\n7\n')
    with pytest.raises(FileNotFoundError, match=r'1 of 2 images are missing: .*7\.jpg'):
        check_data(config(root, ann_file='split.txt'))
    with pytest.raises(FileNotFoundError, match='nosplit.txt'):
        check_data(config(root, ann_file='nosplit.txt'))


def test_no_image(root):
    with pytest.raises(FileNotFoundError, match=r"no image \('\.tif'\)"):
        check_data(config(root, type='BaseSegDataset', img_suffix='.tif'))


def test_wrapped_data_sets_are_seen(root):
    inner = config(root / 'gone').train_dataloader.dataset
    for wrapper in (
        {'type': 'RepeatDataset', 'times': 2, 'dataset': inner},
        {'type': 'ConcatDataset', 'datasets': [inner]},
    ):
        with pytest.raises(FileNotFoundError, match='gone'):
            check_data(Config({'train_dataloader': {'dataset': wrapper}}))


def test_only_the_named_loaders(root):
    check_data(config(root / 'gone'), loaders=('test_dataloader',))


def test_training_reads_validation_data_if_it_validates():
    train, val = 'train_dataloader', 'val_dataloader'
    assert training_loaders(Config({'val_cfg': {'type': 'ValLoop'}})) == (train, val)
    assert training_loaders(Config({'val_cfg': None})) == training_loaders(Config({})) == (train,)


def test_unknown_data_sets_are_left_alone(root):
    check_data(Config({'train_dataloader': {'dataset': {'type': 'TheirDataset', 'root': 'x'}}}))
    check_data(config('s3://bucket', backend_args={'backend': 'petrel'}))


def write_pairs(folder, labels, split='training', image='.jpg'):
    """Images with these label maps beside them."""
    for kind in ('images', 'annotations'):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(labels):
        pixels = np.array(pixels, np.uint8)
        Image.fromarray(pixels).save(folder / f'images/{split}/{index}{image}')
        Image.fromarray(pixels).save(folder / f'annotations/{split}/{index}.png')
    return folder


LOAD = [
    {'type': 'LoadImageFromFile', '_scope_': 'mita_seg'},
    {'type': 'LoadAnnotations', '_scope_': 'mita_seg', 'num_classes': 2},
    {'type': 'PackSegInputs'},
]
STOCK = [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations'}, {'type': 'PackSegInputs'}]


def two_classes(root, pipeline=LOAD, **dataset):
    metainfo = {'classes': ('a', 'b'), 'palette': [[0, 0, 0], [1, 1, 1]]}
    return config(root, type='BaseSegDataset', metainfo=metainfo, pipeline=pipeline, **dataset)


def warnings_of(cfg, *arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        check_data(cfg, *arguments)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


@pytest.mark.parametrize(
    ('dataset', 'words'),
    [
        ({}, 'prepare_ade20k.py checks an ADE20K folder'),
        ({'type': 'CityscapesDataset'}, "the config's data set is of type CityscapesDataset"),
        ({'type': 'ShapesDataset'}, 'make_shapes_dataset.py'),
        ({'type': 'BaseSegDataset'}, 'is of type BaseSegDataset'),
    ],
)
def test_hint_is_about_the_data_set_of_the_config(root, dataset, words):
    with pytest.raises(FileNotFoundError, match=words) as refusal:
        check_data(config(root / 'gone', **dataset))
    assert 'ADE20K' not in str(refusal.value) or not dataset


@pytest.mark.parametrize('place', ['decode_head', 'auxiliary_head', 'list'])
def test_head_of_fewer_classes_than_the_data(tmp_path, place):
    cfg = two_classes(write_pairs(tmp_path, [[[0, 1]]]))
    cfg.train_dataloader.dataset.metainfo.classes = ('a', 'b', 'c')
    cfg.train_dataloader.dataset.metainfo.palette = [[0, 0, 0]] * 3
    good, bad = {'num_classes': 3}, {'num_classes': 2, 'out_channels': 1}
    cfg.model = {
        'decode_head': {'decode_head': bad, 'auxiliary_head': good, 'list': [good, bad]}[place],
        'auxiliary_head': [good, {'num_classes': 2}] if place == 'auxiliary_head' else None,
    }
    name = {'auxiliary_head': r'auxiliary_head\[1\]', 'list': r'decode_head\[1\]'}
    with pytest.raises(
        ValueError,
        match=rf'^model\.{name.get(place, place)}\.num_classes is 2, but the BaseSegDataset of '
        r'train_dataloader has 3 classes',
    ):
        check_data(cfg)


def test_head_of_more_classes_than_the_data_is_told(tmp_path):
    cfg = two_classes(write_pairs(tmp_path, [[[0, 1]]]))
    cfg.model = {'decode_head': {'num_classes': 19}}
    (sentence,) = warnings_of(cfg)
    assert 'model.decode_head.num_classes is 19' in sentence and 'has 2 classes' in sentence


@pytest.mark.parametrize('head', [{'num_classes': 1}, {'num_classes': 2, 'out_channels': 1}, {}])
def test_heads_of_one_channel_tell_two_classes_apart(tmp_path, head):
    cfg = two_classes(write_pairs(tmp_path, [[[0, 1]]]))
    # STDC's boundary head is none of the data's classes.
    boundary = {'num_classes': 3, 'out_channels': 1}
    cfg.model = {'decode_head': head, 'auxiliary_head': [boundary]}
    assert warnings_of(cfg) == []


@pytest.mark.parametrize('pipeline', [LOAD, STOCK, [{'type': 'CacheInMemory', 'transforms': LOAD}]])
def test_training_labels_of_one_class_alone_are_told(tmp_path, pipeline):
    root = write_pairs(tmp_path, [[[0, 255]]] * 40)
    (sentence,) = warnings_of(two_classes(root, pipeline))
    assert sentence.startswith('train_dataloader: the label maps looked at (32) hold class 0 alone')
    assert 'beside 255, which is ignored' in sentence
    # The last of the set is looked at, too.
    write_pairs(tmp_path / 'other', [[[0, 255]]] * 39 + [[[0, 1]]])
    assert warnings_of(two_classes(tmp_path / 'other', pipeline)) == []


def test_reduce_zero_label_that_leaves_one_class_is_told(tmp_path):
    root = write_pairs(tmp_path, [[[0, 1]]] * 3)
    (sentence,) = warnings_of(two_classes(root, reduce_zero_label=True))
    assert 'hold class 0 alone' in sentence and 'so is 0: reduce_zero_label' in sentence


def test_classes_may_lie_in_different_parts_of_a_training_set(tmp_path):
    parts = [write_pairs(tmp_path / str(label), [[[label, label]]]) for label in (0, 1)]
    datasets = [two_classes(part).train_dataloader.dataset for part in parts]
    wrapper = {'type': 'ConcatDataset', 'datasets': datasets}
    assert warnings_of(Config({'train_dataloader': {'dataset': wrapper}})) == []


def test_refused_training_label_is_named_before_training(tmp_path):
    root = write_pairs(tmp_path, [[[0, 1]], [[0, 9]]])
    with pytest.raises(ValueError, match=r"training/1\.png' holds 9"):
        check_data(two_classes(root))
    assert warnings_of(two_classes(root, STOCK)) == []


def test_images_with_an_orientation_are_told(tmp_path):
    root = write_pairs(tmp_path, [[[0, 1]]] * 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.new('RGB', (2, 1)).save(root / 'images/training/1.jpg', exif=exif)
    (sentence,) = warnings_of(two_classes(root))
    assert sentence.startswith('1 of 3 images looked at have an EXIF orientation')
    assert 'training/1.jpg' in sentence


@pytest.mark.parametrize('other', ['2.JPG', '2.jpeg'])
def test_images_skipped_for_their_suffix_are_told(root, other):
    (root / 'images/training/2.jpg').rename(root / 'images/training' / other)
    (sentence,) = warnings_of(config(root))
    assert (
        'holds images that are skipped (1)' in sentence
        and other in sentence
        and "'.jpg'" in sentence
    )
    # A split file says itself what belongs to the set.
    (root / 'split.txt').write_text('0\n1\n')
    assert warnings_of(config(root, ann_file='split.txt')) == []


def test_no_image_but_others_of_this_kind(root):
    for path in (root / 'images/training').iterdir():
        path.rename(path.with_suffix('.JPG'))
    with pytest.raises(FileNotFoundError, match=r"no image \('\.jpg'\).* skipped \(5\), .*0\.JPG"):
        check_data(config(root))


def unlabelled(root, loader, pipeline=LOAD, metric=None, **dataset):
    cfg = two_classes(root, pipeline, **{'data_prefix': {'img_path': 'images/training'}, **dataset})
    loaders = {f'{loader}_dataloader': cfg.train_dataloader}
    return Config({**loaders, f'{loader}_evaluator': metric})


IOU = {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}


@pytest.mark.parametrize('metric', [IOU, [IOU], {'type': 'Evaluator', 'metrics': [IOU]}])
def test_test_set_without_labels_is_refused_where_they_are_needed(root, metric):
    words = r'^test_dataloader: the data set has no label maps .*IoUMetric.*format_only=True'
    with pytest.raises(ValueError, match=words):
        check_data(unlabelled(root, 'test', metric=metric))


def test_test_set_without_labels_is_taken_where_predictions_are_written(root):
    metric = {**IOU, 'format_only': True, 'output_dir': 'x'}
    check_data(unlabelled(root, 'test', metric=metric))
    check_data(unlabelled(root, 'test', metric=None))
    with pytest.raises(ValueError, match=r'its pipeline loads them \(LoadAnnotations\)'):
        check_data(unlabelled(root, 'test', STOCK, metric=metric))


def test_labels_that_no_transform_loads(root):
    prefix = {'img_path': 'images/training', 'seg_map_path': 'annotations/training'}
    bare = [LOAD[0], LOAD[2]]
    words = r'^test_dataloader: no transform of the pipeline loads label maps .*format_only'
    with pytest.raises(ValueError, match=words):
        check_data(unlabelled(root, 'test', bare, IOU, data_prefix=prefix))
    # A transform that is not known here may do it.
    theirs = [*bare, {'type': 'TheirLabels'}]
    check_data(unlabelled(root, 'test', theirs, IOU, data_prefix=prefix))
    cfg = unlabelled(root, 'test', bare, IOU, data_prefix=prefix)
    cfg.tta_pipeline = LOAD
    check_data(cfg)


def test_training_set_without_labels(root):
    with pytest.raises(ValueError, match=r'^train_dataloader: .* no label maps .*training needs'):
        check_data(unlabelled(root, 'train'))


def test_one_process_of_a_run_warns(root, monkeypatch):
    (root / 'images/training/2.jpg').rename(root / 'images/training/2.JPG')
    monkeypatch.setenv('RANK', '1')
    assert warnings_of(config(root)) == []
