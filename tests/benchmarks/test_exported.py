"""Exported ViT-T gives the labels of PyTorch by ONNX Runtime on a CPU."""

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('onnxscript', reason='onnxscript, of the extra export, is not installed')
pytest.importorskip('onnxruntime', reason='onnxruntime, of the extra export, is not installed')

from benchmarks import exported

pytestmark = pytest.mark.filterwarnings('ignore')


def lowest_share(tmp_path, cfg, size, count):
    """Of the pixels with equal labels in `count` images."""
    pair = exported.export_to_onnx(exported.build(cfg), size, str(tmp_path / 'model.onnx'))
    labels = pair.eager(exported.make_images((1, 3, *size)))
    assert len(labels.unique()) > 5  # they tell something
    return min(exported.equal_labels(pair, size, count))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize('name', ['full', 'mita-encdec'])
def test_labels_of_one_block_are_equal(tmp_path, name):
    cfg = exported.find_config(name)
    cfg.model.backbone.num_layers = cfg.model.decode_head.num_layers = 1
    assert lowest_share(tmp_path, cfg, (128, 96), 2) >= 0.9999


@pytest.mark.long
@pytest.mark.slow
def test_labels_of_mita_at_512_pixels_are_equal(tmp_path):
    """Of a few layers only: exporting all of them takes a minute and a half."""
    cfg = exported.find_config('mita-encdec')
    cfg.model.backbone.num_layers = 2
    assert lowest_share(tmp_path, cfg, exported.SIZE, 2) >= 0.9999


def test_models_are_timed_in_turn(monkeypatch):
    calls, now = [], iter(range(100))
    monkeypatch.setattr(exported.time, 'perf_counter', lambda: next(now))
    runs = [lambda images: calls.append('a'), lambda images: [next(now), calls.append('b')]]
    assert exported.latencies(runs, 'images', 3) == [[1e3] * 3, [2e3] * 3]
    assert calls == ['a', 'b'] * 5
