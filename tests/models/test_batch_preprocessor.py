from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch._dynamo.exc import TorchDynamoException

from mita_seg.augment import JoinedImages
from mita_seg.datasets import join_samples
from mita_seg.models import BatchSegDataPreProcessor, batch_preprocessor, compiling

OPTIONS = {
    'mean': [127.5] * 3,
    'std': [127.5] * 3,
    'bgr_to_rgb': True,
    'pad_val': 0,
    'seg_pad_val': 255,
    'test_cfg': {'size_divisor': 16},
}
STILL = {'ratio_range': (1, 1), 'flip_prob': 0, 'colour_prob': 0}


def batch(*sizes):
    """uint8 images and their samples."""
    samples = [
        SegDataSample(
            metainfo={'img_path': f'{index}.jpg', 'ori_shape': size},
            gt_sem_seg=PixelData(data=torch.randint(0, 11, (1, *size))),
        )
        for index, size in enumerate(sizes)
    ]
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    return {'inputs': images, 'data_samples': samples}


def test_without_augmentation_it_is_the_stock_preprocessor():
    data = batch((32, 48), (32, 48))
    ours = BatchSegDataPreProcessor((32, 48), **STILL, **OPTIONS)(data, training=True)
    stock = SegDataPreProcessor(size=(32, 48), **OPTIONS)(data, training=True)
    torch.testing.assert_close(ours['inputs'], stock['inputs'], atol=1e-4, rtol=0)
    for got, expected in zip(ours['data_samples'], stock['data_samples'], strict=True):
        assert torch.equal(got.gt_sem_seg.data, expected.gt_sem_seg.data)
        assert got.img_path == expected.img_path


def test_samples_of_the_data_set_are_left_as_they_are():
    data = batch((32, 48), (32, 48))
    before = [sample.clone() for sample in data['data_samples']]
    got = BatchSegDataPreProcessor((16, 16), **OPTIONS)(data, training=True)
    assert got['inputs'].shape == (2, 3, 16, 16)
    assert got['data_samples'][0].gt_sem_seg.shape == (16, 16)
    for sample, old in zip(data['data_samples'], before, strict=True):
        assert torch.equal(sample.gt_sem_seg.data, old.gt_sem_seg.data)
        assert sample.metainfo == old.metainfo


def test_outside_of_the_image_is_padding():
    data = batch((32, 48))
    preprocessor = BatchSegDataPreProcessor((64, 96), **{**STILL, 'colour_prob': 1}, **OPTIONS)
    got = preprocessor(data, training=True)
    padding = got['data_samples'][0].gt_sem_seg.data[0] == 255
    assert padding.sum() > 64 * 96 // 2
    assert (got['inputs'][0, :, padding] == 0).all()


def test_whole_images_are_padded_for_testing_as_in_the_stock_preprocessor():
    data = batch((360, 480))
    ours = BatchSegDataPreProcessor((352, 480), **OPTIONS)(data)
    stock = SegDataPreProcessor(size=(352, 480), **OPTIONS)(data)
    assert ours['inputs'].shape == (1, 3, 368, 480)
    assert torch.equal(ours['inputs'], stock['inputs'])


def test_images_of_several_sizes_make_one_batch():
    data = batch((20, 32), (32, 48), (64, 40))
    got = BatchSegDataPreProcessor((32, 32), **STILL, **OPTIONS)(data, training=True)
    assert got['inputs'].shape == (3, 3, 32, 32)
    first = got['data_samples'][0].gt_sem_seg.data[0]
    assert torch.equal(first[:20], data['data_samples'][0].gt_sem_seg.data[0])
    assert (first[20:] == 255).all()


