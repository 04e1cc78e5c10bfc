"""The program: files of every kind in and out, its report, and what it refuses."""

import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from mita_seg.checkpoint import load_checkpoint_safely
from mita_seg.conversion.position_embedding import resize_position_embedding
from support import conversion_cases as cases


class RunsCode:
    """A pickle of this runs a shell command when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def convert(tool, capsys):
    """Run the program; returns what it prints."""

    def run(*arguments):
        tool('convert_checkpoint').main(list(map(str, arguments)))
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(tool, capsys):
    """Run the program on something it must refuse; returns the sentence."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit:
            tool('convert_checkpoint').main(list(map(str, arguments)))
        assert exit.value.code == 2
        return capsys.readouterr().err

    return run


# Every source as a file holds it; with registers, DWC or a gate it fits ours alone.
SOURCES = {
    'timm': cases.timm_vit,
    'torch-deit': lambda: {'model': cases.timm_vit()},
    'augreg-npz': cases.augreg,
    'dino': lambda: {'teacher': cases.timm_vit(classifier=False)},
    'dinov2': cases.dinov2,
    'mita-deit': lambda: {
        'model': cases.mita_deit(dwc=False),
        'args': Namespace(pool_size=5, kv_topk=5),
    },
    'mmseg': lambda: {'state_dict': cases.mmseg()},
    'mita_seg': lambda: {'state_dict': cases.ours()},
}


@pytest.mark.parametrize('named', [True, False], ids=['named', 'auto'])
@pytest.mark.parametrize('target', ['mita_seg', 'mmseg'])
@pytest.mark.parametrize('source', SOURCES)
def test_every_pair_makes_weights_that_load(convert, tmp_path, source, target, named):
    models = pytest.importorskip('mmseg.models')
    from mita_seg.models import MiTAVisionTransformer

    path = tmp_path / ('in.npz' if source == 'augreg-npz' else 'in.pth')
    content = SOURCES[source]()
    if path.suffix == '.npz':
        np.savez(path, **content)
    else:
        torch.save(content, path)
    out = convert(path, tmp_path / 'out.pth', '--from', source if named else 'auto', '--to', target)
    assert out.startswith(f'source: {source}\n') and 'missing: none' in out
    if target == 'mita_seg':
        model = MiTAVisionTransformer(**cases.MODEL)
    else:
        options = {name: value for name, value in cases.MODEL.items() if name != 'attn_cfg'}
        model = models.backbones.VisionTransformer(**options, patch_bias=True)
    model.load_state_dict(load_checkpoint_safely(tmp_path / 'out.pth')['state_dict'], strict=True)
    told = source == 'mita-deit' and target == 'mmseg'
    assert ('the stock classes compute full attention' in out) is told
    assert ('attn_cfg=' in out) is (source == 'mita-deit' and target == 'mita_seg')


@pytest.mark.parametrize(
    ('weights', 'what'),
    [
        (cases.mita_deit, 'depthwise convolution'),
        (lambda: cases.mita_deit(dwc=False, gate=True), 'gate'),
        (lambda: cases.dinov2(registers=4), 'registers'),
    ],
)
def test_what_the_stock_class_lacks_is_refused(refused, tmp_path, weights, what):
    torch.save({'model': weights()}, tmp_path / 'in.pth')
    assert what in refused(tmp_path / 'in.pth', tmp_path / 'out.pth', '--to', 'mmseg')
    assert not (tmp_path / 'out.pth').exists()


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_jax_to_stock_class(convert, tmp_path, ending):
    if ending == '.safetensors':
        pytest.importorskip('safetensors')
    models = pytest.importorskip('mmseg.models')
    source, made = tmp_path / 'augreg.npz', tmp_path / f'vit{ending}'
    np.savez(source, **cases.augreg())
    out = convert(source, made, '--from', 'augreg-npz', '--to', 'mmseg', '--img-size', 48, 32)
    assert 'head/kernel (of a classifier or a projection head)' in out
    weights = load_checkpoint_safely(made)
    options = {name: value for name, value in cases.MODEL.items() if name != 'attn_cfg'}
    options |= {'img_size': (48, 32), 'patch_bias': True}
    model = models.backbones.VisionTransformer(**options)
    model.load_state_dict(weights.get('state_dict', weights), strict=True)


