"""What importing mita_seg.models does."""

import subprocess
import sys

import pytest
import torch
from mmseg.registry import MODELS

import mita_seg.models  # noqa: F401
from mita_seg.layers import FullAttention, TransformerBlock


@pytest.mark.parametrize(
    'name',
    [
        'MiTAAttention',
        'FullAttention',
        'TransformerBlock',
        'MiTAVisionTransformer',
        'MiTAMaskTransformerHead',
    ],
)
def test_is_registered(name):
    assert MODELS.get(name) is not None


def test_block_is_built_around_a_ready_attention():
    attn = FullAttention(32, 2)
    block = MODELS.build({'type': 'TransformerBlock', 'embed_dims': 32, 'attn': attn})
    assert block.attn is attn


@pytest.mark.parametrize('given', [{}, {'attn': FullAttention(32, 2), 'attn_cfg': {}}])
def test_block_needs_exactly_one_attention(given):
    with pytest.raises(ValueError, match='exactly one of attn and attn_cfg'):
        MODELS.build({'type': 'TransformerBlock', 'embed_dims': 32, **given})


def test_block_is_built_from_configs_alone():
    block = MODELS.build(
        {
            'type': 'TransformerBlock',
            'embed_dims': 32,
            'num_heads': 2,
            'attn_cfg': {'type': 'MiTAAttention', 'landmarks': (2, 2), 'topk': 3},
            'norm_cfg': {'type': 'LN', 'eps': 1e-6},
            'drop_path': 0.1,
        }
    )
    assert isinstance(block, TransformerBlock) and block.ln1.eps == 1e-6
    assert block(torch.randn(1, 12, 32), (3, 4)).shape == (1, 12, 32)


@pytest.mark.parametrize('missing', ['mmseg', 'mmcv', 'mmengine'])
def test_a_missing_package_is_named_with_what_to_install(missing):
    script = f'import sys; sys.modules[{missing!r}] = None; import mita_seg.models'
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode and last.startswith('ImportError: mita_seg.models needs MMSegmentation')
    assert missing in last and 'its extra "mmseg"' in last