def test_labels_of_another_size_than_their_image_are_refused():
    data = batch((32, 32), (32, 32))
    data['inputs'][1] = data['inputs'][1][:, :16]
    with pytest.raises(ValueError, match=r"got \(32, 32\) for '1\.jpg' of \(16, 32\)"):
        BatchSegDataPreProcessor((16, 16), **OPTIONS)(data, training=True)


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('scale', (512,), r'scale must be \(long edge, short edge\) in pixels, got \(512,\)'),
        ('cat_max_ratio', 0, 'cat_max_ratio must be above 0 and at most 1, got 0'),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        BatchSegDataPreProcessor((16, 16), **OPTIONS, **{name: value})


def test_processes_of_a_distributed_training_draw_different_windows(monkeypatch):
    results = []
    for rank in (0, 1):
        monkeypatch.setattr('mita_seg.models.batch_preprocessor.get_rank', lambda rank=rank: rank)
        torch.manual_seed(0)
        data = batch((64, 64))
        results.append(BatchSegDataPreProcessor((16, 16), **OPTIONS)(data, training=True))
    assert not torch.equal(results[0]['inputs'], results[1]['inputs'])


def test_training_without_labels_names_the_image():
    data = batch((32, 32))
    del data['data_samples'][0].gt_sem_seg
    with pytest.raises(ValueError, match=r"needs labels, '0\.jpg' has none"):
        BatchSegDataPreProcessor((16, 16), **OPTIONS)(data, training=True)


@pytest.mark.parametrize('removed', [('_channel_conversion', '_enable_normalize'), ()])
def test_channels_are_turned_whatever_the_base_class_calls_it(removed):
    """Upstream's base class has other private attributes than the maintained one."""
    data = batch((32, 48))
    ours = BatchSegDataPreProcessor((32, 48), **STILL, **OPTIONS)
    stock = SegDataPreProcessor(size=(32, 48), **OPTIONS)(data, training=True)
    for name in removed:
        ours.__dict__.pop(name, None)
    got = ours(data, training=True)
    torch.testing.assert_close(got['inputs'], stock['inputs'], atol=1e-4, rtol=0)


def test_labels_of_16_bits_stay_what_they_are():
    data = batch((32, 48))
    labels = data['data_samples'][0].gt_sem_seg.data
    labels[0, 0, :5] = torch.tensor([255, 300, 32768, 65534, 65535])
    got = BatchSegDataPreProcessor((32, 48), **STILL, **OPTIONS)(data, training=True)
    assert torch.equal(got['data_samples'][0].gt_sem_seg.data, labels)
    assert got['data_samples'][0].gt_sem_seg.data.dtype == torch.int64


def test_other_maps_are_not_dropped_but_refused():
    data = batch((32, 32))
    data['data_samples'][0].gt_edge_map = PixelData(data=torch.zeros(1, 32, 32))
    with pytest.raises(ValueError, match=r"'0\.jpg' also has gt_edge_map"):
        BatchSegDataPreProcessor((16, 16), **OPTIONS)(data, training=True)


def test_batch_augments_are_called_on_the_finished_batch():
    seen = []

    def augment(images, samples):
        seen.append((tuple(images.shape), len(samples), images.max() <= 1))
        return -images, samples[::-1]

    data = batch((32, 48), (32, 48))
    options = {**STILL, **OPTIONS}
    plain = BatchSegDataPreProcessor((32, 48), **options)(data, training=True)
    got = BatchSegDataPreProcessor((32, 48), **options, batch_augments=augment)(data, training=True)
    assert seen == [((2, 3, 32, 48), 2, True)]
    assert torch.equal(got['inputs'], -plain['inputs'])
    assert [s.img_path for s in got['data_samples']] == ['1.jpg', '0.jpg']


def test_batch_augments_that_cannot_be_called_are_refused():
    with pytest.raises(TypeError, match=r"batch_augments must be callable.*'MixUp'"):
        BatchSegDataPreProcessor((16, 16), **OPTIONS, batch_augments=[{'type': 'MixUp'}])