def test_report_lists_every_name(convert, tmp_path):
    weights = cases.dinov2(registers=2)
    del weights['norm.bias']
    torch.save({'teacher': weights, 'optimizer': {'lr': 1}}, tmp_path / 'in.pth')
    lines = convert(tmp_path / 'in.pth', tmp_path / 'out.pth').splitlines()
    assert lines[0] == 'source: dinov2'
    for name in weights:
        assert any(name in line for line in lines), name
    assert '    blocks.1.norm2.bias -> layers.1.ln2.bias [32]' in lines
    last = 'blocks.0.mlp.fc2.bias, blocks.0.ls2.gamma -> layers.0.ffn.layers.1.bias [32]'
    assert f'    {last}' in lines
    assert lines[lines.index('beside the weights, left aside: 1') + 1] == '    optimizer'
    assert lines[lines.index('unused: 1') + 1] == '    mask_token (used in pretraining only)'
    assert 'ln1.bias' in lines[lines.index('missing: 1') + 1]
    assert any('num_registers=2' in line and 'patch_size=8' in line for line in lines)
    assert lines[-1] == f'wrote {tmp_path / "out.pth"}'


@pytest.mark.parametrize('endings', [('.pth', '.pth'), ('.safetensors', '.pth')])
def test_segmentor_there_and_back_through_files(convert, tmp_path, endings):
    if '.safetensors' in endings:
        pytest.importorskip('safetensors')
    registry = pytest.importorskip('mmseg.registry')
    vit = {n: v for n, v in cases.MODEL.items() if n != 'attn_cfg'}
    stock = registry.MODELS.build(
        {
            'type': 'mmseg.EncoderDecoder',
            'backbone': {'type': 'mmseg.VisionTransformer', 'patch_bias': True, **vit},
            'decode_head': {
                'type': 'mmseg.SegmenterMaskTransformerHead',
                'in_channels': 32,
                'channels': 32,
                'num_classes': 4,
                'num_layers': 1,
                'num_heads': 2,
                'embed_dims': 32,
            },
        }
    ).state_dict()
    first, second, third = (tmp_path / f'{i}{e}' for i, e in enumerate(('.pth', *endings)))
    meta = {'dataset_meta': {'classes': ('a', 'b', 'c', 'd')}}
    torch.save({'state_dict': stock, 'meta': meta, 'optimizer': {}}, first)
    lines = convert(first, second).splitlines()
    assert any('-> decode_head.layers.0.attn.proj.bias' in line for line in lines)
    assert '    optimizer' in lines
    assert ('    meta' in lines) is (endings[0] == '.safetensors')
    convert(second, third, '--to', 'mmseg')
    back = load_checkpoint_safely(third)
    assert back['state_dict'].keys() == stock.keys()
    assert all(torch.equal(back['state_dict'][name], stock[name]) for name in stock)
    assert back['meta'] == (meta if endings[0] == '.pth' else {})


def test_code_in_a_file_is_refused_by_name_and_not_run(refused, tmp_path):
    trace, evil = tmp_path / 'trace', RunsCode(f'touch {tmp_path / "trace"}')
    torch.save({'model': cases.timm_vit(), 'args': evil}, tmp_path / 'evil.pth')
    np.savez(tmp_path / 'evil.npz', **cases.augreg(), extra=np.array([evil], dtype=object))
    for name, what in (('evil.pth', 'system'), ('evil.npz', 'extra')):
        error = refused(tmp_path / name, tmp_path / 'out.pth')
        assert name in error and f'{what}, which is not plain data' in error
        assert not trace.exists() and not (tmp_path / 'out.pth').exists()


