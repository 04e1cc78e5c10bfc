import cv2
import numpy as np
import pytest
import torch

from mita_seg.augment import Windows, draw_windows, join_images, scale_crop_flip

SIZES = [(60, 83), (75, 50), (40, 40)]
WINDOW = (48, 64)


def scenes():
    """Smooth images [H, W, 3] and labels [H, W], uint8."""
    draw = np.random.default_rng(0)
    images = [
        cv2.GaussianBlur(draw.integers(0, 256, (*size, 3), dtype=np.uint8), (5, 5), 0)
        for size in SIZES
    ]
    return images, [draw.integers(0, 9, size).astype(np.uint8) for size in SIZES]


def cut(images, labels, windows, size=WINDOW, **options):
    images = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    joined = join_images(images, [torch.from_numpy(label) for label in labels])
    return cut_joined(joined, windows, size, **options)


def cut_joined(joined, windows, size, **options):
    return scale_crop_flip(
        joined.pixels, joined.labels, joined.channels, windows.pack(), size, **options
    )


def one_window(size, scaled, *corners, flipped=False):
    return Windows(
        sizes=torch.tensor([size]),
        scaled=torch.tensor([scaled]),
        corners=torch.tensor([corners]),
        flipped=torch.tensor([flipped]),
    )


@pytest.mark.parametrize('seed', range(6))
def test_pixels_and_labels_are_those_of_opencv(seed):
    images, labels = scenes()
    generator = torch.Generator().manual_seed(seed)
    windows = draw_windows(SIZES, WINDOW, (200, 50), generator=generator)
    got, got_labels, outside = cut(images, labels, windows)
    assert outside.any() and not outside.all()
    for b, (image, label) in enumerate(zip(images, labels, strict=True)):
        height, width = windows.scaled[b].tolist()
        y, x = windows.corners[b, 0].tolist()
        part = np.s_[y : y + WINDOW[0], x : x + WINDOW[1]]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)[part]
        label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)[part]
        if windows.flipped[b]:
            image, label = image[:, ::-1], label[:, ::-1]
        rows, columns = label.shape
        assert np.array_equal(got_labels[b, :rows, :columns], label)
        found = got[b, :, :rows, :columns].permute(1, 2, 0).numpy()
        assert np.abs(found - image).max() <= 1  # OpenCV's weights have eleven bits
        assert outside[b].sum() == WINDOW[0] * WINDOW[1] - rows * columns
    assert (got_labels[outside] == 255).all()


def test_the_first_window_is_taken_that_no_label_covers_too_much_of():
    image = np.zeros((64, 192, 3), np.uint8)
    image[..., 2] = np.arange(192)  # the last channel is the column
    labels = np.zeros((64, 192), np.uint8)
    labels[:, 64:96] = 1
    labels[:, 128:] = 255
    # One label alone; two, but 7 of 8 are one; half of each; ignored ones do not count.
    corners = {(0, 0): False, (0, 88): False, (0, 32): True, (0, 96): False, (0, 80): True}
    places = list(corners)
    for chosen in ([0, 1, 2, 4], [4, 0, 2], [0, 3, 2, 1], [1, 0, 3]):
        windows = one_window((64, 192), (64, 192), *(places[i] for i in chosen))
        got, *_ = cut([image], [labels], windows, (64, 64), cat_max_ratio=0.75)
        varied = [i for i in chosen[:-1] if corners[places[i]]]
        expected = varied[0] if varied else chosen[-1]
        assert got[0, 2, 0, 0] == places[expected][1]


def test_windows_beyond_the_image_are_judged_by_what_is_inside():
    labels = np.zeros((32, 32), np.uint8)
    labels[:, :16] = 1
    image = np.zeros((32, 32, 3), np.uint8)
    windows = one_window((32, 32), (32, 32), (0, 0), (0, 0))
    _, got, outside = cut([image], [labels], windows, (64, 64), cat_max_ratio=0.75)
    assert outside.sum() == 64 * 64 - 32 * 32 and set(got.unique().tolist()) == {0, 1, 255}


def test_a_flip_leaves_a_small_image_at_the_left():
    image = np.zeros((4, 4, 3), np.uint8)
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    windows = one_window((4, 4), (4, 4), (0, 0), flipped=True)
    _, got, _ = cut([image], [labels], windows, (4, 6))
    assert np.array_equal(got[0, :, :4], labels[:, ::-1]) and (got[0, :, 4:] == 255).all()


def test_labels_of_16_bits_keep_their_value():
    labels = torch.tensor([[0, 300], [32768, 65535]])
    windows = one_window((2, 2), (2, 2), (0, 0))
    images = [torch.zeros(3, 2, 2, dtype=torch.uint8)]
    _, got, _ = cut_joined(join_images(images, [labels]), windows, (2, 2))
    assert torch.equal(got[0], labels)
