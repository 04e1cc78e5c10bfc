import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS
from PIL import Image

from dataset_converters.camvid import PARTS, check_source, write_camvid
from mita_seg.datasets import CacheInMemory, CamVidDataset, check_data
from mita_seg.datasets.camvid import CLASSES

LOAD = [{'type': 'LoadCheckedImage'}, {'type': 'LoadCheckedLabels', 'num_classes': 11}]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.fixture
def root(tmp_path):
    """Two images a part, of two pixels."""
    for part in PARTS:
        (tmp_path / f'{part}.txt').write_text(f'{part}_1\n{part}_0\n')
        for folder, suffix in (('images', 'jpg'), ('annotations', 'png')):
            (tmp_path / folder / part).mkdir(parents=True)
            for index in range(2):
                Image.new('L', (2, 1)).save(tmp_path / folder / part / f'{part}_{index}.{suffix}')
    return tmp_path


def names(root, split):
    dataset = CamVidDataset(data_root=str(root), split=split, pipeline=[])
    return [dataset.get_data_info(i)['img_path'].split('/')[-1] for i in range(len(dataset))]


def check(root, **options):
    dataset = {'type': 'CamVidDataset', 'data_root': str(root), 'pipeline': [], **options}
    check_data(Config({'train_dataloader': {'dataset': dataset}}))


def test_split_files_say_what_is_in_a_split_and_in_which_order(root):
    assert names(root, 'val') == ['val_1.jpg', 'val_0.jpg']
    assert names(root, 'trainval') == ['train_1.jpg', 'train_0.jpg', 'val_1.jpg', 'val_0.jpg']


def test_labels_lie_beside_their_images(root):
    for info in CamVidDataset(data_root=str(root), split='trainval').load_data_list():
        image, label = info['img_path'], info['seg_map_path']
        assert image.replace('/images/', '/annotations/').replace('.jpg', '.png') == label


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="train, val, test, trainval, got 'validation'"):
        CamVidDataset(split='validation')


def test_complete_folder_passes_the_check_before_training(root):
    check(root, split='trainval')


@pytest.mark.parametrize(
    ('missing', 'message'),
    [
        ('val.txt', r"split file '.*val\.txt' does not exist; tools/prepare_camvid"),
        (
            'images/val/val_1.jpg',
            r"1 of 4 images are missing: '.*val_1\.jpg'; tools/prepare_camvid",
        ),
        ('annotations/train/train_0.png', r'1 of 4 label maps are missing: .*train_0\.png'),
    ],
)
def test_missing_file_is_named_before_training(root, missing, message):
    (root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        check(root, split='trainval')


def test_missing_folder_says_what_makes_it(root):
    with pytest.raises(FileNotFoundError, match=r"data_root '.*gone' .*prepare_camvid"):
        check(root / 'gone')


def test_cache_reads_a_file_once_and_hands_out_new_dicts(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((4, 6, 3), 7, np.uint8))
    cache = CacheInMemory(transforms=LOAD[:1])
    first = cache({'img_path': str(path)})
    path.unlink()
    first.pop('img')
    assert (cache({'img_path': str(path)})['img'] == 7).all()


def test_cache_tells_samples_of_one_image_apart(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((4, 6, 3), np.uint8))
    for label in (1, 2):
        cv2.imwrite(str(tmp_path / f'{label}.png'), np.full((4, 6), label, np.uint8))
    cache = CacheInMemory(transforms=LOAD)

    def label(file, **options):
        sample = {'reduce_zero_label': False, 'label_map': None, **options, 'seg_fields': []}
        paths = {'img_path': str(tmp_path / 'a.png'), 'seg_map_path': str(tmp_path / file)}
        return cache({**paths, **sample})['gt_seg_map'].max()

    for _ in range(2):
        assert [label('1.png'), label('2.png')] == [1, 2]
        assert label('2.png', label_map={2: 5}) == 5
        assert label('2.png', reduce_zero_label=True) == 1
    assert len(cache.kept) == 4


def test_cache_reads_a_sample_of_a_data_set_once(root):
    for path in [*root.glob('images/val/*'), *root.glob('annotations/val/*')]:
        cv2.imwrite(str(path), np.zeros((4, 6), np.uint8))
    pipeline = [{'type': 'CacheInMemory', 'transforms': LOAD}]
    inner = CamVidDataset(data_root=str(root), split='val', pipeline=pipeline)
    for _ in range(3):
        assert all(inner[index] is not None for index in range(2))
    assert len(inner.pipeline.transforms[0].kept) == 2


@pytest.fixture
def segnet(tmp_path, monkeypatch):
    """One image a part in the layout of the SegNet tutorial."""
    monkeypatch.setattr('dataset_converters.camvid.PARTS', dict.fromkeys(PARTS, 1))
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for part in PARTS:
        for folder, pixels in ((part, np.zeros((3, 4, 3), np.uint8)), (f'{part}annot', labels)):
            (tmp_path / 'segnet' / folder).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / 'segnet' / folder / f'{part}_0.png'), pixels)
    return tmp_path / 'segnet'


def test_folder_written_from_segnets_copy_loads(segnet, tmp_path):
    check_source(segnet)
    write_camvid(segnet, tmp_path / 'out')
    check(tmp_path / 'out', split='trainval')
    dataset = CamVidDataset(data_root=str(tmp_path / 'out'), split='test', pipeline=LOAD)
    assert dataset[0]['gt_seg_map'].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 255]]


def test_another_folder_is_not_taken_for_segnets(segnet):
    (segnet / 'valannot' / 'val_0.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'val and valannot, got 1 and 0'):
        check_source(segnet)


@pytest.fixture(scope='session')
def camvid(data_root):
    """The real data set."""
    folder = data_root / 'camvid'
    if not folder.is_dir():
        pytest.skip(f'{data_root} holds no camvid')
    return folder


def test_real_splits_have_their_published_sizes(camvid):
    sizes = {'train': 367, 'val': 101, 'test': 233, 'trainval': 468}
    for split, size in sizes.items():
        check(camvid, split=split)
        assert len(CamVidDataset(data_root=str(camvid), split=split)) == size


def test_real_labels_have_the_named_classes(camvid):
    """Sky is at the top of a street scene and road at the bottom."""
    dataset = DATASETS.build(
        {'type': 'CamVidDataset', 'data_root': str(camvid), 'split': 'val', 'pipeline': LOAD}
    )
    maps = np.stack([dataset[index]['gt_seg_map'] for index in range(0, 100, 20)])
    assert maps.shape[1:] == (360, 480)
    rows = np.arange(360)[None, :, None] * np.ones_like(maps)
    height = {name: rows[maps == index].mean() for index, name in enumerate(CLASSES)}
    assert height['Sky'] < height['Building'] < height['Car'] < height['Road']
    assert set(np.unique(maps)) <= {*range(11), 255}
