"""Image files of every kind, written by hand where no library writes them."""

import struct
import zlib

import numpy as np
from PIL import Image


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height=48, width=64):
    """Slow ramps: JPEG keeps them to a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, 128 + 0 * x], axis=-1).round().astype(np.uint8)


# Columns: the primaries of sRGB and of Adobe RGB (1998) adapted to D50 (Bradford), in XYZ.
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7142]])
ADOBE = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])


def profile(space=b"RGB ", tags=(), kind=b"mntr"):
    """An ICC version 2 profile, written by hand."""
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    pcs = b"Lab " if kind == b"prtr" else b"XYZ "
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"none", 0x02100000, kind, space, pcs, bytes(12), b"acsp")
    head += bytes(68 - len(head)) + white
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


WHITE = (b"wtpt", xyz([0.9642, 1.0, 0.8249]))
ADOBE_RGB = profile(
    tags=[(name, xyz(ADOBE[:, i])) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    + [(name, gamma(563 / 256)) for name in (b"rTRC", b"gTRC", b"bTRC")]
    + [WHITE]
)
LINEAR_GREY = profile(b"GRAY", [(b"kTRC", gamma(1.0)), WHITE])


INK_LAB = (60, -30, 30)


def cmyk_profile():
    """An ink set that prints green whatever it is given: one Lab colour in every corner of its table."""
    lab = struct.pack(">3B", round(INK_LAB[0] * 255 / 100), 128 + INK_LAB[1], 128 + INK_LAB[2])
    matrix = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + struct.pack(">4B", 4, 3, 2, 0) + matrix + ramp * 4 + lab * 16 + ramp * 3
    return profile(b"CMYK", [(b"A2B0", table), (b"A2B1", table), WHITE], kind=b"prtr")


def srgb_levels(linear):
    """The sRGB transfer function, IEC 61966-2-1."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png(samples, bits, colour_type, chunks=()):
    """A PNG of any depth: rows of `samples`, H x W or H x W x channels, packed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row for row in packed(samples, bits))
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, 0)
    body = b"".join(chunk(*entry) for entry in chunks) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def packed(samples, bits, order=">"):
    """Bytes of each row: samples of `bits` bits one after the other, the first in the highest bits."""
    rows = samples.reshape(len(samples), -1)
    if bits in (8, 16, 32, 64):
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    one_by_one = (rows[..., None].astype(np.int64) >> np.arange(bits)[::-1]) & 1
    return [np.packbits(row.ravel()).tobytes() for row in one_by_one.astype(np.uint8)]


def tiff(samples, bits, photometric, *, planar=False, order="<", strip_rows=None, extra=(), sample_format=1, tags=()):
    """An uncompressed TIFF of any depth from samples H x W x channels, as TIFF 6.0 says, each plane in strips."""
    height, width, count = samples.shape
    strip_rows = strip_rows or height
    planes = [samples[..., k : k + 1] for k in range(count)] if planar else [samples]
    strips = [
        b"".join(packed(plane[top : top + strip_rows], bits, order))
        for plane in planes
        for top in range(0, height, strip_rows)
    ]
    starts = np.cumsum([8, *(len(strip) for strip in strips)])
    fields = {256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * count), 259: (3, [1]), 262: (3, [photometric])}
    fields |= {273: (4, list(starts[:-1])), 277: (3, [count]), 278: (4, [strip_rows])}
    fields |= {279: (4, [len(strip) for strip in strips]), 284: (3, [2 if planar else 1])}
    fields |= {338: (3, list(extra))} if extra else {}
    fields |= {339: (3, [sample_format] * count)} if sample_format != 1 else {}
    fields |= {tag: (kind, values) for tag, kind, values in tags}
    start = int(starts[-1]) + int(starts[-1]) % 2
    directory, behind = struct.pack(order + "H", len(fields)), b""
    for tag, (kind, values) in sorted(fields.items()):
        data = struct.pack(f"{order}{len(values)}{'I' if kind == 4 else 'H'}", *values)
        if len(data) > 4:
            place = start + 6 + 12 * len(fields) + len(behind)
            behind, data = behind + data, struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return (head + b"".join(strips)).ljust(start, b"\0") + directory + bytes(4) + behind


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def over_white(colour, opacity):
    return np.floor((colour * opacity[..., None] + 255.0 * (255 - opacity[..., None])) / 255 + 0.5).astype(np.uint8)
