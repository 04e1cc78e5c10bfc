"""A slip in attn_cfg ends a tool at once, in one sentence."""

import pytest

pytest.importorskip('mmseg')

CONFIG = """
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='MiTAVisionTransformer', attn_cfg=dict(type='MiTAAttention', topk=3)),
    decode_head=dict(type='MiTAMaskTransformerHead', attn_cfg=dict(type='FullAttention')))
"""
TOPKK = "MiTAAttention has no option 'topkk' (did you mean 'topk'?); it has "


@pytest.mark.parametrize('name', ['train', 'test', 'compare'])
@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ('backbone.attn_cfg.topkk=5', f'model.backbone.attn_cfg: {TOPKK}embed_dims, num_heads'),
        ('decode_head.attn_cfg.type=None', 'model.decode_head.attn_cfg must have the type of an'),
        ('backbone.attn_cfg.topk=-1', 'model.backbone.attn_cfg: topk must be at least 0, got -1'),
    ],
)
def test_a_slip_is_one_sentence(tool, tmp_path, capsys, name, change, sentence):
    config = tmp_path / 'config.py'
    config.write_text(CONFIG)
    arguments = [str(config), '--work-dir', str(tmp_path / 'run')]
    arguments += ['weights.pth'] if name == 'test' else []
    with pytest.raises(SystemExit) as end:
        tool(name).main([*arguments, '--cfg-options', f'model.{change}'])
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.count('\n') == 1
    assert message.startswith(f'{name}.py: {sentence}')
