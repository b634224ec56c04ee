"""What an image file says about its colours, beyond what Pillow reports, as an ICC profile that says the same.

Conventions
    PNG         cICP before iCCP before sRGB before gAMA and cHRM. gAMA alone has the primaries of sRGB; a gamma of 1/2.2 with the
                primaries of sRGB is sRGB, as its writers mean it.
    JPEG 2000   the first `colr` box: an ICC profile, sRGB, grey, sYCC, or code points. A bare codestream is sRGB or grey.
    AVIF        the ICC profile of the primary item before its code points (`nclx`). Without either it is sRGB.
    BMP         the ICC profile that a version 5 header embeds.
    code points of ITU-T H.273. Transfer functions of BT.601, BT.709 and BT.2020 are taken as that of sRGB. PQ, HLG and others
                without an agreed white are refused.

What cannot be followed is refused with an ImageError; it is never taken for sRGB. A `profile` of None is sRGB, or grey of its kind.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO
from zlib import crc32

import numpy as np

from hfdbench.errors import ImageError

D50 = (0.9642, 1.0, 0.8249)
D65 = (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
# ITU-T H.273, table 2: red, green, blue, white. 2 is "unspecified".
PRIMARIES = {
    1: SRGB_PRIMARIES,
    2: SRGB_PRIMARIES,
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
# H.273, table 3, as the exponent of the decoding function; None is that of sRGB.
TRANSFERS = {1: None, 2: None, 4: 2.2, 5: 2.8, 6: None, 8: 1.0, 13: None, 14: None, 15: None}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Header:
    """What the file's own structures say.

    Attributes
    ----------
    profile : bytes or None
        ICC profile in place of the one that Pillow found; None leaves Pillow's.
    replaces : bool
        Whether `profile` stands in the place of Pillow's, even where it is None.
    bits : int
        Bits a sample, 8 where Pillow needs no help with them.
    grey_key : int or None
        Transparent level of a PNG of fewer than 8 bits, in its own units.
    """

    profile: bytes | None = None
    replaces: bool = False
    bits: int = 8
    grey_key: int | None = None


def read_header(kind: str, stream: BinaryIO) -> Header:
    """Read what a file of Pillow's format `kind` says about its colours.

    Parameters
    ----------
    kind : str
        "PNG", "JPEG2000", "AVIF", "BMP"; others have nothing to add.
    stream : file
        The open file; its position is left as it was.

    Returns
    -------
    Header

    Raises
    ------
    ImageError
        For a description that cannot be followed, and for a PNG whose check sums are wrong.
    """
    parse = {"PNG": _png, "JPEG2000": _jpeg_2000, "AVIF": _avif, "BMP": _bmp}.get(kind)
    if parse is None:
        return Header()
    position = stream.tell()
    stream.seek(0)
    try:
        return parse(memoryview(stream.read()))
    except (struct.error, IndexError, ValueError) as error:
        raise ImageError(f"its header is damaged: {error or type(error).__name__}") from None
    finally:
        stream.seek(position)


# --- descriptions by numbers ------------------------------------------------------------------------------------------


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """ICC profile of RGB by H.273 code points; None for sRGB. Raises ImageError for what has no agreed look in 8 bits."""
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        names = {16: " (PQ)", 18: " (HLG)"}
        raise ImageError(
            f"its colours are described by code points {primaries} and {transfer}{names.get(transfer, '')} of ITU-T H.273, "
            "which have no stated rule; convert it to sRGB"
        )
    return rgb_profile(PRIMARIES[primaries], TRANSFERS[transfer])


def rgb_profile(primaries: tuple[tuple[float, float], ...], gamma: float | None) -> bytes | None:
    """ICC profile of an RGB colour space; None for sRGB.

    Parameters
    ----------
    primaries : tuple of four pairs
        CIE 1931 x, y of red, green, blue and white.
    gamma : float or None
        Exponent from value to light; None is the function of sRGB.

    Returns
    -------
    bytes or None
        Version 2 profile; primaries adapted to D50 by the Bradford method (ICC.1:2022, annex E).
    """
    near_srgb = np.abs(np.subtract(primaries, SRGB_PRIMARIES)).max() < 0.002
    if near_srgb and (gamma is None or abs(gamma - 2.2) < 0.02):
        return None
    return _written_profile(tuple(tuple(map(float, pair)) for pair in primaries), gamma)


@cache
def _written_profile(primaries: tuple[tuple[float, float], ...], gamma: float | None) -> bytes:
    x, y = np.array(primaries).T
    red_green_blue, white = np.stack([x, y, 1 - x - y])[:, :3], np.array([x[3] / y[3], 1, (1 - x[3] - y[3]) / y[3]])
    matrix = red_green_blue * np.linalg.solve(red_green_blue, white)
    adapted = np.linalg.solve(BRADFORD, np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD @ matrix)
    level = np.arange(4096) / 4095
    srgb = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    light = srgb if gamma is None else level**gamma
    curve = b"curv\0\0\0\0" + struct.pack(">I", len(light)) + (light * 65535).round().astype(">u2").tobytes()
    tags = [(name, _xyz(adapted[:, i])) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(b"wtpt", _xyz(D50)), *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC"))]
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + _xyz(D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


# --- files ------------------------------------------------------------------------------------------------------------


def _png(content: memoryview) -> Header:
    chunks: dict[bytes, memoryview] = {}
    start = 8
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content):
            raise ImageError(f"is cut off or damaged: a chunk at byte {start} claims {length:,} bytes")
        if crc32(content[start + 4 : end - 4]) != struct.unpack_from(">I", content, end - 4)[0]:
            raise ImageError(
                f"is damaged: the check sum of its {kind.decode('latin-1')!a} chunk at byte {start} is wrong"
            )
        chunks.setdefault(kind, content[start + 8 : end - 4])
        start = end
        if kind == b"IEND":
            break
    depth, colour_type = chunks[b"IHDR"][8:10] if len(chunks.get(b"IHDR", b"")) >= 10 else (8, 2)
    key = None
    if colour_type == 0 and depth < 8 and b"tRNS" in chunks:
        key = struct.unpack_from(">H", chunks[b"tRNS"])[0]
    profile, replaces = None, False
    if b"cICP" in chunks:
        primaries, transfer, matrix, full_range = chunks[b"cICP"][:4]
        if matrix != 0 or full_range != 1:
            raise ImageError(
                f"its cICP chunk has matrix {matrix} and range flag {full_range}, which have no stated rule"
            )
        profile, replaces = coded_profile(primaries, transfer), True
    elif not chunks.keys() & {b"iCCP", b"sRGB"} and chunks.keys() & {b"gAMA", b"cHRM"}:
        gamma, primaries = None, SRGB_PRIMARIES
        if b"gAMA" in chunks and (value := struct.unpack_from(">I", chunks[b"gAMA"])[0]):
            gamma = 100_000 / value
        if b"cHRM" in chunks:
            x_y = np.reshape(struct.unpack_from(">8I", chunks[b"cHRM"]), (4, 2)) / 100_000
            primaries = (*map(tuple, x_y[1:]), tuple(x_y[0]))
        if colour_type in (0, 4):
            primaries = SRGB_PRIMARIES  # grey has none
        try:
            profile, replaces = rgb_profile(primaries, gamma), True
        except (np.linalg.LinAlgError, ZeroDivisionError, OverflowError):
            raise ImageError("its cHRM chunk describes no colour space") from None
    return Header(profile, replaces, grey_key=key, bits=depth if key is not None else 8)


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Boxes of JPEG 2000 and ISO base media files: kind and content."""
    start = 0
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if length == 1:
            length, head = struct.unpack_from(">Q", content, start + 8)[0], 16
        elif length == 0:
            length = len(content) - start
        if length < head:
            raise ImageError(f"its header is damaged: box {kind!a} of {length} bytes")
        yield kind, content[start + head : start + length]
        start += length


