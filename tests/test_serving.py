"""One model serves many threads, and its copies compute what it does."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from mita_seg import swap_attention

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict
from mmengine.model import ExponentialMovingAverage
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401
from support.small_segmentor import CONFIG

SIZES = [(32, 32), (32, 48), (40, 24), (48, 48), (64, 32)]
SLIDE = ConfigDict(mode='slide', crop_size=(32, 32), stride=(24, 24))


class PlainViT(nn.Module):
    """Patches and two blocks of PyTorch."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True) for _ in range(2)
        )

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x


def build(kind):
    """A model, and how it is called."""
    torch.manual_seed(0)
    if kind == 'swapped':
        attn_cfg = {'landmarks': (2, 2), 'topk': 3}
        return swap_attention(PlainViT(), attn_cfg, grid='patches').eval()
    if kind == 'backbone':
        return MODELS.build(CONFIG['backbone']).eval()
    model = MODELS.build({'type': kind, **CONFIG, 'test_cfg': SLIDE})
    for parameter in model.parameters():  # away from zeros, so that attention matters
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def run(model, images):
    if hasattr(model, 'inference'):
        meta = {'ori_shape': images.shape[2:], 'img_shape': images.shape[2:]}
        return model.inference(images, [dict(meta) for _ in images])
    output = model(images)
    return output[0] if isinstance(output, tuple) else output


KINDS = ['swapped', 'backbone', 'EncoderDecoder', 'CompiledEncoderDecoder']


def draw(size):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(size[0] * size[1]))


def resident_bytes():
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * 4096


def serve(model, expected, requests):
    """Images of all sizes in turn, from 8 threads."""

    def answer(number):
        size = SIZES[number % len(SIZES)]
        with torch.inference_mode():
            got = run(model, draw(size))
        torch.testing.assert_close(got, expected[size])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(requests)))


@pytest.fixture
def served(kind):
    model = build(kind)
    with torch.no_grad():
        expected = {size: run(build(kind), draw(size)) for size in SIZES}
    return model, expected


@pytest.mark.parametrize('kind', KINDS)
def test_threads_get_the_outputs_of_one(served):
    serve(*served, requests=40)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='no statm on this system')
@pytest.mark.parametrize('kind', ['CompiledEncoderDecoder'])
def test_two_thousand_requests_leave_the_memory_as_it_is(served):
    serve(*served, requests=400)
    before = resident_bytes()
    serve(*served, requests=2000)
    grown = resident_bytes() - before
    print(f'grown by {grown / 2**20:.1f} MiB')
    assert grown < 16 * 2**20


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    'deepcopy': copy.deepcopy,
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
    'torch.save': saved,
    'EMA': lambda model: ExponentialMovingAverage(model).module.eval(),
}


@pytest.mark.parametrize('way', COPIES)
@pytest.mark.parametrize('kind', KINDS)
def test_copies_compute_what_the_model_does(served, way):
    model, expected = served
    with torch.inference_mode():
        run(model, draw(SIZES[0]))  # what a first call keeps is copied as well
    twin = COPIES[way](model)
    for size in SIZES:
        with torch.no_grad():
            torch.testing.assert_close(run(twin, draw(size)), expected[size])
    with torch.no_grad():  # and has weights of its own
        for parameter in model.parameters():
            parameter.zero_()
        torch.testing.assert_close(run(twin, draw(SIZES[1])), expected[SIZES[1]])
