import hashlib
import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import DatasetCard
from hfdbench.datasets import samples
from hfdbench.datasets.dataset import choice, cropped, find_data_root, open_dataset
from hfdbench.datasets.image_files import picture_size, read_picture
from hfdbench.errors import ImageError, Unavailable, UsageError
from hfdbench.metrics.distribution.patches import patches

# --- pictures of every kind ---------------------------------------------------------------------------------------------


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height=48, width=64):
    """Slow ramps: JPEG keeps them to a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, 128 + 0 * x], axis=-1).round().astype(np.uint8)


def png(samples_, colour_type, extra=()):
    """A 16-bit PNG, written by hand: Pillow cannot write colour ones."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples_.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples_)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = b"".join(chunk(*entry) for entry in extra) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def tiff16(samples_, order="<"):
    """An uncompressed 16-bit RGB TIFF, written by hand, in either byte order."""
    height, width = samples_.shape[:2]
    strip = samples_.astype(order + "u2").tobytes()
    start = 8 + 2 + 10 * 12 + 4
    fields = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2)]
    fields += [(273, 4, 1, start + 6), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(strip)), (284, 3, 1, 1)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(fields))
    for tag, kind, number, value in fields:
        packed = struct.pack(order + "HH", value, 0) if kind == 3 and number == 1 else struct.pack(order + "I", value)
        head += struct.pack(order + "HHI", tag, kind, number) + packed
    return head + struct.pack(order + "I3H", 0, 16, 16, 16) + strip


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


# --- the rules, one by one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm", "webp"])
def test_eight_bit_colour_is_left_alone(tmp_path, suffix):
    image = noise(20, 31, 3)
    pixels = read_picture(save(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {})))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert np.array_equal(pixels, image)


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 95}), ("avif", {"quality": 95}), ("jp2", {})])
def test_lossy_kinds_are_read(tmp_path, suffix, options):
    pixels = read_picture(save(tmp_path / f"a.{suffix}", smooth(), **options))
    assert np.abs(pixels.astype(int) - smooth()).max() <= 8


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


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    pixels = read_picture(save(tmp_path / f"a.{suffix}", smooth(), exif=exif, **options))
    expected = TURNS[orientation](smooth())
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (8 if suffix == "jpg" else 0)


