"""tools/predict.py: what is written, under which names, and what happens to bad files."""

import json
import re

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from PIL import Image

from mita_seg import load_segmentor


def predicted(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.*'))


def test_folder_with_a_bad_file(tool, trained, pictures, tmp_path, capsys):
    out = pictures / 'out'  # inside the input: a second run must not predict the first one's files
    for _ in range(2):
        assert tool('predict').main([*trained, str(pictures), '--out', str(out)]) == 1
        assert f'skipped: image {str(pictures / "broken.jpg")!r}' in capsys.readouterr().err
        names = ['2', '3', '4', 'a/1', 'b/1']
        assert predicted(out / 'labels') == [f'{name}.png' for name in names]
        assert predicted(out / 'overlays') == [f'{name}.jpg' for name in names]

    segmentor = load_segmentor(*trained)
    with Image.open(out / 'labels/a/1.png') as written:
        colours = np.asarray(written.convert('RGB'))
        values = np.asarray(written)
    labels = segmentor(pictures / 'a/1.jpg')
    assert np.array_equal(values, labels + 1)  # 0 is ignored in this data set
    assert np.array_equal(colours, segmentor.palette[labels])
    classes = json.loads((out / 'classes.json').read_text())
    assert classes[0] == {'value': 1, 'name': 'sky', 'colour': segmentor.palette[0].tolist()}
    with Image.open(out / 'contact_sheet.png') as sheet:
        assert min(sheet.size) > 300


def test_video_and_glob(tool, trained, pictures, tmp_path):
    video = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'MJPG'), 10, (64, 48))
    for shade in (0, 100, 200):
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    (tmp_path / 'bad.mp4').write_bytes(b'no video')
    out = tmp_path / 'out'
    arguments = [*trained, str(video), str(pictures / '**/1.jpg'), '--tta', '--out', str(out)]
    assert tool('predict').main(arguments) == 0
    assert predicted(out / 'labels') == ['1.png', *(f'clip/00000{i}.png' for i in range(3))]
    frames = cv2.VideoCapture(str(out / 'overlays/clip.mp4'))
    assert frames.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert tool('predict').main([*trained, str(tmp_path / 'bad.mp4'), '--out', str(out)]) == 1


def test_refused_before_the_model_is_loaded(tool, trained, pictures, tmp_path, capsys):
    def refusal(*arguments):
        with pytest.raises(SystemExit) as end:
            tool('predict').main([trained[0], *map(str, arguments)])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith('predict.py: ') and message.count('\n') == 1
        return message

    out = tmp_path / 'out'
    (tmp_path / 'empty').mkdir()
    assert "'gone.jpg' does not exist" in refusal('w.pth', 'gone.jpg', '--out', out)
    assert "'*.gif' matches nothing" in refusal('w.pth', '*.gif', '--out', out)
    assert 'holds no image' in refusal('w.pth', tmp_path / 'empty', '--out', out)
    assert 'lies in the folder' in refusal('w.pth', pictures / '3.jpg', '--out', pictures)
    assert not out.exists()
    (tmp_path / 'file').touch()
    message = refusal('w.pth', pictures / '3.jpg', '--out', tmp_path / 'file/out')
    assert '--out' in message and 'cannot be written' in message
    assert "'w.pth' does not exist" in refusal('w.pth', pictures, '--out', out)


def test_example_of_the_documentation(repository, trained, pictures, tmp_path):
    (code,) = re.findall(
        r'```python\n(.*?)```', (repository / 'docs/own_data.md').read_text(), re.DOTALL
    )
    for name, path in {
        'data/garden/garden_mita.py': trained[0],
        'work_dirs/mita/iter_4000.pth': trained[1],
        'photo.jpg': pictures / '3.jpg',
        'colours.png': tmp_path / 'colours.png',
    }.items():
        assert f"'{name}'" in code
        code = code.replace(f"'{name}'", repr(str(path)))
    exec(compile(code, 'own_data.md', 'exec'), {})
    with Image.open(tmp_path / 'colours.png') as coloured:
        assert coloured.size == (64, 64)
