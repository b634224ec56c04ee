"""The Pillow codecs: settings that a reader relies on, and agreement with published JPEG points."""

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.pillow import AVIF, HEIC, JPEG, JPEG2000, JPEGXL, WebP
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import StreamError, Unavailable, UsageError

# CompressAI's published JPEG points on the 24 Kodak images: InterDigitalInc/CompressAI, results/image/kodak/jpeg.json
# (mean bpp, mean of dB per image), its qualities 5, 10, ... 95.
PUBLISHED = [
    (0.22115, 23.7799),
    (0.32661, 26.5772),
    (0.42313, 28.0422),
    (0.50839, 29.0418),
    (0.58787, 29.7847),
    (0.66013, 30.3783),
    (0.72895, 30.9032),
    (0.78603, 31.3078),
    (0.84972, 31.7048),
    (0.90600, 32.0587),
    (0.96438, 32.3993),
    (1.03721, 32.7899),
    (1.12740, 33.2347),
    (1.23985, 33.7926),
    (1.36883, 34.3943),
    (1.57181, 35.2390),
    (1.85882, 36.3289),
    (2.35020, 37.9121),
    (3.40134, 40.5567),
]


@pytest.fixture(scope="module")
def kodak():
    root = os.environ.get("HFDBENCH_DATA")
    files = sorted(Path(root, "kodak").glob("*.png")) if root else []
    if len(files) != 24:
        pytest.skip("HFDBENCH_DATA names no folder with the 24 Kodak images")
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


@pytest.fixture(scope="module")
def colourful():
    """Small coloured patches: what 4:2:0 cannot keep."""
    cells = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return cells.repeat(3, axis=0).repeat(3, axis=1)


def psnr_db(a, b):
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean())


def rate_and_quality(codec, images):
    bpp, db = [], []
    for image in images:
        stream = codec.encode(image)
        bpp.append(8 * len(stream) / (image.shape[0] * image.shape[1]))
        db.append(psnr_db(image, codec.decode(stream, seed=0)))
    return np.mean(bpp), np.mean(db)


def test_baseline_jpeg_agrees_with_published_points(kodak):
    """Same bytes at the same quality; at equal rate the same PSNR but for the library, which is known and one-sided.

    The published points are IJG libjpeg 9's, as bundled by the Pillow of their time: its cjpeg and djpeg give them back
    to all five digits. Today's Pillow has libjpeg-turbo, whose decoder enlarges chroma in another way: +0.07 to +0.14 dB.
    """
    card = find_cards(CodecCard)["jpeg-baseline"]
    ours = np.array([rate_and_quality(load_codec(card, point.id), kodak) for point in card.points])
    assert ours[:, 0] == pytest.approx([bpp for bpp, _ in PUBLISHED], rel=0.003)
    for bpp, db in PUBLISHED[:-1]:  # the last rate lies above our last one
        at_equal_rate = np.interp(np.log(bpp), np.log(ours[:, 0]), ours[:, 1])
        assert -0.02 < at_equal_rate - db < 0.15, f"at {bpp} bpp"


def test_optimising_saves_bytes_and_changes_no_pixel(kodak):
    plain, tuned = JPEG(50, optimize=False, progressive=False), JPEG(50)
    image = kodak[0]
    streams = plain.encode(image), tuned.encode(image)
    assert len(streams[1]) < 0.97 * len(streams[0])
    assert np.array_equal(plain.decode(streams[0], seed=0), tuned.decode(streams[1], seed=0))


@pytest.mark.parametrize("codec, quality", [(JPEG, 95), (AVIF, 90), (HEIC, 80)])
def test_full_chroma_keeps_colour_detail(codec, quality, colourful):
    try:
        full, half = codec(quality, "4:4:4"), codec(quality, "4:2:0")
    except Unavailable as error:
        pytest.skip(str(error))
    gain = [psnr_db(colourful, c.decode(c.encode(colourful), seed=0)) for c in (full, half)]
    assert gain[0] > gain[1] + 3


def test_jpeg2000_is_9_7_with_colour_transform_and_no_comment(colourful):
    stream = JPEG2000(2.0).encode(colourful)
    at = stream.index(
        b"\xff\x52"
    )  # COD: ... progression (1), layers (2), colour transform (1), levels, block, style, wavelet
    assert stream[at + 8] == 1 and stream[at + 13] == 0  # ISO/IEC 15444-1, tables A.17 and A.20: 0 is 9/7 irreversible
    assert b"OpenJPEG" not in stream and stream[:2] == b"\xff\x4f"


@pytest.mark.parametrize("bpp", [0.25, 1.0])
def test_jpeg2000_meets_its_rate(bpp, kodak):
    stream = JPEG2000(bpp).encode(kodak[4])
    assert 0.98 * bpp < 8 * len(stream) / (512 * 768) <= bpp


def test_streams_carry_no_metadata(colourful):
    for codec in (JPEG(50), WebP(50), JPEG2000(1.0), AVIF(50), JPEGXL(50)):
        stream = codec.encode(colourful)
        assert not any(mark in stream for mark in (b"Exif", b"ICC_PROFILE", b"ICCP", b"http://ns.adobe.com", b"prof"))


def test_truncated_jpeg_is_refused_even_when_pillow_is_lenient(colourful, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    stream = JPEG(50).encode(colourful)
    for length in range(len(stream)):
        with pytest.raises(StreamError):
            JPEG(50).decode(stream[:length], seed=0)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: JPEG(101), "quality = 101"),
        (lambda: AVIF(50, "4:1:1"), "4:4:4"),
        (lambda: JPEG2000(0), "bpp = 0"),
        (lambda: WebP(-1), "quality = -1"),
    ],
)
def test_bad_settings_are_refused_before_coding(make, says):
    with pytest.raises(UsageError, match=says):
        make()


@pytest.mark.parametrize(
    "codec, package, hint",
    [(HEIC, "pillow_heif", r"hfdbench\[heic\]"), (JPEGXL, "pillow_jxl", "pillow-jxl-plugin")],
)
def test_missing_plugin_says_how_to_get_it(codec, package, hint, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == package:
            raise ModuleNotFoundError(name=package)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Unavailable, match=hint):
        codec(50)


def test_a_header_that_claims_a_huge_picture_is_refused_before_it_is_decoded():
    """64 x 64 pixels whose frame header says 13000 x 13000: decoding would take gigabytes."""
    import io
    import tracemalloc

    from PIL import Image

    from hfdbench.codecs.pillow import JPEG
    from hfdbench.errors import StreamError

    stream = bytearray(JPEG(50).encode(np.asarray(Image.linear_gradient("L").resize((64, 64)).convert("RGB"))))
    at = stream.index(b"\xff\xc2") + 5  # SOF2: height and width, 2 bytes each
    stream[at : at + 4] = (13000).to_bytes(2, "big") * 2
    assert Image.open(io.BytesIO(bytes(stream))).size == (13000, 13000)
    tracemalloc.start()
    with pytest.raises(StreamError, match="claims 13000 x 13000 pixels"):
        JPEG(50).decode(bytes(stream), seed=0)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
