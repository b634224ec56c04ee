"""Any encoder and decoder that are programs: run on files in a temporary folder, without a shell.

Conventions: `encode` and `decode` are lists of words, `env` holds variables of theirs; in each word {input} and {output} stand
for files, {level} for the point's own setting, {width} and {height} for the size the program sees, {env:NAME} for an environment
variable. `image` is the format of the pictures that the encoder reads and the decoder writes:

    png, ppm     8-bit sRGB; the stream is the encoder's file
    yuv444p10    raw planes Y, Cb, Cr, 16-bit little-endian words of 10 bits, full size
    yuv420p10    the same with chroma halved both ways: mean of 2 x 2, back by linear interpolation, both centre-sited

A picture is padded to a multiple of `multiple` pixels by repeating its border, and cropped after decoding. Streams of raw
or padded pictures begin with height and width (2 bytes each, counted). Colour goes through Y'CbCr of ITU-R
BT.709, full or limited range, in float64, rounded: in 4:4:4 the way there and back is exact for every 8-bit colour.
"""

import io
import os
import re
import shutil
import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pictures

from hfdbench.errors import CodecError, StreamError, Unavailable, UsageError
from hfdbench.files.temporary import temporary_folder

SIZE = struct.Struct(">HH")  # height, width
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
FILES = {"png": "PNG", "ppm": "PPM"}
RAW = ("yuv444p10", "yuv420p10")
RANGES = ("full", "limited")
TAIL = 800  # characters of a program's output that an error keeps


class Command:
    """A pair of programs. `hint` is the line that installs them; `suffix` is what they expect a stream's name to end in."""

    version = 1
    libraries = ()

    def __init__(
        self,
        encode: Sequence[str],
        decode: Sequence[str],
        level: str | int | float = "",
        image: str = "png",
        suffix: str = ".bin",
        multiple: int = 1,
        range: str = "full",
        timeout_s: float = 600,
        env: dict[str, str] | None = None,
        hint: str = "",
    ):
        if image not in (*FILES, *RAW):
            raise UsageError(f'image = "{image}": must be one of {", ".join((*FILES, *RAW))}')
        if range not in RANGES:
            raise UsageError(f'range = "{range}": must be "full" or "limited"')
        if image == "yuv420p10" and multiple % 2:
            raise UsageError(f"multiple = {multiple}: must be even for yuv420p10")
        self._env = dict(os.environ)
        self._level, self._image, self._suffix = str(level), image, suffix
        self._multiple, self._range, self._timeout_s = multiple, range, timeout_s
        try:
            self._env |= {name: self._fill(value, {}) for name, value in (env or {}).items()}
        except Unavailable as error:
            raise Unavailable(error.reason, hint) from None
        for words in (encode, decode):
            if not words:
                raise UsageError("encode and decode must each name a program")
            program = self._fill(words[0], {})
            if shutil.which(program, path=self._env.get("PATH")) is None:
                raise Unavailable(f'the program "{program}" is not here', hint)
        everything: dict[str, str] = dict.fromkeys(("input", "output", "width", "height"), "")
        try:
            self._encode = list(encode), [self._fill(word, everything) for word in encode]
            self._decode = list(decode), [self._fill(word, everything) for word in decode]
        except Unavailable as error:
            raise Unavailable(error.reason, hint) from None

    def encode(self, image: np.ndarray) -> bytes:
        height, width = image.shape[:2]
        raw = self._image in RAW
        headed = raw or self._multiple > 1
        if headed and max(height, width) > 0xFFFF:
            raise CodecError(f"{width} x {height} pixels: the size in the stream goes to 65535 a side")
        seen = np.pad(image, ((0, -height % self._multiple), (0, -width % self._multiple), (0, 0)), mode="edge")
        picture = to_yuv(seen, self._image, self._range) if raw else _write(seen, FILES[self._image])
        seen_size = {"height": str(seen.shape[0]), "width": str(seen.shape[1])}
        stream = self._run(self._encode[0], picture, f".{self._kind}", self._suffix, seen_size)
        return (SIZE.pack(height, width) if headed else b"") + stream

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if self._image not in RAW and self._multiple == 1:
            return self._picture(self._decoded(stream, {}), 0, 0)
        if len(stream) <= SIZE.size or 0 in (size := SIZE.unpack_from(stream)):
            raise StreamError("the stream has no picture size: truncated or foreign")
        height, width = size
        seen = height + -height % self._multiple, width + -width % self._multiple
        written = self._decoded(stream[SIZE.size :], {"height": str(seen[0]), "width": str(seen[1])})
        image = self._picture(written, *seen)
        if image.shape[:2] != seen:
            raise StreamError("the decoder wrote a picture of another size than the stream says")
        return image[:height, :width].copy()

    def _picture(self, written: bytes, height: int, width: int) -> np.ndarray:
        if self._image in RAW:
            return from_yuv(written, height, width, self._image, self._range)
        return _read(written, FILES[self._image])

    @property
    def _kind(self) -> str:
        return "yuv" if self._image in RAW else self._image

    def _decoded(self, stream: bytes, size: dict[str, str]) -> bytes:
        try:
            return self._run(self._decode[0], stream, self._suffix, f".{self._kind}", size)
        except _Failed as error:
            raise StreamError(f"the decoder refused the stream: {error}") from None

    def _run(self, words: list[str], data: bytes, suffix_in: str, suffix_out: str, size: dict[str, str]) -> bytes:
        """What the program writes to {output} when {input} holds `data`. Raises CodecError."""
        with temporary_folder() as folder:
            source, target, log = folder / f"in{suffix_in}", folder / f"out{suffix_out}", folder / "log"
            source.write_bytes(data)
            command = [self._fill(word, {"input": str(source), "output": str(target), **size}) for word in words]
            # Output goes to a file, not a pipe: a grandchild that outlives the program cannot block us.
            with open(log, "wb") as out:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=self._env,
                    start_new_session=True,
                )
                try:
                    code = process.wait(self._timeout_s)
                except subprocess.TimeoutExpired:
                    raise CodecError(f"{command[0]} did not end in {self._timeout_s:g} s{_tail(log)}") from None
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)  # the program and whatever it started
                        process.wait()
            if code != 0:
                raise _Failed(f"{command[0]} ended with code {code}{_tail(log)}")
            if not target.is_file() or target.stat().st_size == 0:
                raise _Failed(f"{command[0]} wrote no output{_tail(log)}")
            return target.read_bytes()

    def _fill(self, word: str, values: dict[str, str]) -> str:
        def value(match: re.Match) -> str:
            name = match[1]
            if name.startswith("env:"):
                if name[4:] not in self._env:
                    raise Unavailable(f"the environment variable {name[4:]} is not set")
                return self._env[name[4:]]
            known = {"level": self._level, **values}
            if name not in known:
                raise UsageError(f'"{word}": no placeholder {{{name}}}; known: {", ".join(known)}, env:NAME')
            return known[name]

        return PLACEHOLDER.sub(value, word)