def test_grey_is_copied(tmp_path):
    grey = noise(20, 30)
    assert np.array_equal(read_picture(save(tmp_path / "a.png", grey)), np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_is_black_and_white(tmp_path):
    bits = noise(20, 30) > 128
    pixels = read_picture(save(tmp_path / "a.png", Image.fromarray(bits)))
    assert np.array_equal(pixels, np.repeat(np.where(bits, 255, 0)[..., None], 3, axis=2))


def over_white(colour, opacity):
    return np.floor((colour * opacity[..., None] + 255.0 * (255 - opacity[..., None])) / 255 + 0.5).astype(np.uint8)


def test_alpha_is_composited_over_white(tmp_path):
    image = noise(40, 50, 4)
    image[0, :3, 3] = 0, 255, 128
    pixels = read_picture(save(tmp_path / "a.png", image))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(pixels[0, 1], image[0, 1, :3])
    assert np.array_equal(pixels, over_white(image[..., :3].astype(float), image[..., 3].astype(float)))


def test_grey_with_alpha(tmp_path):
    image = noise(20, 30, 2)
    expected = over_white(np.repeat(image[..., :1], 3, axis=2).astype(float), image[..., 1].astype(float))
    assert np.array_equal(read_picture(save(tmp_path / "a.png", image)), expected)


def test_palette_with_a_transparent_entry(tmp_path):
    index = noise(20, 30) % 3
    image = Image.fromarray(index, mode="L").convert("P")
    image.putdata(index.flatten().tolist())
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    colours = np.array([[10, 20, 30], [200, 100, 50], [1, 2, 3]], np.uint8)
    assert np.array_equal(read_picture(save(tmp_path / "a.png", image)), colours[index])
    colours[1] = 255
    assert np.array_equal(read_picture(save(tmp_path / "b.png", image, transparency=1)), colours[index])


def test_transparent_colour_of_a_png(tmp_path):
    image = noise(20, 30, 3)
    path = save(tmp_path / "a.png", image, transparency=tuple(image[3, 4].tolist()))
    expected = image.copy()
    expected[(image == image[3, 4]).all(axis=-1)] = 255
    assert np.array_equal(read_picture(path), expected)


def test_transparent_level_of_a_grey_png(tmp_path):
    grey = noise(20, 30)
    path = save(tmp_path / "a.png", grey, transparency=int(grey[3, 4]))
    expected = np.where(grey == grey[3, 4], 255, grey)
    assert np.array_equal(read_picture(path), np.repeat(expected[..., None], 3, axis=2))


def nearest(deep):
    return np.floor(deep.astype(float) / 257 + 0.5).astype(np.uint8)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_is_rounded(tmp_path, colour_type, channels):
    deep = noise(64, 64, channels, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(deep, colour_type))
    expected = nearest(deep)
    colour = np.repeat(expected[..., :1], 3, axis=2) if channels < 3 else expected[..., :3]
    if channels in (2, 4):
        colour = over_white(colour.astype(float), expected[..., -1].astype(float))
    assert (deep >> 8 != nearest(deep)).mean() > 0.2  # so that cutting the low byte off would be noticed
    assert np.array_equal(read_picture(tmp_path / "a.png"), colour)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_transparent_colour_of_a_sixteen_bit_png(tmp_path, colour_type, channels):
    deep = noise(20, 20, channels, dtype=np.uint16)
    deep[0, 1] = deep[0, 0] ^ 1  # equal in the high byte: another colour
    (tmp_path / "a.png").write_bytes(png(deep, colour_type, [(b"tRNS", deep[0, 0].astype(">u2").tobytes())]))
    pixels = read_picture(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == np.broadcast_to(nearest(deep[0, 1]), 3).tolist()


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_tiff_is_rounded(tmp_path, order):
    deep = noise(40, 50, 3, dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff16(deep, order))
    assert np.array_equal(read_picture(tmp_path / "a.tif"), nearest(deep))


def test_sixteen_bit_compressed_tiff_is_rounded(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile, which scikit-image brings, writes this kind")
    deep = noise(40, 50, 3, dtype=np.uint16)
    tags = [(274, 3, 1, 6, True)]  # and turned
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", compression="zlib", predictor=True, extratags=tags)
    assert np.array_equal(read_picture(tmp_path / "a.tif"), np.rot90(nearest(deep), -1))


@pytest.mark.parametrize(("kind", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_sixteen_bit_pnm_is_rounded(tmp_path, kind, channels):
    deep = noise(20, 30, channels, dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(kind + b"\n30 20\n65535\n" + deep.astype(">u2").tobytes())
    assert np.array_equal(read_picture(tmp_path / "a.ppm"), np.broadcast_to(nearest(deep), (20, 30, 3)))


def test_numbers_without_an_agreed_white_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a\.tif: TIFF of 32 bits, sample format 3 .*no stated rule"):
        read_picture(save(tmp_path / "a.tif", np.zeros((20, 20), np.float32)))
    with pytest.raises(ImageError, match=r"b\.tif: TIFF of 32 bits, sample format 2 .*no stated rule"):
        read_picture(save(tmp_path / "b.tif", np.zeros((20, 20), np.int32)))


# --- colour -------------------------------------------------------------------------------------------------------------


def test_adobe_rgb_is_followed_to_srgb(tmp_path):
    image = noise(32, 32, 3)
    linear = (image / 255.0) ** (563 / 256) @ ADOBE.T @ np.linalg.inv(SRGB).T
    pixels = read_picture(save(tmp_path / "a.png", image, icc_profile=ADOBE_RGB)).astype(float)
    assert np.abs(pixels - srgb_levels(linear)).max() < 2.5  # 8 bits, and primaries of four digits
    assert np.abs(pixels - image).mean() > 5  # the profile does change this picture


def test_profile_and_alpha_and_sixteen_bits_together(tmp_path):
    deep = noise(32, 32, 4, dtype=np.uint16)
    deep[..., 3] = np.where(np.arange(32) < 16, 65535, 0)
    chunk = (b"iCCP", b"adobe\0\0" + zlib.compress(ADOBE_RGB))
    (tmp_path / "a.png").write_bytes(png(deep, 6, [chunk]))
    pixels = read_picture(tmp_path / "a.png")
    plain = read_picture(save(tmp_path / "b.png", nearest(deep[..., :3]), icc_profile=ADOBE_RGB))
    assert np.array_equal(pixels[:, :16], plain[:, :16])
    assert (pixels[:, 16:] == 255).all()


def test_srgb_profile_leaves_the_pixels_alone(tmp_path):
    image = noise(32, 32, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_picture(save(tmp_path / "a.png", image, icc_profile=srgb)), image)


def test_srgb_profile_of_another_maker_leaves_the_pixels_alone(tmp_path):
    levels = np.arange(1024) / 1023
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + (linear * 65535).round().astype(">u2").tobytes()
    nearly = profile(
        tags=[(name, xyz(SRGB[:, i] * 0.992)) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
        + [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
        + [WHITE]
    )
    image = noise(32, 32, 3)
    own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(nearly)), ImageCms.createProfile("sRGB")
    followed = np.asarray(ImageCms.profileToProfile(Image.fromarray(image), own, srgb)).astype(int)
    assert np.abs(followed - image).max() == 1  # followed to the letter, it would move some pixels by one level
    assert np.array_equal(read_picture(save(tmp_path / "a.png", image, icc_profile=nearly)), image)


def test_grey_follows_its_profile(tmp_path):
    grey = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    pixels = read_picture(save(tmp_path / "a.png", grey, icc_profile=LINEAR_GREY)).astype(float)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[0, :, 0] - srgb_levels(np.arange(256) / 255)).max() < 1.5


def test_grey_with_a_colour_profile(tmp_path):
    grey = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    pixels = read_picture(save(tmp_path / "a.png", grey, icc_profile=ADOBE_RGB)).astype(float)
    assert np.abs(pixels[0, :, 0] - srgb_levels((np.arange(256) / 255) ** (563 / 256))).max() < 2.5


@pytest.mark.parametrize("icc", [b"no profile at all", ADOBE_RGB[:200], LINEAR_GREY, cmyk_profile()])
def test_damaged_or_foreign_profile_is_ignored(tmp_path, icc):
    image = noise(20, 30, 3)
    assert np.array_equal(read_picture(save(tmp_path / "a.png", image, icc_profile=icc)), image)


def test_cmyk_without_a_profile(tmp_path):
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 51, 102  # C 20 %, K 40 %
    pixels = read_picture(save(tmp_path / "a.jpg", Image.fromarray(inks, mode="CMYK"), quality=100))
    expected = np.array([0.8 * 0.6, 0.6, 0.6]) * 255
    assert np.abs(pixels - expected).max() < 2.5


def test_cmyk_follows_its_profile(tmp_path):
    inks = Image.fromarray(noise(32, 32, 4), mode="CMYK")
    pixels = read_picture(save(tmp_path / "a.tif", inks, icc_profile=cmyk_profile()))
    lightness, a, b = INK_LAB  # CIE 1976, all three cube roots above their linear part here
    y = (lightness + 16) / 116
    linear = np.linalg.inv(SRGB) @ (np.array([y + a / 500, y, y - b / 200]) ** 3 * [0.9642, 1.0, 0.8249])
    assert np.abs(pixels - srgb_levels(linear)).max() < 2.5


# --- damaged, tiny, hostile ---------------------------------------------------------------------------------------------


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(noise(20, 30, 3, seed=i)) for i in range(3)]
    path = save(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    assert getattr(Image.open(path), "n_frames", 1) > 1
    assert np.array_equal(read_picture(path), noise(20, 30, 3))
    path = save(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(read_picture(path), noise(20, 30, 3))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "jp2"])
def test_truncated_picture(tmp_path, suffix):
    path = save(tmp_path / f"cut.{suffix}", noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: "):
        read_picture(path)


def test_every_cut_of_a_picture_is_read_or_refused(tmp_path):
    whole = save(tmp_path / "a.png", smooth(), icc_profile=ADOBE_RGB).read_bytes()
    path, refused = tmp_path / "cut.png", 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            read_picture(path)
        except ImageError as error:
            refused += 1
            assert "cut.png: " in str(error)
    assert refused > 10


def test_empty_and_foreign_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("a text that calls itself a picture")
    (tmp_path / "c.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    with pytest.raises(ImageError, match=r"a\.png: is empty"):
        read_picture(tmp_path / "a.png")
    for name in "bc":  # PostScript too: reading it would start a program
        with pytest.raises(ImageError, match=rf"{name}\.png: is not a picture of a known kind"):
            read_picture(tmp_path / f"{name}.png")
    with pytest.raises(ImageError, match=r"d\.png: is not there"):
        read_picture(tmp_path / "d.png")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 400), (400, 15)])
def test_tiny_picture(tmp_path, height, width):
    with pytest.raises(ImageError, match=rf"a\.png: {width}x{height} pixels; both sides must be at least 16"):
        read_picture(save(tmp_path / "a.png", noise(height, width, 3)))
    assert read_picture(save(tmp_path / "b.png", noise(16, 16, 3))).shape == (16, 16, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [12_000, 60_000])  # within and beyond the size that Pillow refuses by itself
def test_decompression_bomb(tmp_path, side):
    bomb = bytearray(png(noise(16, 16, 3, dtype=np.uint16), 2))
    bomb[16:24] = struct.pack(">II", side, side)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(ImageError, match=r"a\.png: holds more than 134,217,728 pixels"):
        read_picture(tmp_path / "a.png")


def test_size_by_header_alone(tmp_path):
    assert picture_size(save(tmp_path / "a.png", noise(20, 30, 3))) == (20, 30)


# --- crops of a card ----------------------------------------------------------------------------------------------------


def test_centre_crop():
    image = noise(301, 400, 3)
    assert np.array_equal(cropped(image, "center256", "a"), image[22 : 22 + 256, 72 : 72 + 256])
    with pytest.raises(ImageError, match="a: 400x200 pixels; its 256x256 crop"):
        cropped(noise(200, 400, 3), "center256", "a")


def test_resized_crop():
    image = noise(512, 800, 3)
    expected = Image.fromarray(image[:, 144 : 144 + 512].copy()).resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(cropped(image, "resize256", "a"), np.asarray(expected))
    assert cropped(noise(40, 90, 3), "resize256", "a").shape == (256, 256, 3)  # a small one is enlarged
    square = noise(256, 300, 3)
    assert np.array_equal(cropped(square, "resize256", "a"), square[:, 22 : 22 + 256])


# --- folders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "My Photos"
    place.mkdir()
    for name in ("b.png", "a.PNG", "c.jpg"):
        save(place / name, noise(20, 30, 3, seed=ord(name[0])))
    (place / "notes.txt").write_text("not a picture")
    (place / ".hidden.png").write_bytes(b"")
    (place / "inside").mkdir()
    save(place / "inside" / "d.png", noise(20, 30, 3))
    return place


def test_folder(folder):
    dataset = open_dataset(f"folder:{folder}")
    assert dataset.names == ("a.PNG", "b.png", "c.jpg")
    assert dataset.id == f"folder-my_photos-{dataset.sha256[:8]}"
    assert dataset.title == "My Photos, 3 pictures"
    assert (dataset.protocol, dataset.expected_patches, len(dataset)) == ("fid256", None, 3)
    assert np.array_equal(dataset.load(1), noise(20, 30, 3, seed=ord("b")))
    assert pickle.loads(pickle.dumps(dataset)) == dataset == open_dataset(f"folder:{folder}")
    assert len(pickle.dumps(dataset)) < 2000  # names and places, no pixels


def test_hash_follows_names_and_contents(folder):
    first = open_dataset(f"folder:{folder}").sha256
    limited = open_dataset(f"folder:{folder}", limit=2)
    assert limited.sha256 != first
    assert limited.id == f"folder-my_photos-{limited.sha256[:8]}@2"
    (folder / "b.png").rename(folder / "bb.png")
    renamed = open_dataset(f"folder:{folder}").sha256
    save(folder / "c.jpg", noise(20, 30, 3, seed=9))
    assert len({first, renamed, open_dataset(f"folder:{folder}").sha256}) == 3


def test_bad_picture_does_not_stop_the_others(folder):
    (folder / "b.png").write_bytes(b"no picture")
    dataset = open_dataset(f"folder:{folder}")
    assert dataset.load(0).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"b\.png"):
        dataset.load(1)
    (folder / "c.jpg").unlink()
    with pytest.raises(ImageError, match=r"c\.jpg: is not there"):
        dataset.load(2)


def test_no_folder_no_pictures_no_limit(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"nowhere\": no such folder; give one"):
        open_dataset(f"folder:{tmp_path}/nowhere")
    with pytest.raises(UsageError, match=r"empty\": no pictures in it; known suffixes: \.png"):
        open_dataset(f"folder:{tmp_path}/empty")
    with pytest.raises(UsageError, match="--limit 0"):
        open_dataset(f"folder:{folder}", limit=0)


# --- cards --------------------------------------------------------------------------------------------------------------


def write_card(tmp_path, text):
    (tmp_path / "cards" / "datasets").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "cards" / "datasets" / "mine.toml"
    path.write_text('id = "mine"\n' + text)
    return {"cards": [tmp_path / "cards"], "data_root": tmp_path}


def test_unknown_card_and_missing_pictures(tmp_path):
    with pytest.raises(UsageError, match='no dataset "kodac"; did you mean "kodak"'):
        open_dataset("kodac", data_root=tmp_path)
    with pytest.raises(Unavailable) as caught:
        open_dataset("kodak", data_root=tmp_path)
    assert caught.value.hint == "hfdbench fetch kodak"
    where = write_card(tmp_path, 'folder = "mine"')
    with pytest.raises(Unavailable, match=r"put its pictures into .*mine"):
        open_dataset("mine", **where)


def test_wrong_number_of_pictures(tmp_path):
    (tmp_path / "kodak").mkdir()
    save(tmp_path / "kodak" / "kodim01.png", noise(20, 30, 3))
    with pytest.raises(UsageError, match=r"kodak holds 1 pictures where 24 are expected; .*hfdbench fetch kodak"):
        open_dataset("kodak", data_root=tmp_path)


def test_subset_of_a_card(folder, tmp_path):
    where = write_card(tmp_path, 'folder = "mine"\ntitle = "Mine"\ncount = 3\npatches = 7')
    folder.rename(tmp_path / "mine")
    whole, subset = open_dataset("mine", **where), open_dataset("mine", limit=2, **where)
    assert (whole.id, whole.title, whole.expected_patches) == ("mine", "Mine, 3 pictures", 7)
    assert (subset.id, subset.title, subset.expected_patches) == ("mine@2", "Mine, subset of 2 pictures", None)
    assert subset.names == whole.names[:2]
    assert subset.sha256 != whole.sha256
    assert open_dataset("mine", limit=3, **where) == open_dataset("mine", limit=99, **where) == whole


def test_crop_is_part_of_the_hash(tmp_path):
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", noise(300, 300, 3))
    cut = open_dataset("mine", **write_card(tmp_path, 'folder = "mine"\ncrop = "center256"\nprotocol = "whole"'))
    resized = open_dataset("mine", **write_card(tmp_path, 'folder = "mine"\ncrop = "resize256"\nprotocol = "whole"'))
    assert cut.sha256 != resized.sha256
    assert cut.load(0).shape == resized.load(0).shape == (256, 256, 3)
    assert not np.array_equal(cut.load(0), resized.load(0))


def test_list_of_names(folder, tmp_path):
    names = "c\na.PNG\n"
    sha256 = hashlib.sha256(names.encode()).hexdigest()
    where = write_card(tmp_path, f'folder = "mine"\nnames = "mine.txt"\nnames_sha256 = "{sha256}"\ncount = 2')
    listing = tmp_path / "cards" / "datasets" / "mine.txt"
    folder.rename(tmp_path / "mine")
    with pytest.raises(UsageError, match=r'key "names": .*mine\.txt cannot be read'):
        open_dataset("mine", **where)
    listing.write_text(names)
    assert open_dataset("mine", **where).names == ("c.jpg", "a.PNG")  # the list's order; other pictures do not disturb
    (tmp_path / "mine" / "c.jpg").unlink()
    with pytest.raises(UsageError, match=r"mine lacks 1 of 2 pictures, c first"):
        open_dataset("mine", **where)
    listing.write_text("b\na\n")
    with pytest.raises(UsageError, match=r"sha256 of mine\.txt differs"):
        open_dataset("mine", **where)


def test_choice_from_a_pool(tmp_path):
    pool = tmp_path / "mine"
    pool.mkdir()
    for number in range(12):
        side = 200 if number % 4 == 0 else 256
        save(pool / f"a {number:02d}.png", np.full((side, 260, 3), number, np.uint8))
    large = [f"a {number:02d}.png" for number in range(12) if number % 4]
    expected = tuple(sorted(large, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:5])
    where = write_card(tmp_path, 'folder = "mine"\npool = 12\ncount = 5\nprotocol = "whole"\ncrop = "center256"')
    assert tuple(choice(pool.iterdir(), 5)) == expected
    first = open_dataset("mine", **where)
    assert first.names == expected
    record = tmp_path / "mine-5.txt"
    head, body = record.read_text().split("\n", 1)
    assert body.splitlines() == list(expected)
    assert head == f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}"
    assert open_dataset("mine", **where) == first  # now from the record
    assert open_dataset("mine", limit=2, **where).id == "mine@2"
    record.write_text(record.read_text().replace(expected[0], large[-1]))
    with pytest.raises(UsageError, match=r"mine-5\.txt was altered .*delete it"):
        open_dataset("mine", **where)
    record.unlink()
    (pool / "a 01.png").unlink()
    with pytest.raises(UsageError, match="mine holds 11 pictures where 12 are expected"):
        open_dataset("mine", **where)


def test_pool_that_is_too_small(tmp_path):
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", noise(256, 256, 3))
    save(tmp_path / "mine" / "b.png", noise(255, 256, 3))
    with pytest.raises(UsageError, match="only 1 of 2 pictures are large enough"):
        open_dataset("mine", **write_card(tmp_path, 'folder = "mine"\npool = 2\ncount = 2'))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", 'give either "folder" or "package"'),
        ('folder = "../mine"', "should match pattern"),
        ('folder = ".."', "should match pattern"),
        ('folder = "mine"\npool = 4', '"pool" needs "folder" and "count"'),
        ('folder = "mine"\nnames = "mine.txt"', '"names" and "names_sha256" go together'),
        ('folder = "mine"\n[[sources]]\nurl = "file:///etc/passwd"', "should match pattern"),
        ('package = "no_such_module:f"', "No module named"),
        ('package = "hfdbench.datasets.samples:f"', "no attribute"),
        ('package = "hfdbench.datasets.samples:pictures"\ncount = 3', "9 pictures where 3 are expected"),
    ],
)
def test_bad_cards(tmp_path, text, cause):
    with pytest.raises(UsageError, match=cause):
        open_dataset("mine", **write_card(tmp_path, text))


