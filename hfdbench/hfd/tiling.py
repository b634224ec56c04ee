# pyright: basic
"""Tiles: sample a picture of any size in memory that does not grow with it.

A picture is divided into square cells. Every cell is sampled inside a window that reaches `overlap` pixels over its borders;
cells of a group are independent of one another and may share a batch, and later groups see the finished pixels of earlier ones in
their windows (out-painting). HFD samples groups of patches in parallel (arXiv:2305.18231 as reviewed; size, overlap and order were
not available and are ours).

Conventions: boxes are (top, bottom, left, right) in pixels, ends excluded.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NOISE_BLOCK = 64  # pixels a side of the blocks that the noise field is drawn in

Order = Literal["checkerboard", "raster"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Window:
    """cell: what is kept; outer: what is sampled; known: bool, outer's height x width, finished before this window's turn."""

    cell: Box
    outer: Box
    known: Tensor


def groups(height: int, width: int, tile: int, overlap: int, order: Order = "checkerboard") -> list[list[Window]]:
    """Windows in the order of sampling, those of a group together; tile 0 is one cell for the whole picture.

    checkerboard: four groups, by the parities of row and column, (0, 0), (1, 1), (0, 1), (1, 0). raster: one after the other.
    """
    tile = tile or max(height, width)
    columns = -(-width // tile)

    def turn(row, column):
        if order == "raster":
            return row * columns + column
        return np.array([[0, 2], [3, 1]])[row % 2, column % 2]

    turns: dict[int, list[Window]] = {}
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            outer = (
                max(top - overlap, 0),
                min(bottom + overlap, height),
                max(left - overlap, 0),
                min(right + overlap, width),
            )
            own = int(turn(top // tile, left // tile))
            rows, cols = np.arange(outer[0], outer[1]) // tile, np.arange(outer[2], outer[3]) // tile
            known = torch.from_numpy(turn(rows[:, None], cols[None]) < own)
            turns.setdefault(own, []).append(Window((top, bottom, left, right), outer, known))
    return [turns[key] for key in sorted(turns)]


def noise(seed: int, step: int, box: Box) -> Tensor:
    """Standard normal, 1 x 3 x box, that depends on seed, step and place alone: every window sees the same field."""
    top, bottom, left, right = box
    first_row, first_column = top // NOISE_BLOCK, left // NOISE_BLOCK
    rows, columns = -(-bottom // NOISE_BLOCK) - first_row, -(-right // NOISE_BLOCK) - first_column
    field = torch.empty(3, rows * NOISE_BLOCK, columns * NOISE_BLOCK)
    generator = torch.Generator()
    for row in range(rows):
        for column in range(columns):
            words = np.random.SeedSequence((seed, step, first_row + row, first_column + column)).generate_state(2)
            generator.manual_seed(int(words[0]) << 32 | int(words[1]))
            place = (
                slice(row * NOISE_BLOCK, (row + 1) * NOISE_BLOCK),
                slice(column * NOISE_BLOCK, (column + 1) * NOISE_BLOCK),
            )
            drawn = torch.randn(NOISE_BLOCK, NOISE_BLOCK, 3, generator=generator)
            field[:, *place] = drawn.permute(2, 0, 1)
    y, x = first_row * NOISE_BLOCK, first_column * NOISE_BLOCK
    return field[None, :, top - y : bottom - y, left - x : right - x]
