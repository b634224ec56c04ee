"""The image formats that Pillow and its plugins code: JPEG, WebP, JPEG 2000, AVIF, HEIC, JPEG XL.

Conventions: one class per format, one object per operating point. The stream is the whole file with its container, but
without EXIF, ICC profile or comment. `chroma` is "4:2:0" or "4:4:4". `decode` opens no format but its own, and refuses
a stream whose end is missing even where the library would fill the rest with grey (libjpeg, OpenJPEG).
"""

import io

import numpy as np
from PIL import Image as Pictures
from PIL import features

from hfdbench.errors import StreamError, Unavailable, UsageError

# A flat image takes 0.0003 bits a pixel or more in every format here; smaller pictures cost little anyhow.
CLAIM, CLAIM_PER_BYTE = 1 << 24, 1 << 15  # pixels
END_OF_IMAGE = b"\xff\xd9"  # EOI of JPEG, EOC of JPEG 2000: neither can occur inside entropy-coded data


class JPEG:
    """JPEG by libjpeg-turbo. `optimize` fits the Huffman tables to the image, `progressive` orders the scans."""

    version = 1
    libraries = ("pillow", "pillow:libjpeg_turbo")

    def __init__(self, quality: int, chroma: str = "4:2:0", optimize: bool = True, progressive: bool = True):
        _check(quality, chroma)
        self._options = {"quality": quality, "subsampling": chroma, "optimize": optimize, "progressive": progressive}

    def encode(self, image: np.ndarray) -> bytes:
        return _encode(image, "JPEG", self._options)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if not stream.endswith(END_OF_IMAGE):
            raise StreamError("JPEG stream has no end-of-image marker: truncated or foreign")
        return _decode(stream, "JPEG")


class WebP:
    """Lossy WebP by libwebp: always 4:2:0. `method` is the effort, 0 to 6."""

    version = 1
    libraries = ("pillow", "pillow:webp")

    def __init__(self, quality: int, method: int = 6):
        _need("webp", "WebP")
        _check(quality)
        self._options = {"quality": quality, "method": method}

    def encode(self, image: np.ndarray) -> bytes:
        return _encode(image, "WEBP", self._options)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if stream[:4] != b"RIFF" or int.from_bytes(stream[4:8], "little") + 8 != len(stream):
            raise StreamError("WebP stream is not as long as its RIFF header says: truncated or foreign")
        return _decode(stream, "WEBP")


class JPEG2000:
    """JPEG 2000 by OpenJPEG: irreversible 9/7 wavelet, one layer, raw codestream, cut to `bpp` bits per pixel.

    Pillow's own defaults (reversible 5/3, no colour transform) cost several dB and are not used.
    """

    version = 1
    libraries = ("pillow", "pillow:jpg_2000")

    def __init__(self, bpp: float):
        _need("jpg_2000", "JPEG 2000")
        if not 0 < bpp < 24:
            raise UsageError(f"bpp = {bpp}: must lie between 0 and 24")
        rate = {"quality_mode": "rates", "quality_layers": [24 / bpp]}  # OpenJPEG's rate is a compression ratio
        self._options = {"irreversible": True, "mct": 1, "no_jp2": True, **rate}

    def encode(self, image: np.ndarray) -> bytes:
        return _without_comment(_encode(image, "JPEG2000", self._options))

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if stream[:4] != b"\xff\x4f\xff\x51" or not stream.endswith(END_OF_IMAGE):
            raise StreamError("JPEG 2000 codestream lacks its first or last marker: truncated or foreign")
        return _decode(stream, "JPEG2000")


class AVIF:
    """AVIF by libavif and libaom: one thread and one tile, 8 bits. `speed` 0 (slowest) to 10."""

    version = 1
    libraries = ("pillow", "pillow:avif")

    def __init__(self, quality: int, chroma: str = "4:2:0", speed: int = 4):
        _need("avif", "AVIF")
        _check(quality, chroma)
        # Tiles are for parallel decoding and cost rate.
        self._options = {"quality": quality, "subsampling": chroma, "speed": speed, "max_threads": 1}
        self._options["autotiling"] = False

    def encode(self, image: np.ndarray) -> bytes:
        return _encode(image, "AVIF", self._options)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        _check_boxes(stream, "AVIF")
        return _decode(stream, "AVIF")


