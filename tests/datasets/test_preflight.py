import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config

from mita_seg.datasets import check_data


@pytest.fixture
def root(tmp_path):
    for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
        (tmp_path / folder / 'training').mkdir(parents=True)
        for index in range(5):
            (tmp_path / folder / 'training' / f'{index}.{suffix}').touch()
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


def test_unknown_data_sets_are_left_alone(root):
    check_data(Config({'train_dataloader': {'dataset': {'type': 'TheirDataset', 'root': 'x'}}}))
    check_data(config('s3://bucket', backend_args={'backend': 'petrel'}))
