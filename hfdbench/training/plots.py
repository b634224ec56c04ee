# pyright: basic
"""Pictures of a training: curves of its losses, a grid of samples."""

import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hfdbench.files.atomic import replacing


def loss_curves(journal: Path, path: Path) -> None:
    """Every number of log.jsonl against steps, one panel each."""
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    if not lines:
        return
    lines = list({line["step"]: line for line in lines}.values())  # a resumed run may have logged a step twice
    names = [name for name in lines[-1] if name not in ("step", "learning_rate", "elapsed_s")]
    figure = Figure(figsize=(3.2 * len(names), 2.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axis.plot([line["step"] for line in lines], [line.get(name) for line in lines], linewidth=1)
        axis.set(title=name, xlabel="step")
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def sample_grid(rows: Tensor, path: Path) -> None:
    """rows: R x N x 3 x H x W in [0, 1], as one PNG of R rows and N columns."""
    height = rows.shape[3]
    grid = rows.permute(0, 3, 1, 4, 2).reshape(len(rows) * height, -1, 3)
    picture = Image.fromarray((grid.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    with replacing(path) as temporary:
        picture.save(temporary, "png")
