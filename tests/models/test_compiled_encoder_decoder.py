import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from functorch.compile import make_boxed_func
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import distributed
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel

from mita_seg.models import MiTAMaskTransformerHead, compiling
from support.small_segmentor import CONFIG


@pytest.fixture
def batch():
    label = torch.randint(0, 3, (1, 32, 32))
    return torch.randn(1, 3, 32, 32), [SegDataSample(gt_sem_seg=PixelData(data=label))]


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_the_plain_segmentor(batch):
    plain = MODELS.build({'type': 'EncoderDecoder', **CONFIG})
    # One graph without a break, or this raises.
    options = {'backend': 'eager', 'fullgraph': True}
    compiled = MODELS.build({'type': 'CompiledEncoderDecoder', 'compile_cfg': options, **CONFIG})
    compiled.load_state_dict(plain.state_dict(), strict=True)
    results = []
    for model in (plain, compiled):
        losses = model.loss(*batch)
        losses['decode.loss_ce'].backward()
        results.append([losses['decode.loss_ce'], *(p.grad for p in model.parameters())])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_by_default_only_images_on_a_cuda_device_are_compiled(batch, monkeypatch):
    asked, passed = [], []

    def compile(function, **options):
        asked.append(options)
        return lambda segmentor, images: passed.append(images) or [torch.zeros(1, 3, 4, 4)]

    monkeypatch.setattr(torch, 'compile', compile)
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG})
    model.loss(*batch)
    assert (asked, passed) == ([{'mode': 'reduce-overhead', 'dynamic': False}], [])
    images = SimpleNamespace(is_cuda=True)
    model.loss(images, batch[1])
    assert passed == [images]


def test_one_graph_where_gradients_are_summed_in_parts(batch, tmp_path):
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    config = {'type': 'CompiledEncoderDecoder', 'compile_cfg': {'backend': count}, **CONFIG}

    def train(images, samples):
        # Gone before the process group: else its reducer, which holds the GIL, may wait for ever
        # for threads of the group.
        model = DistributedDataParallel(MODELS.build(config), bucket_cap_mb=0.01)
        model(images, samples, mode='loss')['decode.loss_ce'].backward()

    store = distributed.FileStore(str(tmp_path / 'store'), 1)
    distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        train(*batch)
    finally:
        distributed.destroy_process_group()
    assert len(graphs) == 1


@pytest.mark.parametrize('frozen', [False, True])
def test_gradients_accumulate_over_graphs_that_write_to_the_same_memory(frozen, batch):
    """As CUDA graphs do, in which gradients stay where the backward pass has put them."""
    memory = {}

    def backward_in_place(graph, example_inputs):
        def run(*inputs):
            gradients = graph(*inputs)
            kept = memory.setdefault(id(graph), [None] * len(gradients))
            for place, gradient in enumerate(gradients):
                if kept[place] is None or gradient is None:
                    kept[place] = None if gradient is None else gradient.detach().clone()
                else:
                    kept[place].copy_(gradient)
            return [gradient if gradient is None else gradient.detach() for gradient in kept]

        return make_boxed_func(run)

    backend = aot_autograd(
        fw_compiler=lambda graph, example_inputs: make_boxed_func(graph.forward),
        bw_compiler=backward_in_place,
    )
    plain = MODELS.build({'type': 'EncoderDecoder', **CONFIG})
    compiled = MODELS.build(
        {'type': 'CompiledEncoderDecoder', 'compile_cfg': {'backend': backend}, **CONFIG}
    )
    compiled.load_state_dict(plain.state_dict(), strict=True)
    for model in (plain, compiled):
        model.decode_head.requires_grad_(not frozen)
        for images in (batch[0], -batch[0], batch[0] + 1):
            model.loss(images, batch[1])['decode.loss_ce'].backward()
    assert memory
    for got, expected in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_compiled_trains_eagerly_with_one_warning_or_is_raised(monkeypatch):
    said = []

    def fail(segmentor, images):
        raise TorchDynamoException('no\ncompiler')

    monkeypatch.setattr(torch, 'compile', lambda function, **options: fail)
    monkeypatch.setattr(EncoderDecoder, 'loss', lambda self, images, samples: 'losses')
    monkeypatch.setattr(compiling, 'print_log', lambda text, *_: said.append(text))
    images = SimpleNamespace(is_cuda=True)
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG})
    assert [model.loss(images, []) for _ in range(2)] == ['losses'] * 2
    assert said == ['The training pass is not compiled: TorchDynamoException: no compiler']
    asked = {'type': 'CompiledEncoderDecoder', 'compile_cfg': {'mode': 'default'}, **CONFIG}
    with pytest.raises(TorchDynamoException, match='no\ncompiler'):
        MODELS.build(asked).loss(images, [])


