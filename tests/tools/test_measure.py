"""What is timed: the precision of training, and each model compiled, not the first few only."""

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.config import Config

import mita_seg.models  # noqa: F401
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
