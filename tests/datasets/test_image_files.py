"""Image files of every kind x depth x photometric interpretation x planes x alpha x colour x orientation: right, or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers_images import (
    ADOBE,
    ADOBE_RGB,
    INK_LAB,
    LINEAR_GREY,
    SRGB,
    TURNS,
    WHITE,
    cmyk_profile,
    noise,
    over_white,
    png,
    profile,
    save,
    smooth,
    srgb_levels,
    tiff,
    xyz,
)
from PIL import Image, ImageCms

from hfdbench.datasets.image_files import picture_size, read_image
from hfdbench.errors import ImageError

# --- the rules, one by one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm", "webp"])
def test_eight_bit_colour_is_left_alone(tmp_path, suffix):
    image = noise(20, 31, 3)
    pixels = read_image(save(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {})))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert np.array_equal(pixels, image)


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 95}), ("avif", {"quality": 95}), ("jp2", {})])
def test_lossy_kinds_are_read(tmp_path, suffix, options):
    pixels = read_image(save(tmp_path / f"a.{suffix}", smooth(), **options))
    assert np.abs(pixels.astype(int) - smooth()).max() <= 8


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    pixels = read_image(save(tmp_path / f"a.{suffix}", smooth(), exif=exif, **options))
    expected = TURNS[orientation](smooth())
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (8 if suffix == "jpg" else 0)


def test_grey_is_copied(tmp_path):
    grey = noise(20, 30)
    assert np.array_equal(read_image(save(tmp_path / "a.png", grey)), np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_is_black_and_white(tmp_path):
    bits = noise(20, 30) > 128
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(bits)))
    assert np.array_equal(pixels, np.repeat(np.where(bits, 255, 0)[..., None], 3, axis=2))


def test_alpha_is_composited_over_white(tmp_path):
    image = noise(40, 50, 4)
    image[0, :3, 3] = 0, 255, 128
    pixels = read_image(save(tmp_path / "a.png", image))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(pixels[0, 1], image[0, 1, :3])
    assert np.array_equal(pixels, over_white(image[..., :3].astype(float), image[..., 3].astype(float)))


def test_grey_with_alpha(tmp_path):
    image = noise(20, 30, 2)
    expected = over_white(np.repeat(image[..., :1], 3, axis=2).astype(float), image[..., 1].astype(float))
    assert np.array_equal(read_image(save(tmp_path / "a.png", image)), expected)


def test_palette_with_a_transparent_entry(tmp_path):
    index = noise(20, 30) % 3
    image = Image.fromarray(index, mode="L").convert("P")
    image.putdata(index.flatten().tolist())
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    colours = np.array([[10, 20, 30], [200, 100, 50], [1, 2, 3]], np.uint8)
    assert np.array_equal(read_image(save(tmp_path / "a.png", image)), colours[index])
    colours[1] = 255
    assert np.array_equal(read_image(save(tmp_path / "b.png", image, transparency=1)), colours[index])


def test_transparent_colour_of_a_png(tmp_path):
    image = noise(20, 30, 3)
    path = save(tmp_path / "a.png", image, transparency=tuple(image[3, 4].tolist()))
    expected = image.copy()
    expected[(image == image[3, 4]).all(axis=-1)] = 255
    assert np.array_equal(read_image(path), expected)


def test_transparent_level_of_a_grey_png(tmp_path):
    grey = noise(20, 30)
    path = save(tmp_path / "a.png", grey, transparency=int(grey[3, 4]))
    expected = np.where(grey == grey[3, 4], 255, grey)
    assert np.array_equal(read_image(path), np.repeat(expected[..., None], 3, axis=2))


def nearest(deep):
    return np.floor(deep.astype(float) / 257 + 0.5).astype(np.uint8)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_is_rounded(tmp_path, colour_type, channels):
    deep = noise(64, 64, channels, dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(deep, 16, colour_type))
    expected = nearest(deep)
    colour = np.repeat(expected[..., :1], 3, axis=2) if channels < 3 else expected[..., :3]
    if channels in (2, 4):
        colour = over_white(colour.astype(float), expected[..., -1].astype(float))
    assert (deep >> 8 != nearest(deep)).mean() > 0.2  # so that cutting the low byte off would be noticed
    assert np.array_equal(read_image(tmp_path / "a.png"), colour)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_transparent_colour_of_a_sixteen_bit_png(tmp_path, colour_type, channels):
    deep = noise(20, 20, channels, dtype=np.uint16)
    deep[0, 1] = deep[0, 0] ^ 1  # equal in the high byte: another colour
    (tmp_path / "a.png").write_bytes(png(deep, 16, colour_type, [(b"tRNS", deep[0, 0].astype(">u2").tobytes())]))
    pixels = read_image(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == np.broadcast_to(nearest(deep[0, 1]), 3).tolist()


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_tiff_is_rounded(tmp_path, order):
    deep = noise(40, 50, 3, dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(deep, 16, 2, order=order))
    assert np.array_equal(read_image(tmp_path / "a.tif"), nearest(deep))


def test_sixteen_bit_compressed_tiff_is_rounded(tmp_path):
    tifffile = pytest.importorskip("tifffile", reason="tifffile, which scikit-image brings, writes this kind")
    deep = noise(40, 50, 3, dtype=np.uint16)
    tags = [(274, 3, 1, 6, True)]  # and turned
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb", compression="zlib", predictor=True, extratags=tags)
    assert np.array_equal(read_image(tmp_path / "a.tif"), np.rot90(nearest(deep), -1))


@pytest.mark.parametrize(("kind", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_sixteen_bit_pnm_is_rounded(tmp_path, kind, channels):
    deep = noise(20, 30, channels, dtype=np.uint16)
    (tmp_path / "a.ppm").write_bytes(kind + b"\n30 20\n65535\n" + deep.astype(">u2").tobytes())
    assert np.array_equal(read_image(tmp_path / "a.ppm"), np.broadcast_to(nearest(deep), (20, 30, 3)))


def test_numbers_without_an_agreed_white_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"a\.tif: TIFF of 32 bits, sample format 3 .*no stated rule"):
        read_image(save(tmp_path / "a.tif", np.zeros((20, 20), np.float32)))
    with pytest.raises(ImageError, match=r"b\.tif: TIFF of 32 bits, sample format 2 .*no stated rule"):
        read_image(save(tmp_path / "b.tif", np.zeros((20, 20), np.int32)))


# --- colour -------------------------------------------------------------------------------------------------------------


def test_adobe_rgb_is_followed_to_srgb(tmp_path):
    image = noise(32, 32, 3)
    linear = (image / 255.0) ** (563 / 256) @ ADOBE.T @ np.linalg.inv(SRGB).T
    pixels = read_image(save(tmp_path / "a.png", image, icc_profile=ADOBE_RGB)).astype(float)
    assert np.abs(pixels - srgb_levels(linear)).max() < 2.5  # 8 bits, and primaries of four digits
    assert np.abs(pixels - image).mean() > 5  # the profile does change this picture


def test_profile_and_alpha_and_sixteen_bits_together(tmp_path):
    deep = noise(32, 32, 4, dtype=np.uint16)
    deep[..., 3] = np.where(np.arange(32) < 16, 65535, 0)
    chunk = (b"iCCP", b"adobe\0\0" + zlib.compress(ADOBE_RGB))
    (tmp_path / "a.png").write_bytes(png(deep, 16, 6, [chunk]))
    pixels = read_image(tmp_path / "a.png")
    plain = read_image(save(tmp_path / "b.png", nearest(deep[..., :3]), icc_profile=ADOBE_RGB))
    assert np.array_equal(pixels[:, :16], plain[:, :16])
    assert (pixels[:, 16:] == 255).all()


def test_srgb_profile_leaves_the_pixels_alone(tmp_path):
    image = noise(32, 32, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_image(save(tmp_path / "a.png", image, icc_profile=srgb)), image)


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
    assert np.array_equal(read_image(save(tmp_path / "a.png", image, icc_profile=nearly)), image)


def test_grey_follows_its_profile(tmp_path):
    grey = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    pixels = read_image(save(tmp_path / "a.png", grey, icc_profile=LINEAR_GREY)).astype(float)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[0, :, 0] - srgb_levels(np.arange(256) / 255)).max() < 1.5


def test_grey_with_a_colour_profile(tmp_path):
    grey = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    pixels = read_image(save(tmp_path / "a.png", grey, icc_profile=ADOBE_RGB)).astype(float)
    assert np.abs(pixels[0, :, 0] - srgb_levels((np.arange(256) / 255) ** (563 / 256))).max() < 2.5


@pytest.mark.parametrize("icc", [b"no profile at all", ADOBE_RGB[:200], LINEAR_GREY, cmyk_profile()])
def test_damaged_or_foreign_profile_is_ignored(tmp_path, icc):
    image = noise(20, 30, 3)
    assert np.array_equal(read_image(save(tmp_path / "a.png", image, icc_profile=icc)), image)


def test_cmyk_without_a_profile(tmp_path):
    inks = np.zeros((32, 32, 4), np.uint8)
    inks[..., 0], inks[..., 3] = 51, 102  # C 20 %, K 40 %
    pixels = read_image(save(tmp_path / "a.jpg", Image.fromarray(inks, mode="CMYK"), quality=100))
    expected = np.array([0.8 * 0.6, 0.6, 0.6]) * 255
    assert np.abs(pixels - expected).max() < 2.5


def test_cmyk_follows_its_profile(tmp_path):
    inks = Image.fromarray(noise(32, 32, 4), mode="CMYK")
    pixels = read_image(save(tmp_path / "a.tif", inks, icc_profile=cmyk_profile()))
    lightness, a, b = INK_LAB  # CIE 1976, all three cube roots above their linear part here
    y = (lightness + 16) / 116
    linear = np.linalg.inv(SRGB) @ (np.array([y + a / 500, y, y - b / 200]) ** 3 * [0.9642, 1.0, 0.8249])
    assert np.abs(pixels - srgb_levels(linear)).max() < 2.5


# --- damaged, tiny, hostile ---------------------------------------------------------------------------------------------


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(noise(20, 30, 3, seed=i)) for i in range(3)]
    path = save(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    assert getattr(Image.open(path), "n_frames", 1) > 1
    assert np.array_equal(read_image(path), noise(20, 30, 3))
    path = save(tmp_path / "a.tif", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(read_image(path), noise(20, 30, 3))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "jp2"])
def test_truncated_picture(tmp_path, suffix):
    path = save(tmp_path / f"cut.{suffix}", noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: "):
        read_image(path)


def test_every_cut_of_a_picture_is_read_or_refused(tmp_path):
    whole = save(tmp_path / "a.png", smooth(), icc_profile=ADOBE_RGB).read_bytes()
    path, refused = tmp_path / "cut.png", 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            read_image(path)
        except ImageError as error:
            refused += 1
            assert "cut.png: " in str(error)
    assert refused > 10


def test_empty_and_foreign_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_text("a text that calls itself a picture")
    (tmp_path / "c.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n")
    with pytest.raises(ImageError, match=r"a\.png: is empty"):
        read_image(tmp_path / "a.png")
    for name in "bc":  # PostScript too: reading it would start a program
        with pytest.raises(ImageError, match=rf"{name}\.png: is not a picture of a known kind"):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(ImageError, match=r"d\.png: is not there"):
        read_image(tmp_path / "d.png")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (15, 400), (400, 15)])
def test_tiny_picture(tmp_path, height, width):
    with pytest.raises(ImageError, match=rf"a\.png: {width}x{height} pixels; both sides must be at least 16"):
        read_image(save(tmp_path / "a.png", noise(height, width, 3)))
    assert read_image(save(tmp_path / "b.png", noise(16, 16, 3))).shape == (16, 16, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [12_000, 60_000])  # within and beyond the size that Pillow refuses by itself
def test_decompression_bomb(tmp_path, side):
    bomb = bytearray(png(noise(16, 16, 3, dtype=np.uint16), 16, 2))
    bomb[16:24] = struct.pack(">II", side, side)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(ImageError, match=r"a\.png: holds more than 134,217,728 pixels"):
        read_image(tmp_path / "a.png")


def test_size_by_header_alone(tmp_path):
    assert picture_size(save(tmp_path / "a.png", noise(20, 30, 3))) == (20, 30)
