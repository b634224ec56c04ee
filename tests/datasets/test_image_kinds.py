"""Every kind x depth x photometric interpretation x planes x alpha x colour x orientation x damage: right, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers_images import ADOBE_RGB, TURNS, noise, over_white, png, save, smooth, srgb_levels, tiff
from PIL import Image

from hfdbench.datasets.colour import rgb_profile
from hfdbench.datasets.image_files import read_image, rules_version
from hfdbench.errors import ImageError


def scaled(samples, bits):
    """The nearest of 256 levels."""
    return np.floor(samples.astype(float) * 255 / (2**bits - 1) + 0.5).astype(np.uint8)


def levels(bits, channels):
    """Samples of every level there is, or of as many as fit, in random order."""
    return np.random.default_rng(bits).integers(0, 2**bits, (24, 40, channels))


def read_bytes(tmp_path, content, name="a.tif"):
    (tmp_path / name).write_bytes(content)
    return read_image(tmp_path / name)


def three(grey):
    return np.broadcast_to(grey, (*grey.shape[:2], 3))


# --- TIFF ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32])
def test_grey_tiff_of_any_depth(tmp_path, bits, photometric, order):
    samples = levels(bits, 1)
    content = tiff(samples, bits, photometric, order=order, strip_rows=7)
    read = (
        bits in (1, 2, 4, 8)
        or (bits == 16 and (photometric, order) != (0, ">"))
        or (bits, photometric, order) == (12, 1, "<")
    )
    if not read:
        with pytest.raises(ImageError, match=r"a\.tif: .*no stated rule; convert it"):
            read_bytes(tmp_path, content)
    else:
        expected = samples if photometric else 2**bits - 1 - samples
        assert np.array_equal(read_bytes(tmp_path, content), three(scaled(expected, bits)))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("strip_rows", [None, 5])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("photometric", "channels", "extra"),
    [(2, 3, ()), (2, 4, (2,)), (2, 4, (1,)), (2, 4, (0,)), (1, 2, (2,)), (1, 2, (1,)), (5, 4, ())],
    ids=["rgb", "rgba", "rgb-premultiplied", "rgb-unspecified", "grey-alpha", "grey-premultiplied", "cmyk"],
)
def test_colour_tiff_chunky_and_planar(tmp_path, photometric, channels, extra, bits, planar, strip_rows, order):
    samples, most = levels(bits, channels), 2**bits - 1
    if extra == (1,):
        samples[..., :-1] = np.minimum(samples[..., :-1], samples[..., -1:])
    content = tiff(samples, bits, photometric, planar=planar, order=order, strip_rows=strip_rows, extra=extra)
    if (channels == 2 and bits == 16) or (extra == (0,) and planar and bits == 8):  # Pillow cannot open these
        with pytest.raises(ImageError, match="a variety that has no stated rule"):
            read_bytes(tmp_path, content)
        return
    eight = scaled(samples, bits)
    if photometric == 5:
        inks = eight.astype(float)
        expected = np.floor((255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255 + 0.5)
    elif extra == (1,):
        expected = three(samples[..., :-1] + (most - samples[..., -1:])) / most * 255.0
    elif extra == (2,):
        expected = over_white(three(eight[..., :-1]).astype(float), eight[..., -1].astype(float))
    else:
        expected = eight[..., :3]
    off = np.abs(read_bytes(tmp_path, content).astype(float) - expected).max()
    assert off <= {(1,): 2.5}.get(extra, 1 if photometric == 5 else 0)  # 8 bits, divided by alpha and multiplied again


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(
    ("compression", "predictor"), [("zlib", False), ("zlib", True), ("lzw", False), ("lzw", True), ("packbits", False)]
)
def test_compressed_deep_tiff(tmp_path, compression, predictor, tile, planar):
    """Written by another library, whose compressed planes and tiles differ from those of the hand-written files."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    deep = levels(16, 3).astype(np.uint16)
    data = np.moveaxis(deep, -1, 0) if planar == "separate" else deep
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression, "tile": tile}
    tifffile.imwrite(tmp_path / "a.tif", data, predictor=predictor, **options)
    assert np.array_equal(read_image(tmp_path / "a.tif"), scaled(deep, 16))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("planar", [False, True])
