import pytest
import torch
from torch.nn.functional import interpolate

from mita_seg.augment import scale_crop_flip

HEIGHT, WIDTH = 24, 32


def scene(batch=1):
    """A smooth image whose red is its column and green its row, and labels that say the same."""
    row, column = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    image = torch.stack((column, row, torch.zeros_like(row))).float()
    return image.expand(batch, -1, -1, -1), (column % 8).expand(batch, -1, -1)


def test_nothing_to_do_gives_back_image_and_labels():
    images, labels = scene()
    got, got_labels, outside = scale_crop_flip(images, labels, (HEIGHT, WIDTH), (1, 1), 0)
    torch.testing.assert_close(got, images, atol=1e-4, rtol=0)
    assert torch.equal(got_labels, labels) and not outside.any()


def test_flip_mirrors_both():
    images, labels = scene()
    got, got_labels, _ = scale_crop_flip(images, labels, (HEIGHT, WIDTH), (1, 1), 1)
    torch.testing.assert_close(got, images.flip(-1), atol=1e-4, rtol=0)
    assert torch.equal(got_labels, labels.flip(-1))


@pytest.mark.parametrize('ratio', [2, 0.5])
def test_scale_is_that_of_interpolation(ratio):
    images, labels = scene()
    size = (int(HEIGHT * ratio), int(WIDTH * ratio))
    got, _, _ = scale_crop_flip(images, labels, size, (ratio, ratio), 0)
    expected = interpolate(images, size, mode='bilinear', align_corners=False)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


def test_windows_lie_everywhere_inside_the_image():
    images, labels = scene(200)
    got, _, outside = scale_crop_flip(images, labels, (6, 8), (1, 1), 0)
    left, top = got[:, 0, 0, 0], got[:, 1, 0, 0]
    assert not outside.any()
    assert left.min() >= 0 and left.max() <= WIDTH - 8 and left.max() - left.min() > WIDTH - 10
    assert top.min() >= 0 and top.max() <= HEIGHT - 6 and top.max() - top.min() > HEIGHT - 8


def test_small_images_lie_at_random_places_and_the_rest_is_ignored():
    images, labels = scene(50)
    _, got_labels, outside = scale_crop_flip(images, labels, (HEIGHT, WIDTH), (0.5, 0.5), 0)
    assert (got_labels[outside] == 255).all() and (got_labels[~outside] < 8).all()
    inside = (~outside).sum((1, 2))
    quarter = HEIGHT * WIDTH // 4
    assert ((inside - quarter).abs() <= HEIGHT + WIDTH).all()
    assert len({tuple(row.nonzero()[0].tolist()) for row in ~outside}) > 20


def test_labels_move_with_the_image():
    images, labels = scene(20)
    got, got_labels, outside = scale_crop_flip(images, labels, (16, 16), (0.6, 1.8), 0.5)
    column = got[:, 0]
    # Linear and nearest sampling differ by half a pixel at most.
    error = (column - got_labels + 4) % 8 - 4
    assert error[~outside].abs().max() <= 0.51


def test_draws_differ_between_images_and_repeat_with_the_seed():
    images, labels = scene(8)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(scale_crop_flip(images, labels, (16, 16))[0])
    assert torch.equal(*draws)
    assert len({image.sum().item() for image in draws[0]}) == 8
