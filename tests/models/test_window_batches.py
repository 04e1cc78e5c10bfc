import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS

from mita_seg.models.segmentors.window_batches import WindowBatches
from support.small_segmentor import CONFIG


class Batched(WindowBatches, EncoderDecoder):
    """An EncoderDecoder with batches of windows."""


def segmentors(**test_cfg):
    """A stock segmentor and one of the same weights that batches windows."""
    test_cfg = ConfigDict(mode='slide', crop_size=(32, 32), stride=(24, 20), **test_cfg)
    stock = MODELS.build({'type': 'EncoderDecoder', **CONFIG, 'test_cfg': test_cfg}).eval()
    batched = Batched(**{**CONFIG, 'test_cfg': test_cfg}).eval()
    batched.load_state_dict(stock.state_dict())
    return stock, batched


@pytest.mark.parametrize('size', [(32, 32), (33, 75), (24, 90), (100, 56)])
@pytest.mark.parametrize('number', [1, 3, 100])
def test_logits_are_those_of_one_window_after_the_other(size, number):
    images = torch.randn(2, 3, *size)
    metas = [{'ori_shape': size, 'img_shape': size, 'pad_shape': size}] * 2
    stock, batched = segmentors(window_batch=number)
    with torch.no_grad():
        expected = stock.inference(images, [dict(meta) for meta in metas])
        got = batched.inference(images, metas)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert metas[0]['img_shape'] == size  # the caller's stay as they are


def test_as_many_windows_as_asked_for_go_through_the_model_at_once(monkeypatch):
    _, batched = segmentors(window_batch=3)
    seen = []
    extract = batched.extract_feat
    monkeypatch.setattr(batched, 'extract_feat', lambda x: seen.append(len(x)) or extract(x))
    with torch.no_grad():
        batched.predict(torch.randn(1, 3, 56, 52))  # two by two windows
    assert seen == [3, 1]