def test_turned_deep_tiff(tmp_path, planar, orientation):
    deep = levels(16, 3)
    content = tiff(deep, 16, 2, planar=planar, tags=[(274, 3, [orientation])])
    assert np.array_equal(read_bytes(tmp_path, content), TURNS[orientation](scaled(deep, 16)))


@pytest.mark.parametrize(
    ("bits", "sample_format", "photometric", "channels"),
    [
        *((16, 3, 1, 1), (32, 3, 1, 1), (32, 3, 2, 3), (64, 3, 1, 1), (8, 2, 1, 1), (16, 2, 1, 1), (32, 2, 1, 1)),
        *((16, 2, 2, 3), (8, 1, 4, 1), (8, 1, 8, 3), (8, 1, 32803, 1), (16, 1, 34892, 3)),
    ],
)
def test_tiff_without_an_agreed_look_is_refused(tmp_path, bits, sample_format, photometric, channels):
    content = tiff(levels(min(bits, 32), channels), bits, photometric, sample_format=sample_format)
    with pytest.raises(ImageError, match=r"a\.tif: .*no stated rule; convert it"):
        read_bytes(tmp_path, content)


# --- PNG, PNM, JPEG 2000, AVIF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("with_key", [False, True])
def test_grey_png_of_any_depth(tmp_path, bits, with_key):
    samples = levels(bits, 1)
    key = int(samples[3, 3, 0])
    chunks = [(b"tRNS", struct.pack(">H", key))] if with_key else []
    expected = np.where(with_key & (samples == key), 255, scaled(samples, bits))
    assert np.array_equal(read_bytes(tmp_path, png(samples, bits, 0, chunks), "a.png"), three(expected))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", ["none", "first two", "all"])
def test_palette_png_of_any_depth(tmp_path, bits, transparent):
    samples, colours = levels(bits, 1), noise(2**bits, 3)
    count = {"none": 0, "first two": 2, "all": 2**bits}[transparent]
    opacity = np.full(2**bits, 255, np.uint8)
    opacity[:count] = noise(count, seed=5)
    chunks = [(b"PLTE", colours.tobytes())] + ([(b"tRNS", opacity[:count].tobytes())] if count else [])
    index = samples[..., 0]
    expected = over_white(colours[index].astype(float), opacity[index].astype(float))
    assert np.array_equal(read_bytes(tmp_path, png(samples, bits, 3, chunks), "a.png"), expected)


