"""The picture strip of docs/models.md: parts of photographs of `samples`, as codecs decode them at two rates each.

    python docs/figures/models/draw_strip.py docs/figures/models/strip.webp jpeg:q8 hfd-jpeg:q8 jpeg:q18 hfd-jpeg:q18

Rows are photographs, columns the original and then the codecs in order, labelled with the bits per pixel of the whole photograph.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import hfdbench
from hfdbench.datasets.dataset import open_dataset

SIDE, LABEL = 224, 18  # pixels of a part's side and of a label's height
PHOTOGRAPHS = (0, 3, 7)


def labelled(part: np.ndarray, text: str) -> np.ndarray:
    label = Image.new("RGB", (part.shape[1], LABEL), "white")
    ImageDraw.Draw(label).text((4, 2), text, fill="black", font_size=12)
    return np.concatenate([np.asarray(label), part])


def main(target: Path, names: list[str]) -> None:
    codecs = {name: hfdbench.codec(*name.split(":")) for name in names}
    rows = []
    dataset = open_dataset("samples")
    for image in map(dataset.load, PHOTOGRAPHS):
        top, left = (max(0, length - SIDE) // 2 for length in image.shape[:2])
        window = np.s_[top : top + SIDE, left : left + SIDE]
        row = [labelled(image[window], "original")]
        for name, codec in codecs.items():
            stream = codec.encode(image)
            bpp = 8 * len(stream) / (image.shape[0] * image.shape[1])
            row.append(labelled(codec.decode(stream)[window], f"{name.replace(':', ' ')}, {bpp:.2f} bpp"))
        rows.append(np.concatenate(row, 1))
    Image.fromarray(np.concatenate(rows)).save(target, quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