def test_grey_images_change_in_brightness_and_contrast():
    data = batch((32, 48))
    data['inputs'] = [image[:1] for image in data['inputs']]
    options = {**OPTIONS, 'mean': None, 'std': None}
    still = BatchSegDataPreProcessor((32, 48), **STILL, **options)(data, training=True)
    torch.testing.assert_close(still['inputs'][0], data['inputs'][0].float(), atol=1e-3, rtol=0)
    colour = {**STILL, 'colour_prob': 1}
    got = BatchSegDataPreProcessor((32, 48), **colour, **options)(data, training=True)
    assert got['inputs'].shape == (1, 1, 32, 48)
    assert not torch.equal(got['inputs'], still['inputs'])


def test_images_of_four_channels_keep_their_order_and_their_colours():
    data = batch((32, 48))
    data['inputs'] = [torch.cat((image, image[:1])) for image in data['inputs']]
    options = {**OPTIONS, 'mean': None, 'std': None}
    got = BatchSegDataPreProcessor((32, 48), **STILL, **options)(data, training=True)
    torch.testing.assert_close(got['inputs'][0], data['inputs'][0].float(), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match='images of 1 or 3 channels, got 4'):
        BatchSegDataPreProcessor((32, 48), **{**STILL, 'colour_prob': 1}, **options)(
            data, training=True
        )


@pytest.mark.slow
@pytest.mark.parametrize('cat_max_ratio', [1.0, 0.2])
def test_one_compiled_program_augments_batches_of_all_sizes(cat_max_ratio, monkeypatch):
    program = torch.compile(
        batch_preprocessor._augment, dynamic=False, backend='aot_eager', fullgraph=True
    )
    monkeypatch.setattr(batch_preprocessor, '_compiled_augment', lambda: program)
    options = {**OPTIONS, 'cat_max_ratio': cat_max_ratio}
    eager, compiled = (
        BatchSegDataPreProcessor((32, 48), **options, compiled=compiled)
        for compiled in (False, True)
    )
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for seed, sizes in enumerate((((20, 32), (32, 48)), ((64, 40), (32, 48)), ((9, 9), (80, 99)))):
        data = batch(*sizes)
        results = []
        for preprocessor in (eager, compiled):
            torch.manual_seed(seed)
            results.append(preprocessor(data, training=True))
        torch.testing.assert_close(results[1]['inputs'], results[0]['inputs'])
        for got, expected in zip(*(result['data_samples'] for result in results), strict=True):
            assert torch.equal(got.gt_sem_seg.data, expected.gt_sem_seg.data)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


@pytest.mark.parametrize('compiled', [None, True])
def test_what_cannot_be_compiled_is_said_once_or_raised(compiled, monkeypatch):
    calls, said = [], []

    def fail(*_):
        calls.append(1)
        raise TorchDynamoException('no\ncompiler')

    monkeypatch.setattr(batch_preprocessor, '_compiled_augment', lambda: fail)
    monkeypatch.setattr(compiling, 'print_log', lambda text, *_: said.append(text))
    monkeypatch.setattr(
        BatchSegDataPreProcessor, 'device', SimpleNamespace(type='cuda'), raising=False
    )
    preprocessor = BatchSegDataPreProcessor((32, 48), **OPTIONS, compiled=compiled)
    monkeypatch.setattr(preprocessor, '_to_device', lambda tensor: tensor)
    data = join_samples(
        [{'inputs': i, 'data_samples': s} for i, s in zip(*batch((32, 48)).values(), strict=True)]
    )
    monkeypatch.setattr(JoinedImages, 'to', lambda self, device: self)
    if compiled:
        with pytest.raises(TorchDynamoException, match='no\ncompiler'):
            preprocessor(data, training=True)
        return
    for _ in range(2):
        assert preprocessor(data, training=True)['inputs'].shape == (1, 3, 32, 48)
    assert len(calls) == 1
    assert said == ['Images are augmented without torch.compile: TorchDynamoException: no compiler']
