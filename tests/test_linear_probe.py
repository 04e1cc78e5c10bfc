"""experiments/pretrained/linear_probe.py, on images and with an encoder that are small."""

import json
import runpy

import pytest
import torch

pytest.importorskip('mmseg')


@pytest.fixture(scope='module')
def probe(repository):
    return runpy.run_path(str(repository / 'experiments/pretrained/linear_probe.py'))


def test_a_patch_has_the_label_of_most_of_its_pixels(probe):
    label = torch.full((5, 6), 1)  # patches of 3x3; the lower ones lack a row
    label[:2, :3], label[3:, 3:] = 2, 255
    assert probe['majority'](label, (2, 2), 3).tolist() == [2, 1, 1, 255]


def test_a_classifier_finds_what_is_linear(probe):
    torch.manual_seed(0)
    features = torch.randn(20_000, 6) * torch.tensor([1.0, 30, 1, 1, 1, 1]) + 5
    labels = (features[:, 1] > 5).long()
    labels[::7] = 255
    classifier = probe['fit'](features, labels, 2)
    agree = classifier(features).argmax(1) == (features[:, 1] > 5)
    assert agree.float().mean() > 0.95


@pytest.mark.slow
def test_results_of_several_runs_are_kept(probe, repository, shapes_root, tmp_path, capsys):
    (config,) = (repository / 'configs/mita_segmenter_shapes').glob('*_full_*.py')
    options = ['--work-dir', str(tmp_path), '--data-root', str(shapes_root)]
    options += ['--train-images', '3', '--test-images', '2']
    for name in ('one', 'two', 'one'):
        probe['main']([str(config), name, *options])
    results = json.loads((tmp_path / 'results.json').read_text())
    assert set(results) == {'one', 'two'}
    for each in results.values():
        assert 0 < each['mIoU'] <= each['aAcc'] <= 100
        assert (each['train_images'], each['test_images']) == (3, 2)
    assert capsys.readouterr().out.count("{'mIoU': ") == 2