def test_bundled_cards_state_what_they_promise():
    cards = find_cards(DatasetCard)
    assert {"samples", "kodak", "clic", "clic2025-val", "div2k", "coco", "coco-crop", "coco-val"} <= cards.keys()
    stated = {name: (card.count, card.patches) for name, card in cards.items()}
    assert stated["kodak"] == (24, 192)
    assert stated["clic"] == (428, 28650)
    assert stated["div2k"] == (100, 6573)
    assert stated["coco"] == stated["coco-crop"] == (30000, 30000)
    assert len(cards["kodak"].sources) == 24
    for card in cards.values():
        assert card.licence, card.id
        assert card.note, card.id
        # A subset keeps the title: no title may name the whole.
        assert "30" not in card.title, card.id


def test_coco_cards_share_pictures_and_differ_in_crop():
    cards = find_cards(DatasetCard)
    one, other = cards["coco"], cards["coco-crop"]
    assert (one.folder, one.pool, one.sources, one.protocol) == (other.folder, 40504, other.sources, "whole")
    assert {one.crop, other.crop} == {"resize256", "center256"}


def test_names_of_bundled_lists_fit_their_cards():
    from hfdbench.datasets.dataset import listed_names

    for card in find_cards(DatasetCard).values():
        if card.names:
            assert len(set(listed_names(card))) == card.count


