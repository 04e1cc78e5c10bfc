import importlib.util
import json
import logging

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from mita_seg.export import check, export, formats

SIZE = (48, 32)  # of the images


@pytest.fixture
def onnxruntime():
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(package, reason=f'{package}, of the extra export, is not installed')
    return pytest.importorskip('onnxruntime')


@pytest.fixture(params=['MiTAAttention'])
def trained(shapes_configs, tmp_path, request):
    """A config of one block each in encoder and decoder, and a checkpoint of it."""
    path = tmp_path / 'config.py'
    path.write_text(
        f"""
_base_ = {shapes_configs[1]!r}
model = dict(
    data_preprocessor=dict(mean=[100, 110, 120], std=[50, 60, 70], size={SIZE}),
    backbone=dict(
        img_size={SIZE}, patch_size=8, num_layers=1,
        attn_cfg=dict(_delete_=True, type={request.param!r})),
    test_cfg=dict(mode='slide', crop_size={SIZE}, stride=(40, 30)))
"""
    )
    logging.disable(logging.CRITICAL)
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(path).model)
    model.init_weights()
    logging.disable(logging.NOTSET)
    for parameter in model.parameters():  # differences between patches come to count
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    meta = {'dataset_meta': {'classes': ('sky', 'road')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, tmp_path / 'weights.pth')
    return model.eval(), [str(path), str(tmp_path / 'weights.pth'), '--out']


def of_mmsegmentation(model, images):
    """Scores by MMSegmentation's own steps; the images as OpenCV reads them."""
    inputs = model.data_preprocessor({'inputs': list(images.flip(1))})['inputs']
    metas = [{'img_shape': SIZE, 'ori_shape': SIZE, 'pad_shape': SIZE}] * len(images)
    with torch.no_grad():
        return model.encode_decode(inputs, metas)


def refusal(tool, capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        tool('export').main(list(map(str, arguments)))
    assert end.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith('export.py: ')
    return message


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('trained', ['FullAttention'], indirect=True)  # which is quicker to export
def test_an_onnx_file_of_every_size_holds_the_whole_segmentor(
    tool, trained, tmp_path, capsys, onnxruntime
):
    model, arguments = trained
    out = tmp_path / 'model.onnx'
    tool('export').main([*arguments, str(out), '--dynamic'])
    said = capsys.readouterr().out
    assert f'wrote {out}; on images 1x3x48x32, 3x3x56x16, 1x3x16x16 scores differ by' in said
    session = onnxruntime.InferenceSession(str(out))
    images = 255 * torch.rand(2, 3, *SIZE)
    (scores,) = session.run(['scores'], {'images': images.numpy()})
    expected = of_mmsegmentation(model, images)
    torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-4, rtol=1e-4)
    described = session.get_modelmeta().custom_metadata_map
    assert described['channels'] == 'RGB'
    assert described['normalisation'].startswith('inside')
    assert 'multiples of 8 pixels' in described['sizes']
    assert '[48, 32] pixels in steps of [40, 30]' in described['windows']
    assert json.loads(described['classes']) == ['sky', 'road']


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_an_exported_program_of_labels(tool, trained, tmp_path, capsys):
    model, arguments = trained
    out = tmp_path / 'model.pt2'
    tool('export').main([*arguments, str(out), '--format', 'torch-export', '--labels'])
    assert '100.0000 % of the labels or more' in capsys.readouterr().out
    extra = {'description.json': ''}
    program = torch.export.load(out, extra_files=extra).module()
    images = 255 * torch.rand(4, 3, *SIZE)
    labels = program(images)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), of_mmsegmentation(model, images).argmax(1))
    assert json.loads(extra['description.json'])['sizes'] == '48x32 pixels, any batch'


