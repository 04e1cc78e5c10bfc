"""Replayed inference gives what the model gives, whatever has happened to the model."""

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn

from mita_seg.models import CompiledEncoderDecoder  # noqa: F401
from mita_seg.models.segmentors import recorded_forward
from mita_seg.models.segmentors.recorded_forward import RecordedForward
from support.small_segmentor import CONFIG

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')


class Replays:
    """In place of a CUDA graph: the function, and a count of how often it was recorded."""

    def __init__(self, monkeypatch):
        self.recorded = 0

        def record(recorder, key, module, inputs):
            self.recorded += 1
            recorder._recordings[key] = self.make(recorder._function, module)

        monkeypatch.setattr(RecordedForward, '_record', record)
        monkeypatch.setattr(recorded_forward, '_is_plain_inference', lambda module, inputs: True)

    def make(self, function, module):
        recording = type('Recording', (), {})()
        recording.replay = lambda inputs: function(module, inputs)
        return recording


@pytest.fixture
def replays(monkeypatch):
    return Replays(monkeypatch)


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).eval()


def call(recorder, module, rows, times=3):
    for _ in range(times):
        recorder(module, torch.zeros(rows, 4))


def test_a_size_is_recorded_when_it_comes_a_third_time(replays, module):
    recorder = RecordedForward(lambda module, inputs: module(inputs))
    call(recorder, module, 2, 2)
    assert replays.recorded == 0
    call(recorder, module, 2, 4)
    assert replays.recorded == 1
    for rows in range(3, 20):
        call(recorder, module, rows, 5)
    assert replays.recorded == 8, 'the first eight'


def set_option(module):
    module[1].p = 0.25


def patch(module):
    module[0].forward = lambda inputs: inputs


def replace_a_part(module):
    module[0] = nn.Linear(4, 4)


def swap_weights(module):
    module[0].weight.data = module[0].weight.data.clone()


def swap_statistics(module):
    module[2].running_mean = module[2].running_mean.clone()


@pytest.mark.parametrize(
    'change', [set_option, patch, replace_a_part, swap_weights, swap_statistics]
)
def test_what_changes_the_result_is_recorded_anew(change, replays, module):
    recorder = RecordedForward(lambda module, inputs: module(inputs))
    call(recorder, module, 2)
    change(module)
    call(recorder, module, 2)
    assert replays.recorded == 2


def test_new_values_of_the_weights_are_followed_without_a_new_recording(replays, module):
    recorder = RecordedForward(lambda module, inputs: module(inputs))
    call(recorder, module, 2)
    with torch.no_grad():
        module[0].weight.mul_(2)
    call(recorder, module, 2)
    assert replays.recorded == 1


def test_training_frees_the_recordings(replays):
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG}).eval()
    metas = [{'img_shape': (32, 32)}]
    with torch.no_grad():
        for _ in range(3):
            model.encode_decode(torch.zeros(1, 3, 32, 32), metas)
    assert len(model._recorded_forward._recordings) == 1
    model.train()
    assert not model._recorded_forward._recordings


@NEEDS_GPU
def test_replayed_logits_are_those_of_the_model():
    torch.manual_seed(0)
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG}).cuda().eval()
    plain = MODELS.build(
        {'type': 'CompiledEncoderDecoder', 'inference_graphs': False, **CONFIG}
    ).cuda()
    plain.eval()
    metas = [{'img_shape': (32, 32)}] * 2
    with torch.no_grad():
        for round_ in range(3):
            plain.load_state_dict(model.state_dict())
            for _ in range(5):
                images = torch.randn(2, 3, 32, 32, device='cuda')
                got, expected = (each.encode_decode(images, metas) for each in (model, plain))
                torch.testing.assert_close(got, expected)
            assert len(model._recorded_forward._recordings) == 1
            for weight in model.parameters():  # in place, and then to another place
                weight.mul_(1.1)
                if round_ == 1:
                    weight.data = weight.data.clone()
    hooked = []
    model.backbone.register_forward_hook(lambda *_: hooked.append(True))
    with torch.no_grad():
        for _ in range(4):
            model.encode_decode(images, metas)
    assert len(hooked) == 4


@NEEDS_GPU
def test_a_model_that_waits_for_the_device_runs_as_it_is():
    recorder = RecordedForward(lambda module, inputs: module(inputs) * inputs.sum().item())
    module = nn.Linear(4, 4).cuda().eval()
    inputs = torch.ones(2, 4, device='cuda')
    with torch.no_grad():
        for _ in range(5):
            torch.testing.assert_close(recorder(module, inputs), module(inputs) * 8)
