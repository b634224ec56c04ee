"""A picture file, whatever its kind, as uint8, H x W x 3, sRGB.

This happens once, on reading; no codec and no metric ever sees anything else. The rules, in order (`VERSION` goes up
whenever they or the crops of `dataset` change, and is part of every dataset's sha256):

    kinds       PNG, JPEG, WebP, TIFF, BMP, AVIF, JPEG 2000 and PNM, told by content and not by suffix. Of several frames or
                pages the first is read.
    limits      at most 134,217,728 pixels (a bomb otherwise); both sides at least 16 pixels.
    turned      the EXIF orientation is applied.
    16 bits     v / 257 rounded to nearest, for grey and colour, PNG, TIFF and PNM. Pillow alone drops the low byte of colour,
                so the two bytes are read apart and put together here. AVIF and JPEG 2000 deeper than 8 bits are reduced by
                their decoders. Other numbers (32-bit, float) have no agreed white and are refused.
    palette     its colours are looked up. One bit: 0 and 255.
    ICC         an embedded profile is followed to sRGB by relative colorimetric intent, without black point compensation, in
                8 bits. A profile that moves no colour of a 17-step lattice by more than one level is sRGB already, and the
                pixels are left alone. A profile that is damaged or of another colour space than the pixels is ignored.
                PNG's gAMA, cHRM and cICP are not followed.
    grey        copied to the three channels (after its own profile, if it has one).
    CMYK        through its profile; without one (1-C)(1-K), Pillow's rule.
    alpha       composited over white, on sRGB values, rounded; also a PNG's transparent colour.

Everything else is refused with a ImageError that names the file and the cause.
"""

import io
import re
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from hfdbench.errors import ImageError

VERSION = 1
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".jp2", ".ppm", ".pgm")
KINDS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
MOST_PIXELS = 1 << 27
SMALLEST_SIDE = 16

DEEP = re.compile(r"(RGB|RGBX|RGBA|CMYK);16([BLN])")
OTHER_BYTE = {"B": "L", "L": "B", "N": "L" if sys.byteorder == "big" else "B"}


def read_picture(path: Path) -> np.ndarray:
    """Pixels of a picture file by the rules above: uint8, H x W x 3. Raises ImageError."""
    try:
        with open(path, "rb") as stream:
            pixels = _ingest(stream)
    except ImageError as error:
        raise ImageError(f"{path.name}: {error}") from None
    except Image.UnidentifiedImageError:
        cause = "is not a picture of a known kind" if path.stat().st_size else "is empty"
        raise ImageError(f"{path.name}: {cause}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path.name}: holds more than {MOST_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise ImageError(f"{path.name}: is not there any more") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything; the run goes on without it
        raise ImageError(f"{path.name}: cannot be read: {error or type(error).__name__}") from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        height, width = pixels.shape[:2]
        raise ImageError(f"{path.name}: {width}x{height} pixels; both sides must be at least {SMALLEST_SIDE}")
    return pixels


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) by the file's header, before any turning. Raises ImageError."""
    try:
        with open(path, "rb") as stream:
            return _open(stream).size[::-1]
    except Exception as error:
        raise ImageError(f"{path.name}: cannot be read: {error or type(error).__name__}") from error


