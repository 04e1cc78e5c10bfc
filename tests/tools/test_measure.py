"""What is timed: the precision of training, and each model compiled, not the first few only."""

import pytest

pytest.importorskip('mmseg')

from types import SimpleNamespace

import torch
from mmengine import optim
from mmengine.config import Config

import mita_seg.models  # noqa: F401
from mita_seg.augment import JoinedImages
from mita_seg.comparison import measure


@pytest.mark.parametrize(
    ('optim_wrapper', 'dtype'),
    [
        (None, torch.float32),
        ({'type': 'OptimWrapper'}, torch.float32),
        ({'type': 'BFloat16OptimWrapper'}, torch.bfloat16),
        ({'type': 'AmpOptimWrapper'}, torch.get_autocast_dtype('cpu')),
        ({'type': 'AmpOptimWrapper', 'dtype': 'bfloat16'}, torch.bfloat16),
    ],
)
def test_forward_passes_run_in_the_precision_of_training(optim_wrapper, dtype):
    seen = set()

    class Model(torch.nn.Linear):
        def forward(self, x, mode):
            seen.add(super().forward(x).dtype)

    assert measure._time_forward(optim_wrapper, Model(4, 4), torch.randn(1, 4)) >= 0
    assert seen == {dtype}


@pytest.mark.parametrize('joined', [True, False])
def test_training_is_timed_with_batches_as_the_loader_hands_them_over(joined, monkeypatch):
    seen = []
    monkeypatch.setattr(optim, 'build_optim_wrapper', lambda model, options: None)
    monkeypatch.setattr(
        torch.nn.Linear, 'train_step', lambda self, data, _: seen.append(data), raising=False
    )
    model = torch.nn.Linear(1, 1)
    model.decode_head = SimpleNamespace(num_classes=3)
    loader = {'collate_fn': {'type': 'join_samples'}} if joined else {}
    cfg = Config({'train_dataloader': loader, 'optim_wrapper': None})
    measure.make_training_iteration(cfg, model, 2, 4, 6)()
    (data,) = seen
    if joined:
        assert isinstance(data['inputs'], JoinedImages)
        labels = data['inputs'].labels
        assert labels.dtype == torch.uint8
    else:
        labels = torch.stack([each.gt_sem_seg.data for each in data['data_samples']])
        assert labels.dtype == torch.int64
    assert [image.shape for image in data['inputs']] == [(3, 4, 6)] * 2
    assert labels.numel() == 2 * 4 * 6 and labels.max() <= 2


@pytest.mark.long
@pytest.mark.slow
def test_every_compiled_model_of_a_process_is_compiled(tmp_path):
    backbone = {'type': 'MiTAVisionTransformer', 'img_size': 32, 'patch_size': 8}
    head = {'type': 'MiTAMaskTransformerHead', 'in_channels': 32, 'num_classes': 3}
    sizes = {'embed_dims': 32, 'num_layers': 1, 'num_heads': 2}
    cfg = Config(
        {
            'crop_size': (32, 32),
            'model': {
                'type': 'CompiledEncoderDecoder',
                'compile_cfg': {'backend': 'eager', 'fullgraph': True},
                'data_preprocessor': {'type': 'SegDataPreProcessor', 'size': (32, 32)},
                'backbone': {**backbone, **sizes},
                'decode_head': {**head, **sizes},
                'test_cfg': {'mode': 'whole'},
            },
            'train_dataloader': {'batch_size': 1},
            'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}},
        }
    )
    # With more graphs than this of one function, the compiler gives up and 'fullgraph' raises.
    with torch._dynamo.config.patch(recompile_limit=1):
        for topk in (1, 2, 3):
            for part in ('backbone', 'decode_head'):
                attention = {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': topk}
                cfg.model[part].attn_cfg = attention
            path = tmp_path / f'{topk}.py'
            cfg.dump(path)
            assert measure.measure(path)['iter_ms'] > 0