class _Failed(CodecError):
    """A program that ran and gave nothing: in decoding, the stream's fault as far as one can tell."""


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace").strip()
    return f": {text[-TAIL:]}" if text else ""


def _write(image: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(image).save(file, format)
    return file.getvalue()


def _read(data: bytes, format: str) -> np.ndarray:
    try:
        with Pictures.open(io.BytesIO(data), formats=[format]) as picture:
            return np.array(picture.convert("RGB"))
    except Exception as error:
        raise StreamError(f"the decoder wrote no readable {format}: {error}") from error


# ITU-R BT.709-6, item 3.2: luma weights; items 3.3 and 4.6: colour differences and their 10-bit limited range.
# Full range: ITU-T H.273, equations 27 to 29.
KR, KB = 0.2126, 0.0722
SCALE = {"full": (1023.0, 0.0, 1023.0), "limited": (876.0, 64.0, 896.0)}  # luma span, luma offset, chroma span
MIDDLE = 512.0


def to_yuv(image: np.ndarray, layout: str, range: str) -> bytes:
    """Planes Y, Cb, Cr of uint8 RGB, H x W x 3, as raw 10-bit words. Sides must be even for yuv420p10."""
    rgb = image.astype(np.float64) / 255
    span, offset, chroma_span = SCALE[range]
    y = KR * rgb[..., 0] + (1 - KR - KB) * rgb[..., 1] + KB * rgb[..., 2]
    cb, cr = (rgb[..., 2] - y) / (2 * (1 - KB)), (rgb[..., 0] - y) / (2 * (1 - KR))
    if layout == "yuv420p10":
        cb, cr = _halve(cb), _halve(cr)
    planes = y * span + offset, cb * chroma_span + MIDDLE, cr * chroma_span + MIDDLE
    return b"".join(np.clip(np.rint(plane), 0, 1023).astype("<u2").tobytes() for plane in planes)


def from_yuv(data: bytes, height: int, width: int, layout: str, range: str) -> np.ndarray:
    """uint8 RGB, H x W x 3, of raw 10-bit planes. Raises StreamError when they are not of this size."""
    half = layout == "yuv420p10"
    chroma = (height // 2, width // 2) if half else (height, width)
    counts = height * width, chroma[0] * chroma[1]
    if len(data) != 2 * (counts[0] + 2 * counts[1]):
        raise StreamError(f"the decoder wrote {len(data)} bytes, not one {layout} picture of {width} x {height}")
    y, cb, cr = np.split(np.frombuffer(data, "<u2").astype(np.float64), [counts[0], counts[0] + counts[1]])
    span, offset, chroma_span = SCALE[range]
    y = (y.reshape(height, width) - offset) / span
    cb, cr = ((plane.reshape(chroma) - MIDDLE) / chroma_span for plane in (cb, cr))
    if half:
        cb, cr = _double(cb), _double(cr)
    red, blue = y + 2 * (1 - KR) * cr, y + 2 * (1 - KB) * cb
    green = (y - KR * red - KB * blue) / (1 - KR - KB)
    return np.clip(np.rint(np.stack([red, green, blue], axis=-1) * 255), 0, 255).astype(np.uint8)


def _halve(plane: np.ndarray) -> np.ndarray:
    return (plane[0::2, 0::2] + plane[1::2, 0::2] + plane[0::2, 1::2] + plane[1::2, 1::2]) / 4


def _double(plane: np.ndarray) -> np.ndarray:
    """Linear interpolation: a pixel lies a quarter of a chroma sample away from its nearest one."""
    for axis in (0, 1):
        padded = np.pad(plane, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        before, after = (np.take(padded, np.arange(i, i + plane.shape[axis]), axis=axis) for i in (0, 2))
        both = np.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis=axis + 1)
        plane = both.reshape([2 * n if a == axis else n for a, n in enumerate(plane.shape)])
    return plane
