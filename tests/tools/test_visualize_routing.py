"""tools/visualize_routing.py on an untrained model: its pictures, and its page in a browser."""

import base64
import html
import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip('mmseg')

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

import mita_seg.models  # noqa: F401

OPTIONS = {
    'model.backbone.img_size': (64, 64),
    'model.backbone.num_layers': 1,
    'model.backbone.patch_size': 8,
    'model.backbone.attn_cfg.landmarks': (2, 3),
    'model.decode_head.attn_cfg.landmarks': (2, 2),
    'model.decode_head.attn_cfg.topk': 10,
}


@pytest.fixture
def visualize(tool, shapes_configs, tmp_path):
    """Run the tool; returns its exit status."""

    def visualize(*arguments, config=shapes_configs[1]):
        cfg = Config.fromfile(config)
        init_default_scope('mmseg')
        cfg.merge_from_dict(OPTIONS)
        checkpoint = tmp_path / 'model.pth'
        meta = {'cfg': "model = dict(backbone=dict(attn_cfg=dict(type='FullAttention')))"}
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': meta}, checkpoint)
        options = [f'{name}={value}' for name, value in OPTIONS.items()]
        options = [option.replace(' ', '') for option in options]
        command = [config, checkpoint, *arguments, '--out', tmp_path / 'out']
        return tool('visualize_routing').main([*map(str, command), '--cfg-options', *options])

    return visualize


@pytest.fixture
def images(tmp_path):
    """Two images of one name, one of them not square, and a file that is none."""
    paths = [tmp_path / town / 'street.png' for town in ('a', 'b')]
    for path, (width, height) in zip(paths, [(64, 64), (61, 40)], strict=True):
        path.parent.mkdir()
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(path)
    broken = tmp_path / 'broken.png'
    broken.write_text('no image')
    return [*paths, broken]


def read_page(path):
    """The data of the page, and its text."""
    text = path.read_text()
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    return json.loads(data[1]), text


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.mark.slow
def test_every_image_gets_its_pictures_and_a_bad_one_is_named(visualize, images, tmp_path, capsys):
    with pytest.warns(UserWarning, match='trained with another attention'):
        assert visualize(*images, '--heads', '1') == 1
    said = capsys.readouterr()
    assert 'broken.png' in said.err and 'cannot be decoded' in said.err
    assert said.out.strip().endswith(str(tmp_path / 'out/index.html'))
    overviews = {'overview', 'experts', 'shared_share', 'recall', 'tokens_in_experts', 'layers'}
    for name in ('a/street', 'b/street'):
        folder = tmp_path / 'out' / name
        assert {path.stem for path in folder.glob('*.png')} == {*overviews, 'class_queries'}
        landmarks = {path.stem for path in (folder / 'landmarks').glob('*.png')}
        assert landmarks == {'backbone_0_head_1', 'decoder_0_head_1'}
        for picture in folder.rglob('*.png'):
            pixels = np.asarray(Image.open(picture).convert('RGB'))
            assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, picture

    data, text = read_page(tmp_path / 'out/index.html')
    assert [image['name'] for image in data] == ['a/street', 'b/street']
    assert [layer['name'] for layer in data[1]['layers']] == ['backbone 0', 'decoder 0']
    # 61x40 pixels are 8x5 patches, the last of which reaches beyond the image.
    assert [layer['grid'] for layer in data[1]['layers']] == [[5, 8]] * 2
    assert not re.search(
        r'(src|href)\s*=\s*["\']?(?!data:)[\w/.]', text.split('<script id="data"')[0]
    )
    assert 'http' not in text