def _open(stream: BinaryIO) -> Image.Image:
    Image.init()
    # Only these kinds: Pillow knows others that start programs (EPS) or read several files.
    kinds = [kind for kind in KINDS if kind in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below stands in its place
        image = Image.open(stream, formats=kinds)
    if image.width * image.height > MOST_PIXELS:
        raise ImageError(f"holds more than {MOST_PIXELS:,} pixels ({image.width}x{image.height})")
    return image


def _ingest(stream: BinaryIO) -> np.ndarray:
    image = _open(stream)
    profile = image.info.get("icc_profile")
    image = _eight_bits(image, stream)
    colour, alpha = _split(image)
    pixels = np.asarray(_to_srgb(colour, profile))
    if alpha is None:
        return np.array(pixels)
    opacity = np.asarray(alpha, dtype=np.uint32)[..., None]
    return ((pixels * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first: the TIFF reader turns by itself on loading
    return ImageOps.exif_transpose(image)


def _eight_bits(image: Image.Image, stream: BinaryIO) -> Image.Image:
    """The upright picture with 8 bits a channel."""
    raw = _raw_modes(image)
    if raw == {"LA;16B"}:
        # Read as four bytes a pixel: grey high and low, alpha high and low.
        bytes_ = np.asarray(_upright(_with_raw_modes(image, lambda _: "RGBA"))).astype(np.uint16)
        return _rounded(bytes_[..., 0::2] << 8 | bytes_[..., 1::2], "LA")
    if raw and all(DEEP.fullmatch(mode) for mode in raw):
        key = image.info.get("transparency")
        high = _upright(image)
        low = _upright(_with_raw_modes(_open(stream), lambda mode: mode[:-1] + OTHER_BYTE[mode[-1]]))
        deep = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
        if key is not None and image.mode == "RGB":
            alpha = np.where((deep == key).all(axis=-1, keepdims=True), 0, 65535).astype(np.uint16)
            return _rounded(np.concatenate([deep, alpha], axis=-1), "RGBA")
        return _rounded(deep, image.mode)
    key, kind = image.info.get("transparency"), image.format
    image = _upright(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        deep = np.asarray(image).astype(np.uint16)
        if key is not None:
            return _rounded(np.stack([deep, np.where(deep == key, 0, 65535).astype(np.uint16)], axis=-1), "LA")
        return _rounded(deep, "L")
    return image


def _raw_modes(image: Image.Image) -> set[str]:
    arguments = [tile.args for tile in getattr(image, "tile", ())]
    modes = {entry if isinstance(entry, str) else (entry or ("",))[0] for entry in arguments}
    return {mode for mode in modes if isinstance(mode, str)} if arguments else set()


def _with_raw_modes(image: Image.Image, change) -> Image.Image:
    """The same unread file, its samples to be taken apart in another way."""
    image.tile = [
        tile._replace(args=change(tile.args) if isinstance(tile.args, str) else (change(tile.args[0]), *tile.args[1:]))
        for tile in image.tile
    ]
    return image


def _rounded(deep: np.ndarray, mode: str) -> Image.Image:
    """uint16 to uint8: white stays white, every level goes to its nearest."""
    pixels = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    bands = [pixels] if pixels.ndim == 2 else [pixels[..., band] for band in range(pixels.shape[-1])]
    return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(band)) for band in bands])


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colour (L, RGB or CMYK) and opacity, if there is any."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("1", "L", "La"):
        image = image.convert("LA" if image.has_transparency_data else "L")
    elif image.mode in ("RGB", "RGBa", "RGBX", "YCbCr"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if image.mode not in ("L", "RGB", "CMYK"):
        raise ImageError(f'pixels of kind "{image.mode}" have no stated rule; convert it to 8 or 16 bits a channel')
    return image, None


def _to_srgb(colour: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            return _follow(colour, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (OSError, ImageCms.PyCMSError):
            pass  # damaged: taken as sRGB, as without one
    return colour.convert("RGB")


def _follow(colour: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space)
    if colour.mode == "L" and mode == "RGB":
        colour = colour.convert("RGB")
    if mode != colour.mode:
        return colour.convert("RGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    exact = ImageCms.Flags.NOOPTIMIZE  # with its tables, Little CMS is up to 10 levels off in dark, linear grey
    to_srgb = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags=exact)
    if mode != "CMYK":
        levels = np.linspace(0, 255, 17).round().astype(np.uint8)
        axes = np.meshgrid(*[levels] * len(mode), indexing="ij")
        lattice = Image.merge(mode, [Image.fromarray(axis.reshape(17, -1)) for axis in axes])
        before = np.asarray(lattice.convert("RGB")).astype(np.int16)
        if np.abs(np.asarray(ImageCms.applyTransform(lattice, to_srgb)) - before).max() <= 1:
            return colour.convert("RGB")
    return ImageCms.applyTransform(colour, to_srgb)
