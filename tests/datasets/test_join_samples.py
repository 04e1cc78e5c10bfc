"""A joined batch holds what a list of samples holds, in one tensor."""

import copy

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmseg.datasets.transforms import PackSegInputs
from torch.utils.data import DataLoader

from mita_seg.datasets import PackSegViews, join_samples
from mita_seg.models import BatchSegDataPreProcessor

SIZES = [(20, 32), (32, 48), (64, 40)]
OPTIONS = {'mean': [127.5] * 3, 'std': [127.5] * 3, 'bgr_to_rgb': True, 'seg_pad_val': 255}


def read(channels=3, dtype=np.uint8):
    """What the loading transforms hand on."""
    draw = np.random.default_rng(0)
    shape = (channels,) if channels else ()
    return [
        {
            'img_path': f'{index}.jpg',
            'ori_shape': size,
            'img': draw.integers(0, 256, (*size, *shape), dtype=np.uint8),
            'gt_seg_map': draw.integers(0, 9, size).astype(dtype),
        }
        for index, size in enumerate(SIZES)
    ]


def packed(pack, results):
    return [pack().transform(copy.deepcopy(each)) for each in results]


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('channels', [None, 1, 3])
def test_views_are_what_the_stock_transform_packs(channels, dtype):
    results = read(channels, dtype)
    for ours, stock in zip(
        packed(PackSegViews, results), packed(PackSegInputs, results), strict=True
    ):
        assert torch.equal(ours['inputs'], stock['inputs'])
        labels, expected = (each['data_samples'].gt_sem_seg.data for each in (ours, stock))
        assert torch.equal(labels.long(), expected)
        assert labels.dtype == (torch.uint8 if dtype == np.uint8 else torch.int64)
        assert ours['data_samples'].metainfo == stock['data_samples'].metainfo


def test_views_share_the_memory_of_what_was_read():
    result = read()[0]
    sample = PackSegViews().transform(result)
    result['img'][0, 0, 2] ^= 255
    result['gt_seg_map'][0, 0] ^= 255
    assert sample['inputs'][2, 0, 0] == result['img'][0, 0, 2]
    assert sample['data_samples'].gt_sem_seg.data[0, 0, 0] == result['gt_seg_map'][0, 0]
    assert set(result) == {'img_path', 'ori_shape', 'img', 'gt_seg_map'}


def test_a_joined_batch_is_augmented_as_a_list_of_samples():
    preprocessor = BatchSegDataPreProcessor((32, 32), **OPTIONS, cat_max_ratio=0.5)
    batches = [
        pseudo_collate(packed(PackSegInputs, read())),
        pseudo_collate(packed(PackSegViews, read())),
        join_samples(packed(PackSegViews, read())),
    ]
    results = []
    for batch in batches:
        torch.manual_seed(0)
        results.append(preprocessor(batch, training=True))
    for result in results[1:]:
        assert torch.equal(result['inputs'], results[0]['inputs'])
        for got, expected in zip(result['data_samples'], results[0]['data_samples'], strict=True):
            assert torch.equal(got.gt_sem_seg.data, expected.gt_sem_seg.data)
            assert got.metainfo == expected.metainfo


@pytest.mark.parametrize('channels', [None, 1, 3])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_pixels_and_labels_are_those_that_were_joined(channels, dtype):
    results = read(channels, dtype)
    results[1]['gt_seg_map'] = results[1]['gt_seg_map'][:, :-1]  # bytes that are no multiple of 16
    results[1]['img'] = results[1]['img'][:, :-1]
    joined = join_samples(packed(PackSegViews, results))['inputs']
    assert joined.labels.dtype == (torch.uint8 if dtype == np.uint8 else torch.int16)
    for got, name in ((joined.pixels, 'img'), (joined.labels, 'gt_seg_map')):
        assert got.tolist() == np.concatenate([each[name].ravel() for each in results]).tolist()


@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.parametrize('workers', [0, 1])
def test_a_loader_hands_over_one_tensor(workers):
    samples = packed(PackSegViews, read())
    loader = DataLoader(samples, 3, num_workers=workers, collate_fn=join_samples, pin_memory=True)
    (batch,) = loader
    joined = batch['inputs']
    assert [name for name, part in vars(joined).items() if torch.is_tensor(part)] == ['memory']
    assert joined.pixels.dtype == joined.labels.dtype == torch.uint8
    assert joined.sizes == SIZES
    assert all('gt_sem_seg' not in sample for sample in batch['data_samples'])
    assert all('gt_sem_seg' in sample['data_samples'] for sample in samples)


def test_the_images_of_a_joined_batch_are_those_that_were_joined():
    samples = packed(PackSegInputs, read())
    joined = join_samples(samples)['inputs']
    assert len(joined) == 3
    for got, sample in zip(joined, samples, strict=True):
        assert torch.equal(got, sample['inputs'])
    assert torch.equal(joined[-1], samples[-1]['inputs'])
    assert [len(each) for each in (joined[:2], joined[1:], joined[5:])] == [2, 2, 0]
    with pytest.raises(IndexError):
        joined[3]


def test_images_of_different_channels_are_refused():
    samples = packed(PackSegViews, [read(3)[0], read(1)[1]])
    with pytest.raises(ValueError, match=r'have \[1, 3\] channels; one is needed'):
        join_samples(samples)
