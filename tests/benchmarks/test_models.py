import pytest
import torch

pytest.importorskip('mmseg')

from benchmarks.cases import Crop
from benchmarks.models import SIDES, benchmark_crop, make_config
from benchmarks.report import write_report

MICRO = 'configs/mita_segmenter_shapes/mita-segmenter_vit-micro_full_1xb4-500_shapes-128x128.py'
VIT_S = 'configs/mita_segmenter/mita-segmenter_vit-s_full_8xb1-160k_ade20k-512x512.py'


@pytest.mark.slow
def test_every_side_and_measure_is_timed(repository, tmp_path):
    rows = list(
        benchmark_crop(
            repository / MICRO,
            Crop(64, 2),
            device=torch.device('cpu'),
            dtype=torch.float32,
            rounds=3,
        )
    )
    measures = ('training step', 'inference', 'complete step')
    assert [(row['measure'], row['side']) for row in rows] == [
        (measure, side) for measure in measures for side in SIDES
    ]
    by_name = {(row['measure'], row['side']): row for row in rows}
    for (measure, _), row in by_name.items():
        assert row['status'] == 'ok', row['reason']
        full = by_name[measure, 'full']['eager_time_us']
        assert row['eager_time_ratio'] == pytest.approx(full / row['eager_time_us'])
    for side in SIDES:
        step, inference = by_name[measures[0], side], by_name[measures[1], side]
        assert step['eager_time_us'] > inference['eager_time_us']
    results = {'environment': {}, 'operator': [], 'model': rows}
    assert '| 64   | 2     | complete step | stock |' in write_report(tmp_path, results)


def test_sides_differ_in_attention_alone(repository):
    full, mita, stock = (make_config(repository / VIT_S, side, 1024).model for side in SIDES)
    for part in ('backbone', 'decode_head'):
        assert mita[part].pop('attn_cfg').type == 'MiTAAttention'
        assert full[part].pop('attn_cfg').type == 'FullAttention'
    assert full == mita
    assert full.backbone.img_size == full.data_preprocessor.size == (1024, 1024)
    assert full.backbone.pop('init_cfg') is None
    ours = {'type': 'MiTAVisionTransformer'}
    assert {**stock.backbone, **ours} == {**full.backbone, 'init_cfg': None, 'patch_bias': True}
    assert stock.decode_head.num_heads == 6


def test_a_swapped_model_is_no_full_attention(repository, tmp_path):
    path = tmp_path / 'swapped.py'
    swapped = "type='mita_seg.models.build_swapped', segmentor='EncoderDecoder', attn_cfg=dict()"
    path.write_text(f'_base_ = {str(repository / MICRO)!r}\nmodel = dict({swapped})\n')
    with pytest.raises(ValueError, match='must be of full attention'):
        make_config(path, 'full', 64)