@pytest.mark.parametrize("most", [1, 3, 7, 15, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize(("kind", "channels"), [("P2", 1), ("P3", 3), ("P5", 1), ("P6", 3)])
def test_pnm_of_any_depth(tmp_path, kind, channels, most):
    samples = np.random.default_rng(most).integers(0, most + 1, (24, 40, channels))
    if kind in ("P2", "P3"):
        body = " ".join(map(str, samples.ravel())).encode()
    else:
        body = samples.astype(">u2" if most > 255 else "u1").tobytes()
    pixels = read_bytes(tmp_path, f"{kind}\n40 24\n{most}\n".encode() + body, "a.pnm")
    assert np.array_equal(pixels, three(np.floor(samples * 255 / most + 0.5).astype(np.uint8)))


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 9, 10, 12, 14, 16])
def test_jpeg_2000_of_any_depth(tmp_path, bits, channels, kind):
    imagecodecs = pytest.importorskip("imagecodecs", reason="writes JPEG 2000 of any depth")
    samples = levels(bits, channels).astype(np.uint8 if bits <= 8 else np.uint16)
    options = {"reversible": True, "level": 0, "bitspersample": bits, "codecformat": kind}
    content = imagecodecs.jpeg2k_encode(samples if channels > 1 else samples[..., 0], **options)
    if bits > 8 and (channels > 1 or (bits, kind) == (9, "jp2")):
        with pytest.raises(ImageError, match=rf"JPEG 2000 of {channels} channels of {bits} bits"):
            read_bytes(tmp_path, content, f"a.{kind}")
        return
    eight = scaled(samples, bits)
    expected = eight[..., :3] if channels >= 3 else three(eight[..., :1])
    if channels in (2, 4):
        expected = over_white(expected.astype(float), eight[..., -1].astype(float))
    off = np.abs(read_bytes(tmp_path, content, f"a.{kind}").astype(int) - expected).max()
    assert off <= (1 if bits > 8 else 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_of_any_depth(tmp_path, bits, channels):
    imagecodecs = pytest.importorskip("imagecodecs", reason="writes AVIF of any depth")
    ramp = np.clip(np.add.outer(np.arange(24) * 2, np.arange(40) * 3)[..., None] * np.ones(channels) / 200, 0, 1)
    samples = np.round(ramp * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    options = {"level": 100, "bitspersample": bits, "pixelformat": "444" if channels > 1 else None}
    content = imagecodecs.avif_encode(samples if channels > 1 else samples[..., 0], **options)
    eight = scaled(samples, bits)
    expected = eight[..., :3] if channels >= 3 else three(eight)
    if channels == 4:
        expected = over_white(expected.astype(float), eight[..., -1].astype(float))
    assert np.abs(read_bytes(tmp_path, content, "a.avif").astype(int) - expected).max() <= 2


# --- BMP ----------------------------------------------------------------------------------------------------------------


def bmp(pixels, *, size=108, space=0x73524742, behind=b"", endpoints=(0,) * 12):
    """A 32-bit BMP with an alpha mask of pixels H x W x 4 (blue, green, red, alpha), bottom up."""
    height, width = pixels.shape[:2]
    body = pixels[::-1].tobytes()
    info = struct.pack("<IiiHHIIiiII", size, width, height, 1, 32, 3, len(body), 2835, 2835, 0, 0)
    info += struct.pack("<5I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, space) + struct.pack("<12I", *endpoints)
    if size == 124:
        info += struct.pack("<4I", 4, 124 + len(body), len(behind), 0)
    return struct.pack("<2sIHHI", b"BM", 14 + size + len(body) + len(behind), 0, 0, 14 + size) + info + body + behind


def test_bmp_whose_alpha_is_zero_everywhere_has_none(tmp_path):
    """Several Windows programs write a version 4 header with an alpha mask and leave the byte empty."""
    pixels = noise(20, 30, 4)
    pixels[..., 3] = 0
    assert np.array_equal(read_bytes(tmp_path, bmp(pixels), "a.bmp"), pixels[..., 2::-1])
    pixels[0, 0, 3] = 128  # but one that has some is followed
    expected = over_white(pixels[..., 2::-1].astype(float), pixels[..., 3].astype(float))
    assert np.array_equal(read_bytes(tmp_path, bmp(pixels), "a.bmp"), expected)


def test_bmp_follows_its_profile(tmp_path):
    pixels = noise(32, 32, 4)
    pixels[..., 3] = 255
    content = bmp(pixels, size=124, space=int.from_bytes(b"MBED", "big"), behind=ADOBE_RGB)
    plain = read_image(save(tmp_path / "b.png", np.ascontiguousarray(pixels[..., 2::-1]), icc_profile=ADOBE_RGB))
    assert np.array_equal(read_bytes(tmp_path, content, "a.bmp"), plain)
    with pytest.raises(ImageError, match="calibrates RGB by primaries of its own"):
        read_bytes(tmp_path, bmp(pixels, space=0, endpoints=range(1, 13)), "c.bmp")


# --- colour described by numbers ----------------------------------------------------------------------------------------

D65 = (0.3127, 0.3290)
P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65)
BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65)


def rgb_to_xyz(primaries):
    """After SMPTE RP 177: columns of the primaries, scaled to the white."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


def as_srgb(image, primaries, exponent=None):
    """Colours of the same white as sRGB, without a profile."""
    v = image / 255.0
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) if exponent is None else v**exponent
    return srgb_levels(light @ rgb_to_xyz(primaries).T @ np.linalg.inv(rgb_to_xyz(BT709)).T)


def cicp(primaries, transfer, matrix=0, full=1):
    return (b"cICP", bytes([primaries, transfer, matrix, full]))


def chrm(primaries):
    values = [primaries[3], *primaries[:3]]
    return (b"cHRM", struct.pack(">8I", *(round(value * 100_000) for pair in values for value in pair)))


def gama(exponent):
    return (b"gAMA", struct.pack(">I", round(100_000 / exponent)))


SAYS_SRGB = (b"sRGB", b"\0")
ICCP = (b"iCCP", b"adobe\0\0" + zlib.compress(ADOBE_RGB))


@pytest.mark.parametrize(
    ("chunks", "primaries", "exponent"),
    [
        ([cicp(12, 13)], P3, None),
        ([cicp(9, 13)], BT2020, None),
        ([cicp(1, 8)], BT709, 1.0),
        ([cicp(12, 13), ICCP, gama(1.0)], P3, None),  # the order of PNG, third edition
        ([chrm(P3), gama(1.8)], P3, 1.8),
        ([gama(1.0)], BT709, 1.0),
        ([chrm(BT2020)], BT2020, None),
    ],
)
def test_png_colour_chunks_are_followed(tmp_path, chunks, primaries, exponent):
    image = noise(32, 32, 3)
    pixels = read_bytes(tmp_path, png(image, 8, 2, chunks), "a.png").astype(float)
    assert np.abs(pixels - as_srgb(image, primaries, exponent)).max() < 2
    assert np.abs(pixels - image).mean() > 2  # the description does change this picture
    assert rules_version(tmp_path / "a.png") == 2


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [SAYS_SRGB, gama(1.0)],
        [gama(2.2)],
        [gama(2.2), chrm(BT709)],
        [cicp(1, 13), gama(1.0)],
        [cicp(1, 1)],
        [cicp(2, 2)],
    ],
)
def test_png_that_is_srgb_is_left_alone(tmp_path, chunks):
    image = noise(32, 32, 3)
    assert np.array_equal(read_bytes(tmp_path, png(image, 8, 2, chunks), "a.png"), image)


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (cicp(9, 16), r"code points 9 and 16 \(PQ\)"),
        (cicp(9, 18), r"code points 9 and 18 \(HLG\)"),
        (cicp(1, 13, 1), "matrix 1"),
        (cicp(1, 13, 0, 0), "range flag 0"),
        ((b"cHRM", bytes(32)), "cHRM chunk describes no colour space"),
    ],
)
def test_colours_that_cannot_be_followed_are_refused(tmp_path, chunk, says):
    with pytest.raises(ImageError, match=rf"a\.png: .*{says}"):
        read_bytes(tmp_path, png(noise(32, 32, 3), 8, 2, [chunk]), "a.png")


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def jp2(image, colr, more=b""):
    """A JPEG 2000 file with this colour box in place of Pillow's."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG2000")
    content = out.getvalue()
    start = content.index(b"jp2h") - 4
    length = struct.unpack_from(">I", content, start)[0]
    header = box(b"jp2h", content[start + 8 : start + 30] + box(b"colr", colr) + more)
    return content[:start] + header + content[start + length :]


@pytest.mark.parametrize("method", [2, 3, 5])
def test_jpeg_2000_colour_box_is_followed(tmp_path, method):
    """Its profile of P3 is checked against numbers by the PNG cases above."""
    image = noise(32, 32, 3)
    described = struct.pack(">HHHB", 12, 13, 0, 128) if method == 5 else rgb_profile(P3, None)
    pixels = read_bytes(tmp_path, jp2(image, bytes([method, 0, 0]) + described), "a.jp2").astype(float)
    assert np.abs(pixels - as_srgb(image, P3)).max() < 2


@pytest.mark.parametrize("space", [12, 14, 20, 24])
def test_jpeg_2000_of_another_space_is_refused(tmp_path, space):
    with pytest.raises(ImageError, match=rf"a\.jp2: JPEG 2000 with colour space {space}"):
        read_bytes(tmp_path, jp2(noise(32, 32, 3), b"\1\0\0" + struct.pack(">I", space)), "a.jp2")


def test_jpeg_2000_whose_channels_are_swapped_is_refused(tmp_path):
    srgb, image = b"\1\0\0" + struct.pack(">I", 16), noise(32, 32, 3)
    for name, entries in (("a.jp2", [(0, 0, 3), (1, 0, 2), (2, 0, 1)]), ("b.jp2", [(0, 0, 1), (1, 0, 2), (2, 0, 3)])):
        order = struct.pack(">H", 3) + b"".join(struct.pack(">3H", *entry) for entry in entries)
        content = jp2(image, srgb, box(b"cdef", order))
        if name == "b.jp2":
            assert np.array_equal(read_bytes(tmp_path, content, name), image)
        else:
            with pytest.raises(ImageError, match="channels are in another order"):
                read_bytes(tmp_path, content, name)


def avif(image, codes):
    """An AVIF with these code points in its nclx box."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "AVIF", quality=100, subsampling="4:4:4")
    content = bytearray(out.getvalue())
    at = content.index(b"colrnclx") + 8
    content[at : at + 4] = struct.pack(">HH", *codes)
    return bytes(content)


def test_avif_code_points_are_followed(tmp_path):
    image = smooth()
    plain = read_bytes(tmp_path, avif(image, (1, 13)), "a.avif")
    assert np.abs(plain.astype(int) - image).max() <= 4
    assert np.array_equal(read_bytes(tmp_path, avif(image, (1, 1)), "b.avif"), plain)
    followed = read_bytes(tmp_path, avif(image, (12, 13)), "c.avif").astype(float)
    assert np.abs(followed - as_srgb(plain, P3)).max() < 2
    with pytest.raises(ImageError, match=r"d\.avif: .*9 and 16 \(PQ\)"):
        read_bytes(tmp_path, avif(image, (9, 16)), "d.avif")


# --- EXIF of careless writers, and damage ---------------------------------------------------------------------------------


def careless_exif(orientation, tag, kind, value):
    """An orientation, and one tag of a wrong type."""
    entries = [(0x0112, struct.pack(">HIH2x", 3, 1, orientation))]
    count, behind = {2: len(value), 10: 1}.get(kind, 1), b""
    if len(value) > 4:
        behind, value = value, struct.pack(">I", 8 + 2 + 2 * 12 + 4)
    entries.append((tag, struct.pack(">HI", kind, count) + value.ljust(4, b"\0")))
    table = b"".join(struct.pack(">H", number) + entry for number, entry in sorted(entries))
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 2) + table + bytes(4) + behind


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x011A, 2, b"72 dpi\0"),  # resolution as text
        (0x0100, 2, b"wide\0\0\0"),  # width as text
        (0x011A, 10, struct.pack(">ii", -1, 0)),  # resolution of -1/0
        (0x0128, 99, b"\0\2\0\0"),  # a type that does not exist
    ],
)
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_badly_typed_tag_does_not_hinder_the_turn(tmp_path, orientation, tag, kind, value):
    exif = careless_exif(orientation, tag, kind, value)
    pixels = read_image(save(tmp_path / "a.jpg", smooth(), quality=100, subsampling=0, exif=exif))
    expected = TURNS[orientation](smooth())
    assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).max() <= 8


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, orientation):
    exif = careless_exif(orientation, 0x0128, 3, b"\0\2")
    assert read_image(save(tmp_path / "a.jpg", smooth(), exif=exif)).shape == smooth().shape


def test_every_damaged_byte_of_a_png_is_noticed(tmp_path):
    whole = png(smooth(16, 24), 8, 2)
    for at in range(8, len(whole) - 12):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        with pytest.raises(ImageError):
            read_bytes(tmp_path, bytes(damaged), "a.png")


@pytest.mark.fuzz
@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "avif", "jp2", "bmp", "ppm"])
def test_damage_without_a_check_sum_is_read_or_refused_by_name(tmp_path, suffix, fuzz_budget):
    whole = save(tmp_path / f"a.{suffix}", smooth()).read_bytes()
    rng = np.random.default_rng(len(whole))
    for _ in range(40 * fuzz_budget):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(256)
        try:
            pixels = read_bytes(tmp_path, bytes(damaged), f"b.{suffix}")
        except ImageError as error:
            assert str(error).startswith(f"b.{suffix}: ")
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