# --- samples and real sets ----------------------------------------------------------------------------------------------


def test_samples_need_nothing_but_the_installed_packages(tmp_path):
    dataset = open_dataset("samples", data_root=tmp_path)
    assert len(dataset) == 9
    images = [dataset.load(index) for index in range(9)]
    assert sum(len(patches(image, dataset.protocol)) for image in images) == dataset.expected_patches == 45
    assert all(image.std(axis=-1).mean() > 1 for image in images)  # colour, all of them
    assert open_dataset("samples", data_root=tmp_path).sha256 == dataset.sha256


def test_altered_sample_is_named(tmp_path, monkeypatch):
    package = tmp_path / "altered_skimage"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "data" / "astronaut.png").write_bytes(b"other bytes")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(samples.WHEELS, "altered_skimage", "scikit-image")
    with pytest.raises(Unavailable, match=r"astronaut\.png of scikit-image is not the one that is pinned; pip install"):
        samples._pinned("altered_skimage", "data/astronaut.png", "0" * 64)
    with pytest.raises(Unavailable, match=r"lacks data/rocket\.jpg"):
        samples._pinned("altered_skimage", "data/rocket.jpg", "0" * 64)


@pytest.fixture
def real_root():
    if not os.environ.get("HFDBENCH_DATA"):
        pytest.skip("HFDBENCH_DATA is not set: no downloaded datasets to open")
    return Path(os.environ["HFDBENCH_DATA"])


