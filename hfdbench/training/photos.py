# pyright: basic
"""Training photographs: a folder of pictures as random crops, the same crops for the same seed and step.

The pixels of a folder lie in one memory-mapped file beside the training's results, made once: memory does not grow with their
number, and processes that train together share them.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hfdbench.datasets.image_files import image_suffix, read_image
from hfdbench.errors import ImageError
from hfdbench.files.atomic import replacing, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images(Sequence):
    """Pictures in a flat array of bytes, as a sequence of uint8 arrays, H x W x 3.

    Parameters
    ----------
    pixels : ndarray of uint8
        All samples, one picture after the other; usually a memory map.
    offsets : ndarray of int64, N
        Where each picture begins.
    shapes : ndarray of int64, N x 2
        Height and width of each.
    """

    pixels: np.ndarray
    offsets: np.ndarray
    shapes: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        height, width = (int(side) for side in self.shapes[index])
        start = int(self.offsets[index])
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """Some of the pictures, in the order of `indices`; nothing is copied."""
        return Images(self.pixels, self.offsets[indices], self.shapes[indices])

    @staticmethod
    def of(arrays: Sequence[np.ndarray]) -> "Images":
        """Pictures from arrays in memory."""
        shapes = np.array([array.shape[:2] for array in arrays]).reshape(-1, 2)
        sizes = 3 * shapes.prod(1)
        pixels = np.concatenate([array.ravel() for array in arrays]) if arrays else np.empty(0, np.uint8)
        return Images(pixels, sizes.cumsum() - sizes, shapes)


@dataclass(frozen=True)
class Photos:
    """Names and pixels of every usable picture, a sha256 of both, and the names of what was left out."""

    names: tuple[str, ...]
    images: Images
    sha256: str
    left_out: tuple[str, ...] = ()


def read_photos(folder: Path, smallest_side: int, cache: Path) -> Photos:
    """Photographs of a folder, read recursively.

    Parameters
    ----------
    folder : Path
        Folder of pictures; they are read by the rules of datasets, so 16 bits, profiles and orientation are followed.
    smallest_side : int
        Pixels; pictures with a shorter side are left out and named in the log, as are damaged ones.
    cache : Path
        Folder for the file of pixels, which is made where it is not there yet and used as long as no file of `folder` changes.

    Raises
    ------
    ValueError
        Nothing is left to train on.
    OSError
        The file of pixels cannot be written.
    """
    files = sorted(path for path in Path(folder).rglob("*") if image_suffix(path.name) and path.is_file())
    listing = hashlib.sha256()
    for path in files:
        stat = path.stat()
        listing.update(
            f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    place = cache / f"photographs-{listing.hexdigest()[:16]}"
    index = place.with_suffix(".json")
    if not index.exists():
        _map(folder, files, place.with_suffix(".pixels"), index)
    found = json.loads(index.read_text())
    left_out = [name for name, reason in found["damaged"]]
    for name, reason in found["damaged"]:
        log.warning("%s: left out, damaged: %s", name, reason)
    kept = []
    for k, (name, height, width) in enumerate(zip(found["names"], found["heights"], found["widths"], strict=True)):
        if min(height, width) >= smallest_side:
            kept.append(k)
        else:
            log.warning("%s: left out, %dx%d is under %d pixels", name, width, height, smallest_side)
            left_out.append(name)
    if not kept:
        raise ValueError(
            f"{folder}: no picture to train on ({len(left_out)} left out as damaged or under {smallest_side} pixels); "
            "give a folder of photographs with --data"
        )
    shapes = np.stack([found["heights"], found["widths"]], 1)
    sizes = 3 * shapes.prod(1)
    pixels = np.memmap(place.with_suffix(".pixels"), np.uint8, "r")
    images = Images(pixels, sizes.cumsum() - sizes, shapes).select(kept)
    digest = hashlib.sha256("".join(found["sha256"][k] for k in kept).encode())
    return Photos(tuple(found["names"][k] for k in kept), images, digest.hexdigest(), tuple(sorted(left_out)))


def _map(folder: Path, files: list[Path], pixels: Path, index: Path) -> None:
    """Write the pixels of every readable file one after the other, then the index, which says that they are whole."""
    found: dict[str, list] = {key: [] for key in ("names", "heights", "widths", "sha256", "damaged")}
    pixels.parent.mkdir(parents=True, exist_ok=True)
    with replacing(pixels) as temporary, open(temporary, "wb") as file:
        for path in tqdm(files, desc="photographs", unit="photo", dynamic_ncols=True, disable=len(files) < 100):
            name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
            try:
                image = read_image(path)
            except (ImageError, OSError) as error:
                found["damaged"].append((name, str(error)))
                continue
            content = image.tobytes()
            file.write(content)
            found["names"].append(name)
            found["heights"].append(image.shape[0])
            found["widths"].append(image.shape[1])
            found["sha256"].append(hashlib.sha256(name.encode() + repr(image.shape).encode() + content).hexdigest())
    write_text(index, json.dumps(found))


def held_out(name: str, every: int) -> bool:
    """Whether a photograph is kept out of the training: one in `every`, chosen by its name alone.

    The name is the path below the folder; its sha256, divisible by `every`, decides in any folder and order.
    """
    return int.from_bytes(hashlib.sha256(Path(name).as_posix().encode()).digest()) % every == 0


def without_held_out(photos: Photos, every: int) -> Photos:
    """The photographs that are trained on, with a sha256 of their own. Raises ValueError when none is left."""
    kept = [k for k, name in enumerate(photos.names) if not held_out(name, every)]
    if not kept:
        raise ValueError(f"held_out {every}: no photograph is left to train on; give more photographs or held_out 0")
    names = tuple(photos.names[k] for k in kept)
    digest = hashlib.sha256("\0".join([photos.sha256, *names]).encode())
    return replace(photos, names=names, images=photos.images.select(kept), sha256=digest.hexdigest())


def crops(images: Images, count: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random crops, flipped at random. Large pictures are drawn more often.

    Parameters
    ----------
    images : Images
    count, side : int
        Number of crops; pixels of their sides, at most the shortest side of the pictures.
    rng : numpy.random.Generator

    Returns
    -------
    crops : ndarray of uint8, count x side x side x 3
    picked : ndarray of int, count
        Which picture each is from.
    """
    sides = np.sqrt(images.shapes.prod(1))
    picked = rng.choice(len(images), size=count, p=sides / sides.sum())
    out = np.empty((count, side, side, 3), np.uint8)
    for k, index in enumerate(picked):
        out[k] = _crop(images[index], side, rng)
    return out, picked


