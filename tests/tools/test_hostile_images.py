"""tools/predict.py reads images of every kind, and names those that it leaves out."""

import cv2
import pytest

pytest.importorskip('mmseg')

from support import hostile_images as hostile


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_predict_takes_every_kind_and_names_what_it_leaves_out(tool, trained, tmp_path, capsys):
    folder, out = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    refused = hostile.refused()
    files = {name: data for name, (data, _) in hostile.kinds().items() if not name.endswith('.gif')}
    for name, data in {**files, **refused}.items():
        (folder / name).write_bytes(data)
    assert tool('predict').main([*trained, str(folder), '--out', str(out)]) == 1
    said = capsys.readouterr().err
    for name in refused:
        assert f'/{name}' in said
    assert said.count('skipped: ') == len(refused)
    assert len(list((out / 'labels').glob('*.png'))) == len(files)
    wide = next((out / 'overlays').glob('wide*.jpg'))
    assert cv2.imread(str(wide)).shape[1] == 65500  # the longest JPEG
