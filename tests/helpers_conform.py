"""Codecs that are honest and codecs that cheat, each in a way of its own, over JPEG."""

import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from hfdbench.codecs.pillow import JPEG
from hfdbench.errors import CodecError, StreamError


class Honest(JPEG):
    """JPEG with a batched decode."""

    def __init__(self):
        super().__init__(50)

    def decode_batch(self, streams: list[bytes], *, seed: int) -> list[np.ndarray]:
        return [self.decode(stream, seed=seed) for stream in streams]


class SideFile(Honest):
    """Sends a name and leaves the picture in a folder: the working one, home and temp in turn, or the one given."""

    def __init__(self, folder: str = ""):
        super().__init__()
        self._folder, self._calls = folder, 0

    def _file(self, name: bytes) -> Path:
        turn = (Path.cwd(), Path.home(), Path(tempfile.gettempdir()))[name[0]]
        return (Path(self._folder) if self._folder else turn) / f"side-{name.hex()}.jpg"

    def _named(self, stream: bytes) -> bytes:
        self._calls += 1
        return bytes([(self._calls - 1) % 3]) + hashlib.sha256(stream).digest()[:12]

    def encode(self, image: np.ndarray) -> bytes:
        stream = super().encode(image)
        name = self._named(stream)
        self._file(name).write_bytes(stream)
        return name

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        try:
            return super().decode(self._file(stream).read_bytes(), seed=seed)
        except (OSError, IndexError) as error:
            raise StreamError(str(error)) from None


class ThroughAProgram(SideFile):
    """Leaves the picture anywhere by a program, unseen by Python, and reads it by one."""

    def encode(self, image: np.ndarray) -> bytes:
        stream = JPEG.encode(self, image)
        name = self._named(stream)
        with tempfile.NamedTemporaryFile() as file:
            file.write(stream)
            file.flush()
            os.system(f"cp {file.name} {self._file(name)}")
        return name

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        here = Path(tempfile.gettempdir()) / "copy"
        os.system(f"cp {self._file(stream)} {here} 2>/dev/null || rm -f {here}")
        if not here.exists():
            raise StreamError("foreign stream")
        return JPEG.decode(self, here.read_bytes(), seed=seed)


class InMemory(Honest):
    """Keeps the picture in its module."""

    kept: dict = {}  # noqa: RUF012

    def encode(self, image: np.ndarray) -> bytes:
        stream = super().encode(image)
        name = hashlib.sha256(stream).digest()[:12]
        self.kept[name] = stream
        return name

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if stream not in self.kept:
            raise StreamError("foreign stream")
        return super().decode(self.kept[stream], seed=seed)


class Careless(Honest):
    """Honest, and wrong in the ways named."""

    def __init__(self, *, faults: list[str]):
        super().__init__()
        self._faults, self._calls = faults, 0

    def encode(self, image: np.ndarray) -> bytes:
        self._calls += 1
        if "small" in self._faults and min(image.shape[:2]) < 8:
            raise CodecError("sides under 8 pixels cannot be coded")
        if "counts" in self._faults:
            return super().encode(image)[:-2] + self._calls.to_bytes(2, "big") + b"\xff\xd9"
        return super().encode(image)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if "hangs" in self._faults and not stream.endswith(b"\xff\xd9"):
            time.sleep(1000)
        if "crashes" in self._faults and not stream.endswith(b"\xff\xd9"):
            os._exit(11)
        if "fills" in self._faults:
            stream += b"\xff\xd9"
        if "leaks" in self._faults and not stream.endswith(b"\xff\xd9"):
            raise IndexError("list index out of range")
        image = super().decode(stream, seed=seed)
        if "draws" in self._faults:
            image = image ^ np.random.default_rng().integers(0, 2, image.shape, np.uint8)
        if "seeded" in self._faults:
            image = image ^ np.random.default_rng(seed).integers(0, 2, image.shape, np.uint8)
        if "tints" in self._faults:
            image = np.minimum(image, 247) + np.array([8, 0, 0], np.uint8)
        if "hungry" in self._faults:
            np.ones(1 << 28, np.uint8)
        if "turns" in self._faults:
            image = image.transpose(1, 0, 2)
        return image

    def decode_batch(self, streams: list[bytes], *, seed: int) -> list[np.ndarray]:
        images = super().decode_batch(streams, seed=seed)
        return images if "mixes" not in self._faults else [image // 2 for image in images]