def _crop(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    top = rng.integers(image.shape[0] - side + 1)
    left = rng.integers(image.shape[1] - side + 1)
    crop = image[top : top + side, left : left + side]
    return crop[:, ::-1] if rng.integers(2) else crop


def scaled_crops(images: Images, count: int, side: int, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """As `crops`, each of a picture made smaller by a factor drawn from [smallest, 1], where its size allows."""
    sides, shortest = np.sqrt(images.shapes.prod(1)), images.shapes.min(1)
    out = np.empty((count, side, side, 3), np.uint8)
    for k in range(count):
        wide = round(side / rng.uniform(smallest, 1))
        fits = np.flatnonzero(shortest >= wide)
        if not len(fits):
            fits, wide = np.arange(len(images)), int(shortest.min())
        index = rng.choice(fits, p=sides[fits] / sides[fits].sum())
        crop = _crop(images[index], wide, rng)
        out[k] = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS))
    return out


def smooth_fields(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Constants, linear gradients and smooth shades in random colours, rounded to 8 bits: count x side x side x 3."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    out = np.empty((count, side, side, 3), np.uint8)
    for k in range(count):
        colour = rng.uniform(0, 255, 3)
        kind = rng.integers(3)
        if kind == 0:
            field = np.zeros((side, side, 3))
        elif kind == 1:
            angle = rng.uniform(0, 2 * np.pi)
            field = (x * np.cos(angle) + y * np.sin(angle))[..., None] * rng.normal(0, 60, 3)
        else:
            nodes = Image.fromarray(rng.normal(0, 1, (4, 4)).astype(np.float32))
            shade = np.asarray(nodes.resize((side, side), Image.Resampling.BICUBIC))
            field = shade[..., None] * rng.normal(0, 40, 3)
        out[k] = (colour + field).clip(0, 255).round()
    return out
