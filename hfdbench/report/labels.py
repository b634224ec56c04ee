"""Where labels go: in a row beside the axes, or free among the marks.

Conventions: lengths in any one unit, y upwards; a box is (left, bottom, right, top). No Matplotlib here.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.isotonic import isotonic_regression

Box = tuple[float, float, float, float]
SIDES = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))  # of a mark, the best first


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least `gap` apart within [low, high], in the order of `wanted` and as near to it as can be.

    Too many for the room are spaced evenly over it.
    """
    if len(wanted) > 1:
        gap = min(gap, (high - low) / (len(wanted) - 1))
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    # Least squares under the order of the labels: isotonic regression of what remains when the gaps are taken out.
    level = isotonic_regression(np.asarray(wanted, float)[order] - steps)
    placed = np.empty(len(wanted))
    placed[order] = np.clip(level, low, high - (len(wanted) - 1) * gap) + steps
    return placed.tolist()


def place(
    sizes: Sequence[tuple[float, float]],
    anchors: Sequence[Sequence[tuple[float, float]]],
    obstacles: np.ndarray,
    room: Box,
    gap: float,
) -> list[tuple[Box, tuple[float, float]]]:
    """A box for each label, and the anchor it names: beside one of its anchors, free of obstacles and of other labels.

    sizes: width and height of each label; anchors: the marks it may stand at; obstacles: points, N x 2; room: boxes stay
    inside; gap: between a mark and its label. Greedy, labels with the fewest anchors first; the same input gives the same.
    """
    obstacles = np.asarray(obstacles, float).reshape(-1, 2)
    placed: dict[int, tuple[Box, tuple[float, float]]] = {}
    for item in sorted(range(len(sizes)), key=lambda i: (len(anchors[i]), i)):
        taken = [box for box, _ in placed.values()]
        best: tuple[float, Box, tuple[float, float]] | None = None
        for which, anchor in enumerate(anchors[item]):
            for far in (1.0, 2.2, 3.6, 5.5, 8.0):
                for rank, side in enumerate(SIDES):
                    box = _beside(anchor, sizes[item], side, far * gap)
                    cost = _cost(box, obstacles, taken, room) + 0.9 * far + 0.12 * rank + 0.01 * which
                    if best is None or cost < best[0]:
                        best = (cost, box, anchor)
        assert best is not None  # every label has an anchor
        placed[item] = best[1:]
    return [placed[item] for item in range(len(sizes))]


def _beside(anchor: tuple[float, float], size: tuple[float, float], side: tuple[int, int], gap: float) -> Box:
    (x, y), (width, height) = anchor, size
    step = gap if 0 in side else 0.7 * gap
    left = x + side[0] * step - {1: 0, 0: width / 2, -1: width}[side[0]]
    bottom = y + side[1] * step - {1: 0, 0: height / 2, -1: height}[side[1]]
    return (left, bottom, left + width, bottom + height)


def _cost(box: Box, obstacles: np.ndarray, taken: Sequence[Box], room: Box) -> float:
    left, bottom, right, top = box
    inside = (obstacles > (left, bottom)).all(axis=1) & (obstacles < (right, top)).all(axis=1)
    outside = max(0, room[0] - left) + max(0, room[1] - bottom) + max(0, right - room[2]) + max(0, top - room[3])
    overlap = sum(
        max(0, min(right, other[2]) - max(left, other[0])) * max(0, min(top, other[3]) - max(bottom, other[1]))
        for other in taken
    )
    return inside.sum() + 100 * (outside > 0) + 100 * outside + 100 * (overlap > 0) + 100 * overlap
