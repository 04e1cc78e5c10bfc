"""tools/calibrate_offsets.py on random weights."""

import json

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config


@pytest.mark.long
@pytest.mark.slow
def test_offsets_are_written_and_the_config_trains(tool, tiny, shapes_configs, tmp_path, capsys):
    options = [*tiny, f'experiment_name=calibrate{tmp_path.name}']
    options += ['model.backbone.num_layers=2']
    tool('calibrate_offsets').main(
        [shapes_configs[1], '--work-dir', str(tmp_path), '--images', '2', '--cfg-options', *options]
    )
    assert '| layer | offset' in capsys.readouterr().out
    found = json.loads((tmp_path / 'offsets.json').read_text())['layers']
    assert list(found) == ['0', '1']
    assert all(0 < each['error'] <= each['error_before'] for each in found.values())
    (config,) = tmp_path.glob('*_calibrated.py')
    written = [each.shared_offset for each in Config.fromfile(config).model.backbone.attn_cfg]
    assert written == [each['offset'] for each in found.values()]
    tool('train').main([str(config), '--work-dir', str(tmp_path / 'trained')])
    assert (tmp_path / 'trained/iter_4.pth').exists()


def test_a_config_without_mita_in_the_encoder_is_refused(
    tool, tiny, shapes_configs, tmp_path, capsys
):
    with pytest.raises(SystemExit) as exit_info:
        tool('calibrate_offsets').main(
            [shapes_configs[0], '--work-dir', str(tmp_path), '--cfg-options', *tiny]
        )
    assert exit_info.value.code == 2
    assert 'MiTAAttention' in capsys.readouterr().err