def test_a_copy_trains_its_own_weights(batch):
    model = MODELS.build(
        {'type': 'CompiledEncoderDecoder', 'compile_cfg': {'backend': 'eager'}, **CONFIG}
    )
    before = model.loss(*batch)['decode.loss_ce']
    other = copy.deepcopy(model)
    torch.nn.init.zeros_(other.decode_head.mask_norm.weight)
    assert other.loss(*batch)['decode.loss_ce'] != before
    assert model.loss(*batch)['decode.loss_ce'] == before


def test_a_pickled_model_is_whole_and_trains(batch, tmp_path):
    options = {'compile_cfg': {'backend': 'eager'}, **CONFIG}
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **options}).train()
    model.decode_head.layers[0].drop_path.prob = 0  # nothing random
    before = model.loss(*batch)['decode.loss_ce']
    torch.save(model, tmp_path / 'model.pth')
    others = (
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / 'model.pth', weights_only=False),
    )
    for other in others:
        assert torch.equal(other.loss(*batch)['decode.loss_ce'], before)
        assert other.compile_options == {'backend': 'eager'}


def modes(model):
    return [module.training for module in model.modules()]


def test_every_call_of_train_ends_as_the_usual_one():
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG})
    model.backbone.norm_eval = True
    usual = copy.deepcopy(model)
    changes = [
        lambda model: model.train(False),
        lambda model: model.decode_head.eval(),
        lambda model: model.backbone.layers[0].add_module('new', torch.nn.Dropout().eval()),
        lambda model: setattr(model.backbone.layers[0], 'new', torch.nn.Identity().eval()),
        lambda model: None,
    ]
    for change in changes:
        for mode in (True, False, True):
            for each in (model, usual):
                change(each)
            model.train(mode)
            EncoderDecoder.train(usual, mode)
            assert modes(model) == modes(usual)
    assert len(set(modes(model))) == 2  # some stay in evaluation mode


def test_train_sets_nothing_where_nothing_has_changed(monkeypatch):
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG}).train()
    calls = []
    monkeypatch.setattr(EncoderDecoder, 'train', lambda self, mode: calls.append(mode))
    assert model.train() is model and calls == []
    model.train(False)
    assert calls == [False]


def test_predicts_with_a_test_cfg_from_python(batch):
    model = MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG}).eval()
    (found,) = model.predict(batch[0])
    assert found.pred_sem_seg.shape == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize('number', [1, 2])
def test_auxiliary_heads_are_part_of_the_compiled_pass(number, batch):
    head = {
        **CONFIG['decode_head'],
        'loss_decode': {'type': 'CrossEntropyLoss', 'loss_weight': 0.4},
    }
    config = {**CONFIG, 'auxiliary_head': head if number == 1 else [head] * number}
    plain = MODELS.build({'type': 'EncoderDecoder', **config})
    options = {'backend': 'eager', 'fullgraph': True}
    compiled = MODELS.build({'type': 'CompiledEncoderDecoder', 'compile_cfg': options, **config})
    compiled.load_state_dict(plain.state_dict(), strict=True)
    expected, got = plain.loss(*batch), compiled.loss(*batch)
    assert len(expected) == 2 + 2 * number and expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-5, rtol=1e-4)


def test_heads_with_a_loss_of_their_own_are_refused(monkeypatch):
    monkeypatch.setattr(MiTAMaskTransformerHead, 'loss', lambda self: None)
    with pytest.raises(ValueError, match='MiTAMaskTransformerHead computes it in a way of its own'):
        MODELS.build({'type': 'CompiledEncoderDecoder', **CONFIG})