def test_bad_arguments_are_refused_before_any_work(refused, tmp_path):
    source = tmp_path / 'in.pth'
    torch.save(cases.timm_vit(), source)
    (tmp_path / 'there.pth').write_bytes(b'mine')
    assert 'must end in .safetensors or .pth' in refused(source, tmp_path / 'out.npz')
    assert "there.pth' exists" in refused(source, tmp_path / 'there.pth')
    assert 'is no writable folder' in refused(source, tmp_path / 'none/out.pth')
    assert "none.pth' does not exist" in refused(tmp_path / 'none.pth', tmp_path / 'out.pth')
    assert 'one or two numbers, got 3' in refused(source, 'out.pth', '--img-size', 1, 2, 3)
    message = refused(source, 'out.pth', '--pretrained-size', 1, 2, 3)
    assert '--pretrained-size takes one or two numbers, got 3' in message
    wrong = refused(source, tmp_path / 'out.pth', '--from', 'mmseg')
    assert "in.pth': the names are not those of mmseg but those of timm" in wrong
    assert not (tmp_path / 'out.pth').exists()
    assert (tmp_path / 'there.pth').read_bytes() == b'mine'


def test_existing_file_is_replaced_on_demand(convert, tmp_path):
    torch.save(cases.timm_vit(), tmp_path / 'in.pth')
    (tmp_path / 'out.pth').write_bytes(b'old')
    convert(tmp_path / 'in.pth', tmp_path / 'out.pth', '--overwrite')
    assert 'ln1.weight' in load_checkpoint_safely(tmp_path / 'out.pth')['state_dict']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.pth', 'out.pth']


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_parts_of_a_split_weight_are_written_alone(convert, tmp_path, ending):
    if ending == '.safetensors':
        pytest.importorskip('safetensors')
    torch.save({'model': cases.mita_deit(gate=True)}, tmp_path / 'gated.pth')
    convert(tmp_path / 'gated.pth', tmp_path / f'out{ending}')
    weights = load_checkpoint_safely(tmp_path / f'out{ending}')
    gate = weights.get('state_dict', weights)['layers.0.attn.gate.weight']
    assert gate.shape == (32, 32)
    size = (tmp_path / f'out{ending}').stat().st_size
    wanted = sum(value.nbytes for value in weights.get('state_dict', weights).values())
    assert wanted < size < 1.5 * wanted


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_full_disk_is_said_in_a_sentence_and_leaves_nothing(tmp_path, repository, ending):
    torch.save(cases.timm_vit(), tmp_path / 'in.pth')
    script = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.argv = ['convert', {str(tmp_path / 'in.pth')!r}, {str(tmp_path / f'out{ending}')!r}]
runpy.run_path({str(repository / 'tools/convert_checkpoint.py')!r}, run_name='__main__')
"""
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count('\n') == 1
    assert f"out{ending}': File too large" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


def test_meta_that_is_no_dict_is_left_aside(convert, tmp_path):
    torch.save({'state_dict': cases.timm_vit(), 'meta': 'text'}, tmp_path / 'in.pth')
    printed = convert(tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'beside the weights, left aside: 1\n    meta\n' in printed
    assert load_checkpoint_safely(tmp_path / 'out.pth')['meta'] == {}


def test_position_embedding_of_an_image_that_is_no_square(convert, refused, tmp_path):
    weights = cases.timm_vit()
    weights['pos_embed'] = torch.randn(1, 1 + 3 * 5, cases.WIDTH)
    source, made = tmp_path / 'wide.pth', tmp_path / 'made.pth'
    torch.save(weights, source)
    size = ('--pretrained-size', 24, 40)
    out = convert(source, made, *size, '--img-size', 48, 32)
    assert 'from 15 patches to 6x4' in out and 'img_size=(48, 32)' in out
    embedding = load_checkpoint_safely(made)['state_dict']['pos_embed']
    expected = resize_position_embedding(weights['pos_embed'], (3, 5), (6, 4))
    assert torch.equal(embedding, expected)
    assert 'not for 4x5 patches' in refused(
        source, tmp_path / 'no.pth', '--pretrained-size', 32, 40
    )