def test_page_holds_what_the_model_did(visualize, images, tmp_path):
    assert visualize(images[0], '--no-landmarks', '--layers', '-1') == 0
    (image,), _ = read_page(tmp_path / 'out/index.html')
    (layer,) = image['layers']
    assert len(layer['heads']) == 2 and layer['topk'] == 10 and len(layer['colours']) == 4
    # The class queries come after the patches, and are named.
    assert len(layer['special']) == 7 and min(map(int, layer['special'])) == 64
    for head in layer['heads']:
        keys = unpack(head['keys'], '<u4').reshape(4, 10)
        use = unpack(head['use'], '<u2')
        assert np.array_equal(use, np.bincount(keys.ravel(), minlength=71)[:64])
        assert unpack(head['routes'], '<u2').max() < 4
        looks = unpack(head['looks'], 'u1').reshape(len(layer['looks']), 64)
        assert (looks.max(1) == 255).all()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--layers', '7'], '--layers must be from 0 to 1 or parts of backbone.layers.0.attn'),
        (['--layers', 'neck'], "got 'neck'"),
        (['--heads', '2'], '--heads must be from 0 to 1, got 2'),
        (['--device', 'toaster'], "device 'toaster' cannot be used"),
    ],
)
def test_wrong_choices_are_one_sentence(visualize, images, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        visualize(images[0], *arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count('\n') == 1


def test_model_without_experts_is_refused(visualize, images, shapes_configs, monkeypatch, capsys):
    for name in [name for name in OPTIONS if 'attn_cfg' in name]:
        monkeypatch.delitem(OPTIONS, name)
    with pytest.raises(SystemExit) as end:
        visualize(images[0], config=shapes_configs[0])
    assert end.value.code == 2
    assert 'visualize_routing.py: the model has no MiTAAttention' in capsys.readouterr().err


CHECKS = """
const frame = document.querySelector('iframe');
const report = {errors: []};
function finish() {
  document.body.replaceChildren(JSON.stringify(report));
}
frame.contentWindow.addEventListener('error', (event) => report.errors.push(event.message));
function check() {
  const page = frame.contentDocument;
  const find = (id) => page.getElementById(id);
  const reading = () => find('reading').textContent;
  const change = (id, value) => {
    find(id).value = value;
    find(id).dispatchEvent(new frame.contentWindow.Event('change', {bubbles: true}));
  };
  const pixels = () => find('canvas').toDataURL();
  const press = (key) => find('canvas').dispatchEvent(
    new frame.contentWindow.KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
  const point = (kind, row, column) => {
    const box = find('canvas').getBoundingClientRect();
    find('canvas').dispatchEvent(new frame.contentWindow.PointerEvent(kind, {
      clientX: box.left + (column + 0.5) * box.width / 8,
      clientY: box.top + (row + 0.5) * box.height / 8, pointerType: 'mouse', bubbles: true}));
  };
  report.width = [page.documentElement.scrollWidth, frame.contentWindow.innerWidth];
  const first = pixels();
  change('layer', 1);
  report.layer = pixels() !== first;
  const second = pixels();
  change('head', 1);
  report.head = pixels() !== second;
  point('pointermove', 2, 5);
  report.hover = reading();
  press('ArrowRight');
  press('ArrowDown');
  report.keyboard = reading();
  press('Home');
  report.home = reading();
  press('Enter');
  point('pointermove', 6, 6);
  report.held = reading();
  press('Escape');
  point('pointermove', 6, 6);
  report.free = reading();
  const third = pixels();
  change('map', 'looks');
  report.looks = pixels() !== third && !find('token-choice').hidden;
  report.focusable = ['canvas', 'image', 'layer', 'head', 'map', 'token', 'strength'].every(
    (id) => { find(id).focus(); return page.activeElement === find(id); });
  report.figures = [...page.querySelectorAll('figure img')].every((each) => each.naturalWidth > 0);
  finish();
}
let tries = 0;
const waiting = setInterval(() => {
  const reading = frame.contentDocument.getElementById('reading');
  if (reading?.textContent || ++tries > 100) {
    clearInterval(waiting);
    try { check(); } catch (error) { report.errors.push(`${error}`); finish(); }
  }
}, 50);
"""


@pytest.fixture
def browser():
    """A Chromium."""
    names = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip(f'no browser is installed ({", ".join(names)})')
    return found


def test_page_in_a_browser_at_the_width_of_a_phone(visualize, images, tmp_path, browser):
    visualize(images[0], '--no-landmarks')
    around = tmp_path / 'out/around.html'
    around.write_text(
        '<body><iframe src="index.html" width="360" height="740"></iframe>'
        f'<script>window.onload = () => {{{CHECKS}}};</script></body>'
    )
    command = [browser, '--headless=new', '--no-sandbox', '--disable-gpu', '--dump-dom']
    command += ['--allow-file-access-from-files', '--virtual-time-budget=20000']
    command += [f'--user-data-dir={tmp_path}/profile', around.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    report = json.loads(html.unescape(re.search(r'<body>(\{.*\})</body>', run.stdout)[1]))
    assert report['errors'] == []
    assert report['width'][0] <= report['width'][1] == 360
    assert all(report[name] for name in ('layer', 'head', 'looks', 'focusable', 'figures'))

    (image,), _ = read_page(tmp_path / 'out/index.html')
    routes = unpack(image['layers'][1]['heads'][1]['routes'], '<u2').reshape(8, 8)
    share = unpack(image['layers'][1]['heads'][1]['share'], 'u1').reshape(8, 8)
    assert 'row 3, column 6' in report['hover']
    assert f'{routes[2, 5] + 1} of 4' in report['hover']
    assert f'{(routes == routes[2, 5]).sum()} of 64 go to it' in report['hover']
    assert f'{int(100 * int(share[2, 5]) / 255 + 0.5)} % of its softmax' in report['hover']
    assert 'row 4, column 7' in report['keyboard']
    assert 'row 4, column 1' in report['home']
    assert 'row 4, column 1 (held)' in report['held']
    assert 'row 7, column 7' in report['free']
