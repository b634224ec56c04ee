"""An image file, whatever its kind, as uint8, H x W x 3, sRGB.

This happens once, on reading; no codec, no metric and no training ever sees anything else. The rules, in order:

    kinds       PNG, JPEG, WebP, TIFF, BMP, AVIF, JPEG 2000 and PNM, recognised by content, not by suffix. Of several frames or
                pages the first is read.
    limits      at most 134,217,728 pixels (a bomb otherwise); both sides at least 16 pixels.
    depth       v / (2^bits - 1) * 255, rounded to nearest, for 1 to 16 bits, grey and colour. Pillow alone drops the low byte of
                16-bit colour, so the two bytes are read apart and put together here. AVIF deeper than 8 bits is reduced by its
                decoder. Signed numbers, 32-bit numbers and floats have no agreed white and are refused, as is JPEG 2000 in
                colour deeper than 8 bits, which Pillow's decoder reads wrongly.
    TIFF        black or white is zero, RGB, palette, CMYK and YCbCr, in strips or tiles, chunky or planar.
    palette     its colours are looked up. One bit: 0 and 255.
    colour      an ICC profile, or what `colour` finds in its stead, is followed to sRGB by relative colorimetric intent, without
                black point compensation, in 8 bits. A profile that moves no colour of a 17-step lattice by more than one level
                is sRGB already, and the pixels are left alone. A profile that is damaged or of another colour space than the
                pixels is ignored.
    grey        copied to the three channels (after its own profile, if it has one).
    CMYK        through its profile; without one (1-C)(1-K), Pillow's rule.
    alpha       composited over white, on sRGB values, rounded; also a PNG's transparent colour. A BMP whose alpha is zero
                everywhere has none: its writer left that byte empty.
    turned      the EXIF orientation is applied, whatever else in the EXIF data is damaged.

Everything else is refused with an ImageError that names the file and the cause. PNG alone carries check sums; damage inside another
kind that still decodes is found by the sha256 of the dataset, not here.
"""

import io
import re
import struct
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

from hfdbench.datasets.colour import Header, read_header
from hfdbench.datasets.ids import printable
from hfdbench.errors import ImageError

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".j2c", ".jpc", ".ppm", ".pgm", ".pbm", ".pnm"),
)
KINDS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM")
MOST_PIXELS = 1 << 27
SMALLEST_SIDE = 16

DEEP = re.compile(r"(RGB|RGBX|RGBA|RGBa|CMYK|CMYKX);16([BLN])")
OTHER_BYTE = {"B": "L", "L": "B", "N": "L" if sys.byteorder == "big" else "B"}
ORIENTATION = 0x0112
TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def read_image(path: Path) -> np.ndarray:
    """Read an image file by the rules above.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ndarray of uint8, H x W x 3
        sRGB values. The array is the caller's own.

    Raises
    ------
    ImageError
        When the file is damaged, not an image, or of a variety without a stated rule. The message names the file.
    """
    try:
        with open(path, "rb") as stream:
            pixels = _read(stream)
    except ImageError as error:
        raise ImageError(f"{printable(path.name)}: {error}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{printable(path.name)}: {_unidentified(path)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{printable(path.name)}: holds more than {MOST_PIXELS:,} pixels") from None
    except FileNotFoundError:
        raise ImageError(f"{printable(path.name)}: is not there any more") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything; the run goes on without it
        raise ImageError(f"{printable(path.name)}: cannot be read: {error or type(error).__name__}") from error
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        height, width = pixels.shape[:2]
        raise ImageError(
            f"{printable(path.name)}: {width}x{height} pixels; both sides must be at least {SMALLEST_SIDE}"
        )
    return pixels


class PictureHeader(NamedTuple):
    """What a file's header says: height and width before any turning, Pillow's mode."""

    height: int
    width: int
    mode: str


def picture_header(path: Path) -> PictureHeader:
    """Read a file's header alone. Raises ImageError."""
    try:
        with open(path, "rb") as stream:
            image = _open(stream)
            return PictureHeader(image.height, image.width, image.mode)
    except Image.UnidentifiedImageError:
        raise ImageError(f"{printable(path.name)}: {_unidentified(path)}") from None
    except Exception as error:
        raise ImageError(f"{printable(path.name)}: cannot be read: {error or type(error).__name__}") from error


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) by the file's header, before any turning. Raises ImageError."""
    header = picture_header(path)
    return header.height, header.width


