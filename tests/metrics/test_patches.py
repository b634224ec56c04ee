import numpy as np
import pytest

from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.patches import grid, patches


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (512, 768, 8),  # Kodak: 6 + 2, and 24 of them give 192
        (768, 512, 8),
        (1512, 2016, 70),  # the formula in papers would give 59: pitfall of a remainder over 128
        (2040, 1356, 63),
        (2048, 1365, 68),
        (256, 256, 1),
        (383, 1000, 3),
        (384, 384, 2),
        (255, 4000, 0),
        (100, 100, 0),  # both terms of the second grid are negative here: it must stay empty
        (1, 1, 0),
    ],
)
def test_number_of_patches(height, width, expected):
    assert len(grid(height, width)) == expected


@pytest.mark.parametrize(("height", "width"), [(256, 256), (511, 640), (640, 900), (1100, 385)])
def test_number_follows_the_stated_formula(height, width):
    second = max(0, height - 128) // 256 * (max(0, width - 128) // 256)
    assert len(grid(height, width)) == (height // 256) * (width // 256) + second


def test_two_grids_in_order():
    assert grid(512, 600) == [(0, 0), (0, 256), (256, 0), (256, 256), (128, 128)]


def test_patches_are_the_pixels_of_their_places():
    image = np.random.default_rng(0).integers(0, 256, (700, 530, 3), dtype=np.uint8)
    found = patches(image, "fid256")
    assert [(top, left) for top, left, _ in found] == grid(700, 530)
    for top, left, patch in found:
        assert patch.shape == (256, 256, 3)
        assert np.array_equal(patch, image[top : top + 256, left : left + 256])


def test_whole_is_the_image_itself():
    image = np.zeros((256, 256, 3), np.uint8)
    ((top, left, patch),) = patches(image, "whole")
    assert (top, left) == (0, 0)
    assert patch is image


def test_unknown_protocol():
    with pytest.raises(UsageError, match=r"fid265.*known: fid256, whole"):
        patches(np.zeros((256, 256, 3), np.uint8), "fid265")