def _first(content: memoryview, kind: bytes) -> memoryview:
    return next((inner for found, inner in _boxes(content) if found == kind), memoryview(b""))


def _jpeg_2000(content: memoryview) -> Header:
    bare = content[:2] == b"\xff\x4f"
    stream = content if bare else _first(content, b"jp2c")
    if stream[2:4] != b"\xff\x51":
        raise ImageError("its codestream has no header")
    count = struct.unpack_from(">H", stream, 40)[0]
    depths, *steps = (set(stream[42 + i : 42 + 3 * count : 3]) for i in range(3))
    if len(depths) != 1 or max(depths) & 128:
        raise ImageError(
            "its channels differ in depth or are signed, which has no stated rule; convert it to PNG or TIFF"
        )
    bits = max(depths) + 1
    if bits > 16 or (bits > 8 and count > 1):  # Pillow's decoder lets values near white overflow to black
        raise ImageError(f"JPEG 2000 of {count} channels of {bits} bits is not read rightly; convert it to PNG or TIFF")
    boxes = list(_boxes(_first(content, b"jp2h"))) if not bare else []
    by_kind = {kind: inner for kind, inner in reversed(boxes)}
    if by_kind.keys() & {b"pclr", b"cmap"}:
        raise ImageError("JPEG 2000 with a palette has no stated rule; convert it to PNG")
    if b"cdef" in by_kind:
        entries = [struct.unpack_from(">3H", by_kind[b"cdef"], 2 + 6 * i) for i in range(count)]
        colours = count - 1 if count in (2, 4) else count
        if sorted(entries) != [(i, int(i >= colours), 0 if i >= colours else i + 1) for i in range(count)]:
            raise ImageError("its channels are in another order or premultiplied, which has no stated rule")
    profile, space = None, 16
    if b"colr" in by_kind:
        box = by_kind[b"colr"]
        method = box[0]
        if method in (2, 3):
            profile = bytes(box[3:])
        elif method == 5:
            profile = coded_profile(*struct.unpack_from(">HH", box, 3))
        elif method != 1 or (space := struct.unpack_from(">I", box, 3)[0]) not in (16, 17, 18):
            what = f"colour space {space}" if method == 1 else f"a colour description of method {method}"
            raise ImageError(f"JPEG 2000 with {what} has no stated rule; convert it to PNG or TIFF")
    if steps != [{1}, {1}] and space != 18:
        raise ImageError("its channels differ in size, which has no stated rule; convert it to PNG or TIFF")
    return Header(profile, replaces=profile is not None, bits=bits)


