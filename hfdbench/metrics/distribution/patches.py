"""Patches that a Fréchet distance is taken over: the FID/256 grid stands here and nowhere else.

Conventions
    image     uint8, H x W x 3; any H and W.
    fid256    every full 256 x 256 patch of the grid that starts at (0, 0), then every full one of ONE more grid that starts at
              (128, 128); incomplete borders are dropped. An image gives
              floor(H/256) * floor(W/256) + floor((H-128)/256) * floor((W-128)/256) patches.
    whole     the image itself is the one patch: for sets that are cut to their crop on reading.
    order     grid by grid, row by row.

The protocol is that of Mentzer et al. 2020, arXiv:2006.09965 (HiFiC), appendix. Papers describe the second grid by
(floor(H/256)-1) * (floor(W/256)-1) patches; released evaluation code cuts it as above, and only that is reported to
give the totals that papers quote (28,650 for CLIC 2020 test, 6,573 for DIV2K validation). The two differ where a
remainder reaches 128: a 1512 x 2016 image gives 59 patches or, by the rule above, 70.
"""

from typing import TYPE_CHECKING

from hfdbench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

PATCH = 256
SHIFT = 128


def grid(height: int, width: int) -> list[tuple[int, int]]:
    """(top, left) of every FID/256 patch of an image, both grids. Empty when a side is under 256."""
    return [
        (top, left)
        for start in (0, SHIFT)
        for top in range(start, height - PATCH + 1, PATCH)
        for left in range(start, width - PATCH + 1, PATCH)
    ]


def patches(image: "np.ndarray", protocol: str) -> list[tuple[int, int, "np.ndarray"]]:
    """(top, left, pixels) of every patch of one image; the pixels are views into it, not copies."""
    if protocol == "whole":
        return [(0, 0, image)]
    if protocol == "fid256":
        return [(y, x, image[y : y + PATCH, x : x + PATCH]) for y, x in grid(*image.shape[:2])]
    raise UsageError(f'no patch protocol "{protocol}"; known: fid256, whole')
