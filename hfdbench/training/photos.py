# pyright: basic
"""Training photographs: a folder of pictures as random crops, the same crops for the same seed and step."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photos:
    """names and uint8 arrays (H x W x 3, sRGB) of every usable picture, and a sha256 of all names and pixels."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]
    sha256: str
    left_out: tuple[str, ...] = ()


def read_photos(folder: Path, smallest_side: int) -> Photos:
    """Read a folder (recursively) into memory.

    Damaged pictures and those with a side under `smallest_side` pixels are left out and named in the log.
    Raises ValueError when nothing is left to train on.
    """
    names, images, left_out = [], [], []
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in SUFFIXES):
        name = str(path.relative_to(folder))
        try:
            with Image.open(path) as picture:
                image = np.asarray(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            log.warning("%s: left out, damaged: %s", name, error)
            left_out.append(name)
            continue
        if min(image.shape[:2]) < smallest_side:
            log.warning("%s: left out, %dx%d is under %d pixels", name, image.shape[1], image.shape[0], smallest_side)
            left_out.append(name)
            continue
        digest.update(name.encode() + b"\0" + repr(image.shape).encode() + image.tobytes())
        names.append(name)
        images.append(image)
    if not images:
        raise ValueError(
            f"{folder}: no picture to train on ({len(left_out)} left out as damaged or under {smallest_side} pixels); "
            "give a folder of photographs with --data"
        )
    return Photos(tuple(names), tuple(images), digest.hexdigest(), tuple(left_out))


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
    names, images = tuple(photos.names[k] for k in kept), tuple(photos.images[k] for k in kept)
    digest = hashlib.sha256("\0".join([photos.sha256, *names]).encode())
    return replace(photos, names=names, images=images, sha256=digest.hexdigest())


def scaled_crops(images, count: int, side: int, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """As `crops`, each of a picture made smaller by a factor drawn from [smallest, 1], where its size allows."""
    out = np.empty((count, side, side, 3), np.uint8)
    for k in range(count):
        wide = round(side / rng.uniform(smallest, 1))
        fits = [image for image in images if min(image.shape[:2]) >= wide] or images
        wide = min(wide, *(min(image.shape[:2]) for image in fits))
        crop = crops(fits, 1, wide, rng)[0][0]
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


def crops(images: list[np.ndarray], count: int, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`count` random crops, flipped at random (count x side x side x channels), and the indices of their pictures (count).

    Large pictures are drawn more often.
    """
    sides = np.sqrt([image.shape[0] * image.shape[1] for image in images])
    picked = rng.choice(len(images), size=count, p=sides / sides.sum())
    out = np.empty((count, side, side, images[0].shape[2]), images[0].dtype)
    for k, index in enumerate(picked):
        image = images[index]
        top = rng.integers(image.shape[0] - side + 1)
        left = rng.integers(image.shape[1] - side + 1)
        crop = image[top : top + side, left : left + side]
        out[k] = crop[:, ::-1] if rng.integers(2) else crop
    return out, picked