def _avif(content: memoryview) -> Header:
    meta = _first(content, b"meta")[4:]
    properties = _properties_of_primary(meta)
    profile: bytes | None = None
    codes: tuple[int, int] | None = None
    for kind, inner in properties:
        if kind == b"clap":
            raise ImageError("its clean aperture (clap) has no stated rule; crop it or convert it to PNG")
        if kind == b"colr" and inner[:4] in (b"prof", b"rICC"):
            profile = bytes(inner[4:])
        elif kind == b"colr" and inner[:4] == b"nclx":
            codes = struct.unpack_from(">HH", inner, 4)
    if profile is None and codes is not None:
        return Header(coded_profile(*codes), replaces=True)
    return Header(profile, replaces=profile is not None)


def _properties_of_primary(meta: memoryview) -> list[tuple[bytes, memoryview]]:
    """Properties of the primary item of a `meta` box (ISO/IEC 23008-12, 9.3)."""
    pitm, iprp = _first(meta, b"pitm"), _first(meta, b"iprp")
    if not pitm or not iprp:
        return []
    primary = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)[0]
    every = list(_boxes(_first(iprp, b"ipco")))
    for kind, ipma in _boxes(iprp):
        if kind != b"ipma":
            continue
        wide, at = ipma[3] & 1, 8
        for _ in range(struct.unpack_from(">I", ipma, 4)[0]):
            item = struct.unpack_from(">I" if ipma[0] else ">H", ipma, at)[0]
            at += 4 if ipma[0] else 2
            count, at = ipma[at], at + 1
            step = 2 if wide else 1
            indices = [
                struct.unpack_from(">H", ipma, at + 2 * i)[0] & 0x7FFF if wide else ipma[at + i] & 0x7F
                for i in range(count)
            ]
            at += step * count
            if item == primary:
                return [every[index - 1] for index in indices if 0 < index <= len(every)]
    return []


def _bmp(content: memoryview) -> Header:
    size = struct.unpack_from("<I", content, 14)[0]
    if size < 108:
        return Header()
    space = struct.unpack_from("<I", content, 14 + 56)[0]
    if space == 0 and all(struct.unpack_from("<12I", content, 14 + 60)):
        raise ImageError(
            "its header calibrates RGB by primaries of its own, which has no stated rule; convert it to PNG"
        )
    if size >= 124 and space == int.from_bytes(b"MBED", "big"):
        offset, length = struct.unpack_from("<II", content, 14 + 112)
        return Header(bytes(content[14 + offset : 14 + offset + length]), replaces=True)
    return Header()