def image_suffix(name: str) -> bool:
    """Whether a file name ends as those of images do."""
    return name.lower().endswith(SUFFIXES)


def rules_version(path: Path) -> int:
    """Version of the rules that a file's pixels follow: it goes up when they change for files like this one.

    It is part of a dataset's sha256, so that results of earlier rules are not taken for those of this file. 0: unreadable.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return 0
    if head.startswith(b"\x89PNG"):
        header = head.partition(b"IDAT")[0]
        low_key = head[24:26] in (b"\2\0", b"\4\0") and b"tRNS" in header
        gamma = any(kind in header for kind in (b"gAMA", b"cHRM")) and b"sRGB" not in header and b"iCCP" not in header
        return 2 if low_key or gamma or b"cICP" in header else 1
    changed = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")
    return 2 if head.startswith(changed) or head[4:8] == b"ftyp" else 1


class _Samples(NamedTuple):
    """8 bits a channel: colour as L, RGB or CMYK, and opacity (L), if there is any."""

    colour: Image.Image
    alpha: Image.Image | None


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


def _unidentified(path: Path) -> str:
    with open(path, "rb") as stream:
        head = stream.read(16)
    if not head:
        return "is empty"
    known = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP", b"P": "PNM", b"\x89PNG": "PNG", b"\xff\xd8": "JPEG"}
    kind = next((kind for magic, kind in known.items() if head.startswith(magic)), None)
    if kind in (None, "PNM") and not re.match(rb"P[1-7fF]\s", head):
        return "is not a picture of a known kind"
    return f"is a damaged {kind} file, or one of a variety that has no stated rule; convert it to PNG"


def _read(stream: BinaryIO) -> np.ndarray:
    image = _open(stream)
    header = read_header(image.format or "", stream)
    profile = header.profile if header.replaces else image.info.get("icc_profile")
    tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    samples = _tiff_samples(image, stream) if tiff else _samples(image, stream, header)
    orientation = _orientation(image)  # last: a PNG may hold it behind the pixels, and Pillow turns a TIFF on loading
    pixels = np.asarray(_to_srgb(samples.colour, profile))
    if samples.alpha is not None:
        opacity = np.asarray(samples.alpha, dtype=np.uint32)[..., None]
        pixels = ((pixels * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.array(TURNS.get(orientation, np.asarray)(pixels), order="C")


def _orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts; 1 for what viewers ignore: a value outside, or of another type."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception as error:
        raise ImageError(f"its EXIF data cannot be read, so its orientation is unknown: {error}") from None
    return value if isinstance(value, int) and value in TURNS else 1


# --- samples ----------------------------------------------------------------------------------------------------------


def _samples(image: Image.Image, stream: BinaryIO, header: Header) -> _Samples:
    raw = _raw_modes(image)
    if raw == {"LA;16B"}:
        # Read as four bytes a pixel: grey high and low, alpha high and low.
        pairs = np.asarray(_with_raw_modes(image, lambda _: "RGBA")).astype(np.uint16)
        return _reduced(pairs[..., 0::2] << 8 | pairs[..., 1::2], "LA")
    if raw and all(DEEP.fullmatch(mode) for mode in raw):
        return _deep_colour(image, stream)
    key = image.info.get("transparency")
    if header.grey_key is not None:
        image.info["transparency"] = key = (
            header.grey_key * 255 // (2**header.bits - 1)
        )  # in the units of the 8-bit pixels
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        deep = np.asarray(image).astype(np.uint16)
        if image.format == "JPEG2000":
            return _reduced(deep >> (16 - header.bits), "L", header.bits)  # Pillow shifts them to the top
        if key is not None:
            return _reduced(np.stack([deep, np.where(deep == key, 0, 65535).astype(np.uint16)], axis=-1), "LA")
        return _reduced(deep, "L")
    if image.format == "JPEG2000" and header.bits > 8:
        raise ImageError(
            f"JPEG 2000 of 1 channels of {header.bits} bits is not read rightly; convert it to PNG or TIFF"
        )
    if image.format == "JPEG2000" and header.bits < 8:
        low = np.asarray(image) >> (8 - header.bits)
        return _reduced(low, image.mode, header.bits)
    if image.format in ("BMP", "DIB") and image.mode == "RGBA" and not np.asarray(image.getchannel("A")).any():
        image = image.convert("RGB")
    return _split(image)


def _tiff_samples(image: TiffImagePlugin.TiffImageFile, stream: BinaryIO) -> _Samples:
    tags = image.tag_v2

    def every(tag: int, default: int) -> set[int]:
        value = tags.get(tag, default)
        return set(value) if isinstance(value, tuple) else {value}

    depths, formats = every(258, 1), every(339, 1)
    photometric, count, planar = tags.get(262), tags.get(277, 1), tags.get(284, 1) == 2
    extra = tags.get(338, ())
    if len(depths) != 1 or max(depths) > 16 or not formats <= {1, 4} or photometric not in (0, 1, 2, 3, 5, 6):
        raise ImageError(
            f"TIFF of {'/'.join(map(str, sorted(depths)))} bits, sample format {'/'.join(map(str, sorted(formats)))} and "
            f"photometric interpretation {photometric} has no stated rule; convert it to 8 or 16 bits a channel"
        )
    (bits,) = depths
    if planar and count > 1:
        colours = {0: 1, 1: 1, 2: 3, 5: 4}.get(photometric)
        if colours is None or bits not in (8, 16) or count > colours + 1:
            raise ImageError(
                f"planar TIFF of {count} channels of photometric interpretation {photometric} has no stated rule"
            )
        planes = np.stack([_tiff_plane(image, stream, k) for k in range(count)], axis=-1)
        if photometric == 0:
            planes[..., 0] = 2**bits - 1 - planes[..., 0]
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours]
        if count == colours or extra[:1] == (0,) or mode == "CMYK":
            return _reduced(planes[..., :colours] if colours > 1 else planes[..., 0], mode, bits)
        return _reduced(_straight(planes, bits) if extra[:1] == (1,) else planes, mode + "A", bits)
    raw = _raw_modes(image)
    if raw and all(DEEP.fullmatch(mode) for mode in raw):
        return _deep_colour(image, stream)
    image.load()
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)
        return _reduced((2**bits - 1 - deep) if photometric == 0 else deep, "L", bits)
    return _split(image)


def _tiff_plane(image: TiffImagePlugin.TiffImageFile, stream: BinaryIO, index: int) -> np.ndarray:
    """One channel of a planar TIFF, read as a grey TIFF of its own: uint8 or uint16, H x W."""
    tags, count = image.tag_v2, image.tag_v2[277]
    fields = {256: (tags[256],), 257: (tags[257],), 258: tags[258][:1], 262: (1,), 277: (1,), 284: (1,)}
    for tag in (259, 266, 278, 317, 322, 323):  # compression, fill order, rows of a strip, predictor, sides of a tile
        if tag in tags:
            fields[tag] = (tags[tag],)
    for tag in (273, 279, 324, 325):  # places and lengths of strips and tiles: a plane after the other
        if tag in tags:
            part = len(tags[tag]) // count
            fields[tag] = tags[tag][index * part : (index + 1) * part]
    stream.seek(0)
    content = stream.read()
    content += bytes(len(content) % 2)
    order, start = {b"II": "<", b"MM": ">"}[tags.prefix], len(content)
    directory, values = struct.pack(order + "H", len(fields)), b""
    for tag, numbers in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            place = start + 6 + 12 * len(fields) + len(values)
            values, packed = values + packed, struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, 4, len(numbers)) + packed
    head = tags.prefix + struct.pack(order + "HI", 42, start)
    plane = io.BytesIO(head + content[8:] + directory + bytes(4) + values)
    with Image.open(plane, formats=["TIFF"]) as opened:
        return np.asarray(opened)


def _deep_colour(image: Image.Image, stream: BinaryIO) -> _Samples:
    """Colour of 16 bits: both bytes of each sample, read one after the other."""
    key = image.info.get("transparency")
    associated = any(mode.startswith("RGBa") for mode in _raw_modes(image))
    high = _with_raw_modes(image, lambda mode: mode.replace("a", "A"))
    mode = high.mode
    low = _with_raw_modes(_open(stream), lambda mode: mode.replace("a", "A")[:-1] + OTHER_BYTE[mode[-1]])
    deep = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    if associated:
        deep = _straight(deep, 16)
    if key is not None and mode == "RGB":
        alpha = np.where((deep == key).all(axis=-1, keepdims=True), 0, 65535).astype(np.uint16)
        return _reduced(np.concatenate([deep, alpha], axis=-1), "RGBA")
    return _reduced(deep, mode)


def _straight(samples: np.ndarray, bits: int) -> np.ndarray:
    """Colours that were multiplied by their alpha, the last channel, divided by it again."""
    alpha = samples[..., -1:].astype(np.float64)
    colour = np.minimum(samples[..., :-1] / np.maximum(alpha, 1) * (2**bits - 1) + 0.5, 2**bits - 1)
    return np.concatenate([colour.astype(samples.dtype), samples[..., -1:]], axis=-1)


def _raw_modes(image: Image.Image) -> set[str]:
    arguments = [tile.args for tile in getattr(image, "tile", ())]
    modes = {entry if isinstance(entry, str) else (entry or ("",))[0] for entry in arguments}
    return {mode for mode in modes if isinstance(mode, str)} if arguments else set()


def _with_raw_modes(image: Image.Image, change) -> Image.Image:
    """The same unread file, its samples to be taken apart in another way."""
    file = cast(Any, image)
    file.tile = [
        tile._replace(args=change(tile.args) if isinstance(tile.args, str) else (change(tile.args[0]), *tile.args[1:]))
        for tile in file.tile
    ]
    return image


def _reduced(samples: np.ndarray, mode: str, bits: int = 16) -> _Samples:
    """Unsigned samples to 8 bits: white stays white, every level goes to its nearest."""
    most = 2**bits - 1
    pixels = ((samples.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)
    bands = [pixels] if pixels.ndim == 2 else [pixels[..., band] for band in range(pixels.shape[-1])]
    return _split(Image.merge(mode, [Image.fromarray(np.ascontiguousarray(band)) for band in bands]))


def _split(image: Image.Image) -> _Samples:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode in ("1", "L", "La"):
        image = image.convert("LA" if image.has_transparency_data else "L")
    elif image.mode in ("RGB", "RGBa", "RGBX", "YCbCr"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("LA", "RGBA"):
        return _Samples(image.convert(image.mode[:-1]), image.getchannel("A"))
    if image.mode not in ("L", "RGB", "CMYK"):
        raise ImageError(f'pixels of kind "{image.mode}" have no stated rule; convert it to 8 or 16 bits a channel')
    return _Samples(image, None)


# --- colour -----------------------------------------------------------------------------------------------------------


def _to_srgb(colour: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            return _follow(colour, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (OSError, ImageCms.PyCMSError):
            pass  # damaged: taken as sRGB, as without one
    return colour.convert("RGB")


def _follow(colour: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    space = cast(Any, profile.profile).xcolor_space
    mode = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
    if colour.mode == "L" and mode == "RGB":
        colour = colour.convert("RGB")
    if mode is None or mode != colour.mode:
        return colour.convert("RGB")
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    exact = ImageCms.Flags.NOOPTIMIZE  # with its tables, Little CMS is up to 10 levels off in dark, linear grey
    to_srgb = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags=exact)
    if mode != "CMYK":
        levels = np.linspace(0, 255, 17).round().astype(np.uint8)
        axes = np.meshgrid(*[levels] * len(mode), indexing="ij")
        lattice = Image.merge(mode, [Image.fromarray(axis.reshape(17, -1)) for axis in axes])
        before = np.asarray(lattice.convert("RGB")).astype(np.int16)
        followed = cast(Image.Image, ImageCms.applyTransform(lattice, to_srgb))
        if np.abs(np.asarray(followed) - before).max() <= 1:
            return colour.convert("RGB")
    return cast(Image.Image, ImageCms.applyTransform(colour, to_srgb))
