import torch

from mita_seg.augment import draw_windows

WINDOW = (6, 8)


def test_corners_lie_everywhere_where_the_window_is_inside():
    windows = draw_windows([(24, 32)] * 400, WINDOW, ratio_range=(1, 1))
    assert torch.equal(windows.scaled, windows.sizes)
    top, left = windows.corners[:, 0].unbind(1)
    assert set(top.tolist()) == set(range(19)) and set(left.tolist()) == set(range(25))


def test_an_image_smaller_than_the_window_has_its_corner_at_the_origin():
    windows = draw_windows([(4, 5)] * 20, WINDOW, ratio_range=(1, 1))
    assert not windows.corners.any()


def test_the_scaled_size_fits_into_the_scale_and_keeps_the_shape():
    windows = draw_windows([(60, 80), (300, 100)], WINDOW, (512, 128), (1, 1))
    assert windows.scaled.tolist() == [[128, 171], [384, 128]]
    windows = draw_windows([(60, 80)] * 500, WINDOW, (512, 128), (0.5, 2))
    assert windows.scaled[:, 0].min() < 70 and windows.scaled[:, 0].max() > 250


def test_draws_differ_between_images_and_repeat_with_the_seed():
    draws = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        draws.append(draw_windows([(64, 64)] * 8, WINDOW, candidates=3, generator=generator))
    for first, second in zip(vars(draws[0]).values(), vars(draws[1]).values(), strict=True):
        assert torch.equal(first, second)
    assert len({tuple(corner.flatten().tolist()) for corner in draws[0].corners}) == 8
    assert 0 < draws[0].flipped.sum() < 8
