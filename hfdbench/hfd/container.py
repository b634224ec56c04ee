# pyright: basic
"""The file format of a coded image: a 16-byte header that says what it is, then the payload.

| bytes | field |
| --- | --- |
| 0-1 | magic `HF` |
| 2 | version, 2 |
| 3-6 | model: first four bytes of the sha256 of the autoencoder's weight file |
| 7 | rate index |
| 8-9, 10-11 | height, width in pixels, unsigned, big endian |
| 12-15 | CRC-32 of everything else |
| 16- | payload of coding.py: rANS streams, in each the hyper-latents, then the latents |

All of it counts as rate.
"""

import struct
import zlib
from dataclasses import dataclass

from hfdbench.errors import StreamError

MAGIC, VERSION = b"HF", 2
HEADER = struct.Struct(">2sB4sBHHI")
LARGEST = 2**16 - 1  # pixels a side


@dataclass(frozen=True)
class Coded:
    model: bytes
    rate: int
    height: int
    width: int
    payload: bytes

    def pack(self) -> bytes:
        """Raises ValueError for a side of 0 or over 65,535 pixels."""
        check_size(self.height, self.width)
        fields = (MAGIC, VERSION, self.model, self.rate, self.height, self.width)
        crc = zlib.crc32(self.payload, zlib.crc32(HEADER.pack(*fields, 0)[:-4]))
        return HEADER.pack(*fields, crc) + self.payload

    @staticmethod
    def unpack(stream: bytes) -> "Coded":
        """Raises StreamError for anything that `pack` did not write, whole and unchanged."""
        if len(stream) < HEADER.size or not stream.startswith(MAGIC):
            raise StreamError("not an hfd stream: it does not start with the magic HF; was it made by another codec?")
        _, version, model, rate, height, width, crc = HEADER.unpack_from(stream)
        if version != VERSION:
            raise StreamError(f"hfd stream of version {version}; this hfdbench reads version {VERSION}")
        payload = bytes(stream[HEADER.size :])
        if crc != zlib.crc32(payload, zlib.crc32(stream[: HEADER.size - 4])):
            raise StreamError("hfd stream is damaged or truncated: its checksum differs; encode the image again")
        return Coded(model, rate, height, width, payload)


def check_size(height: int, width: int) -> None:
    """Raises ValueError for a side that the header cannot hold."""
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise ValueError(f"an image of {width}x{height} cannot be coded; each side takes 1 to {LARGEST} pixels")