class HEIC:
    """HEIC by libheif and x265, 8 bits. An optional extra, because x265 is under the GPL."""

    version = 1
    libraries = ("pillow", "pillow-heif")

    def __init__(self, quality: int, chroma: str = "4:2:0"):
        try:
            import pillow_heif
        except ImportError:
            raise Unavailable("HEIC needs pillow-heif", "pip install 'hfdbench[heic]'") from None
        _check(quality, chroma)
        self._heif, self._options = pillow_heif, {"quality": quality, "chroma": int(chroma.replace(":", ""))}

    def encode(self, image: np.ndarray) -> bytes:
        file = io.BytesIO()
        self._heif.from_pillow(Pictures.fromarray(image)).save(file, **self._options)
        return file.getvalue()

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        _check_boxes(stream, "HEIC")
        try:
            opened = self._heif.open_heif(io.BytesIO(stream))
            _check_claim(opened.size, stream)
            return np.array(opened.to_pillow().convert("RGB"))
        except StreamError:
            raise
        except Exception as error:
            raise StreamError(f"HEIC stream cannot be decoded: {error}") from error


class JPEGXL:
    """Lossy JPEG XL by libjxl: XYB colour, VarDCT, bare codestream. `quality` is libjxl's scale, `effort` 1 to 10."""

    version = 1
    libraries = ("pillow", "pillow-jxl-plugin")

    def __init__(self, quality: float, effort: int = 7):
        try:
            import pillow_jxl  # noqa: F401  (registers the format with Pillow)
        except ImportError:
            raise Unavailable("JPEG XL needs pillow-jxl-plugin", "pip install pillow-jxl-plugin") from None
        _check(quality)
        self._options = {"quality": quality, "effort": effort, "num_threads": 1}

    def encode(self, image: np.ndarray) -> bytes:
        return _encode(image, "JXL", self._options)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        return _decode(stream, "JXL")


def _check(quality: float, chroma: str = "4:2:0") -> None:
    if not 0 <= quality <= 100:
        raise UsageError(f"quality = {quality}: must lie in 0 to 100")
    if chroma not in ("4:2:0", "4:4:4"):
        raise UsageError(f'chroma = "{chroma}": must be "4:2:0" or "4:4:4"')


def _need(feature: str, format: str) -> None:
    if not features.check(feature):
        raise Unavailable(f"this Pillow was built without {format}", "pip install --force-reinstall 'pillow>=11.3'")


def _encode(image: np.ndarray, format: str, options: dict) -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(image).save(file, format, **options)
    return file.getvalue()


def _decode(stream: bytes, format: str) -> np.ndarray:
    try:
        with Pictures.open(io.BytesIO(stream), formats=[format]) as picture:
            _check_claim(picture.size, stream)
            return np.array(picture.convert("RGB"))
    except StreamError:
        raise
    except Exception as error:  # the plugins raise nearly every type there is for a damaged file
        raise StreamError(f"{format} stream cannot be decoded: {error}") from error


def _check_claim(size: tuple[int, int], stream: bytes) -> None:
    """Raise StreamError, before memory is taken, for a header that claims more pixels than so few bytes are coded to."""
    width, height = size
    if width * height > max(CLAIM, CLAIM_PER_BYTE * len(stream)):
        raise StreamError(f"the header claims {width} x {height} pixels, not likely in {len(stream):,} bytes: damaged")


def _check_boxes(stream: bytes, format: str) -> None:
    """Raise StreamError unless the top-level boxes (ISO/IEC 14496-12, 4.2) fill the stream exactly."""
    at = 0
    while at + 8 <= len(stream):
        length = int.from_bytes(stream[at : at + 4], "big")
        if length < 8:  # 0 and 1 stand for "to the end" and 64-bit lengths: neither encoder writes them
            break
        at += length
    if at != len(stream) or stream[4:8] != b"ftyp":
        raise StreamError(f"{format} stream is not as long as its boxes say: truncated or foreign")


def _without_comment(codestream: bytes) -> bytes:
    """The codestream without COM segments in its main header: OpenJPEG signs each file with 39 bytes."""
    kept, at = [codestream[:2]], 2
    while codestream[at : at + 2] != b"\xff\x90":  # SOT: the first tile begins
        end = at + 2 + int.from_bytes(codestream[at + 2 : at + 4], "big")
        if codestream[at : at + 2] != b"\xff\x64":
            kept.append(codestream[at:end])
        at = end
    return b"".join([*kept, codestream[at:]])