def test_kodak_gives_192_patches(real_root):
    if not (real_root / "kodak").is_dir():
        pytest.skip("HFDBENCH_DATA holds no kodak")
    dataset = open_dataset("kodak", data_root=real_root)
    assert sum(len(patches(dataset.load(index), dataset.protocol)) for index in range(24)) == 192
    assert dataset.names[0] == "kodim01.png"
    assert open_dataset("kodak", data_root=real_root, limit=4).id == "kodak@4"


def test_kodak_card_pins_the_files(real_root):
    if not (real_root / "kodak").is_dir():
        pytest.skip("HFDBENCH_DATA holds no kodak")
    for source in find_cards(DatasetCard)["kodak"].sources:
        content = (real_root / "kodak" / source.url.rpartition("/")[2]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (source.bytes, source.sha256)


def test_other_real_sets(real_root):
    for name, shape in (("coco-val", (256, 256, 3)), ("clic2025-val", None)):
        if not (real_root / name).is_dir():
            pytest.skip(f"HFDBENCH_DATA holds no {name}")
        dataset = open_dataset(name, data_root=real_root)
        assert shape in (None, dataset.load(0).shape)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HFDBENCH_DATA", str(tmp_path / "named"))
    assert find_data_root(tmp_path / "given") == tmp_path / "given"
    assert find_data_root(None) == tmp_path / "named"
    monkeypatch.delenv("HFDBENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert find_data_root(None) == tmp_path / "cache" / "hfdbench" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_data_root(None) == tmp_path / ".cache" / "hfdbench" / "data"
