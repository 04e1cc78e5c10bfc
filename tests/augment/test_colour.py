import cv2
import numpy as np
import pytest
import torch

from mita_seg.augment import change_colours, draw_colours

OFF = {'brightness': 0, 'contrast': 0, 'saturation': 0, 'hue': 0, 'prob': 1}


def jitter_colours(images, **options):
    return change_colours(images, draw_colours(len(images), **options))


def jitter(images, **options):
    return jitter_colours(images.clone(), **{**OFF, **options})


@pytest.fixture
def images():
    """In the middle of the range, so that nothing is cut off."""
    return 80 + 60 * torch.rand(32, 3, 4, 5)


def test_no_strength_or_no_probability_changes_nothing(images):
    torch.testing.assert_close(jitter(images), images)
    torch.testing.assert_close(jitter_colours(images.clone(), prob=0), images)


def test_brightness_adds_and_contrast_multiplies(images):
    added = jitter(images, brightness=30) - images
    assert (added - added[:, :1, :1, :1]).abs().max() < 1e-3
    assert 20 < added.abs().max() <= 30 and added.min() < 0 < added.max()
    factor = jitter(images, contrast=0.5) / images
    assert (factor - factor[:, :1, :1, :1]).abs().max() < 1e-4
    assert 0.5 <= factor.min() < 0.7 and 1.3 < factor.max() <= 1.5


@pytest.mark.parametrize('change', [{'saturation': 0.5}, {'hue': 90}])
def test_saturation_and_hue_leave_grey_alone(change, images):
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(jitter(grey, **change), grey, atol=1e-3, rtol=0)
    assert (jitter(images, **change) - images).abs().max() > 5


def test_saturation_and_hue_are_those_of_opencv(images):
    images = images[:1].round()
    pixels = images[0].permute(1, 2, 0).numpy().astype(np.uint8)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        amount = 2 * torch.rand(4, 1, generator=generator) - 1
        generator.manual_seed(seed)
        got = jitter(images.clone(), saturation=0.5, hue=36, generator=generator)
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV).astype(float)
        hsv[..., 1] = (hsv[..., 1] * (1 + 0.5 * amount[2].item())).clip(0, 255)
        hsv[..., 0] = (hsv[..., 0] + 18 * amount[3].item()) % 180
        expected = cv2.cvtColor(hsv.round().astype(np.uint8), cv2.COLOR_HSV2RGB)
        error = np.abs(got[0].permute(1, 2, 0).numpy() - expected)
        # OpenCV rounds hue to two degrees and saturation to one of 255.
        assert error.max() <= 6 and error.mean() < 1.5


def test_values_stay_in_range():
    extremes = torch.tensor([0.0, 255.0]).view(1, 1, 1, 2).expand(64, 3, 1, 2)
    got = jitter_colours(extremes.clone(), prob=1)
    assert got.min() == 0 and got.max() == 255


def test_grey_images_are_changed_as_grey_ones_in_colour():
    grey = 80 + 60 * torch.rand(8, 1, 4, 5)
    results = []
    for images in (grey, grey.expand(-1, 3, -1, -1)):
        torch.manual_seed(1)
        results.append(jitter_colours(images.clone()))
    assert results[0].shape == grey.shape
    torch.testing.assert_close(results[0].expand(-1, 3, -1, -1), results[1])


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match='of 1 or 3 channels, got 4'):
        jitter_colours(torch.zeros(1, 4, 2, 2))