@pytest.mark.parametrize('labels', [False, True])
def test_a_file_that_computes_something_else_is_not_kept(
    tool, trained, tmp_path, capsys, monkeypatch, labels
):
    _, arguments = trained
    out = tmp_path / 'model.pt2'

    def write_nonsense(program, path, description):
        (tmp_path / 'written').touch()
        assert path != str(out)

    def run(images):
        shape = (len(images), *SIZE) if labels else (len(images), 7, *SIZE)
        return torch.zeros(shape, dtype=torch.uint8 if labels else torch.float32)

    nonsense = formats.Format('.pt2', (), write_nonsense, lambda path: run)
    monkeypatch.setitem(formats.FORMATS, 'torch-export', nonsense)
    monkeypatch.setattr(export, 'export_program', lambda *_: None)
    before = set(tmp_path.iterdir())
    arguments = [*arguments, out, '--format', 'torch-export', *['--labels'] * labels]
    said = refusal(tool, capsys, *arguments)
    assert ('% of the labels' if labels else 'scores of the exported file differ by up to') in said
    assert set(tmp_path.iterdir()) == before | {tmp_path / 'written'}


def compare(got, wanted, **options):
    """Compare outputs that are the same on any images."""
    shapes = [(len(wanted), 3, 8, 8)]
    return check.check_file(lambda _: got, lambda _: wanted, shapes, **options)


def test_outputs_of_another_shape_and_files_that_fail_are_refused():
    def fail(images):
        raise RuntimeError('no such operator')

    with pytest.raises(ValueError, match=r'makes torch.float32 \(1, 2\), the model .*\(1, 3\)'):
        compare(torch.zeros(1, 2), torch.zeros(1, 3), chooses=False)
    with pytest.raises(ValueError, match=r'shape \(1, 3, 8, 8\): no such operator'):
        check.check_file(fail, lambda x: torch.zeros(1, 3), [(1, 3, 8, 8)], chooses=True)
    with pytest.raises(ValueError, match='differ by up to nan'):
        compare(torch.full((1, 1), torch.nan), torch.zeros(1, 1), chooses=True)
    with pytest.raises(ValueError, match=r'only 50.000 % of the labels'):
        compare(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), chooses=True)


def test_choices_that_rounding_decides_differ_in_some_images():
    """Of two places in a batch the second agrees from the third images on."""
    calls = iter(range(99))

    def run(images):
        return torch.tensor([[1e-6], [0.0 if next(calls) >= 2 else 0.3]])

    def check_it(**options):
        return check.check_file(run, lambda x: torch.zeros(2, 1), [(2, 3, 8, 8)], **options)

    with pytest.raises(ValueError, match='differ by up to 0.3 from'):
        check_it(chooses=False)
    calls = iter(range(99))
    assert check_it(chooses=True) == pytest.approx((1e-6, 2, 0.3))


def test_what_cannot_be_done_is_said_before_any_work(
    tool, trained, tmp_path, capsys, monkeypatch, shapes_configs
):
    _, arguments = trained
    out = str(tmp_path / 'model.pt2')
    torch_export = ('--format', 'torch-export')
    wrong_ending = refusal(tool, capsys, *arguments, tmp_path / 'x.onnx', *torch_export)
    assert 'must end in .pt2' in wrong_ending
    assert 'size must be two positive ints, height and width, got (0, 4)' in refusal(
        tool, capsys, *arguments, out, *torch_export, '--size', 0, 4
    )
    other = [shapes_configs[1], *arguments[1:], out, *torch_export]
    assert 'weights.pth' in (said := refusal(tool, capsys, *other))
    assert 'does not fit the config' in said
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if 'onnx' in name else find(name)
    )
    assert "needs onnx, onnxscript, onnxruntime: pip install -e '.[export]'" in refusal(
        tool, capsys, *arguments, tmp_path / 'x.onnx'
    )
    assert not list(tmp_path.glob('*model*')) and not list(tmp_path.glob('x*'))


def test_a_model_that_cannot_be_exported_is_refused(tool, trained, tmp_path, capsys, monkeypatch):
    _, arguments = trained

    def refuse(*args, **kwargs):
        raise RuntimeError('data-dependent\nbranch')

    monkeypatch.setattr('mita_seg.export.program.export', refuse)
    out = tmp_path / 'model.pt2'
    assert 'torch.export does not take the model with one image size: RuntimeError: data-' in (
        refusal(tool, capsys, *arguments, out, '--format', 'torch-export')
    )
