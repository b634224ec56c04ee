"""One law for every codec: each bundled card, at its middle point, where its codec is available."""

import functools

import numpy as np
import pytest

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import CodecError, StreamError, Unavailable

CARDS = find_cards(CodecCard)
SIZES = [(1, 1), (5, 7), (48, 64), (257, 255)]
FOREIGN = [b"", b"\0", b"not a stream of this codec, whatever codec it may be", bytes(4096)]
SAME_FORMAT = {"cjxl": "jxl", "jpegli": "jpeg"}  # a program that writes a format of Pillow's


@functools.cache
def available(card_id):
    """The codec of the middle point, or the reason why it is not here."""
    card = CARDS[card_id]
    try:
        return load_codec(card, card.points[len(card.points) // 2].id)
    except Unavailable as error:
        return error


def pytest_generate_tests(metafunc):
    """The contract runs over the codecs that are here; one test a card says whether it is."""
    if "card_id" in metafunc.fixturenames:
        here = [name for name in CARDS if not isinstance(available(name), Unavailable)]
        metafunc.parametrize("card_id", here)


@pytest.mark.parametrize("any_card", CARDS)
def test_available(any_card):
    found = available(any_card)
    if isinstance(found, Unavailable):
        assert found.hint, f"{any_card} is not available and no line says how to get it"
        pytest.skip(f"{any_card}: {found}")
    assert callable(found.encode) and callable(found.decode)


@functools.cache
def stream_of(card_id, size):
    """Stream of a photograph-like image. A codec that decodes another's streams gets them from it."""
    return available(CARDS[card_id].streams or card_id).encode(picture(*size))


def picture(height, width):
    """Smooth shades, an edge and fine noise: uint8, height x width x 3."""
    y, x = np.mgrid[:height, :width]
    shades = np.stack([96 + 80 * np.sin(x / 19), 128 + 60 * np.cos(y / 23), 110 + 50 * np.sin((x + y) / 31)], axis=-1)
    shades[(x > width // 2) & (y > height // 3)] *= 0.6
    noise = np.random.default_rng(0).normal(0, 3, shades.shape)
    return np.clip(shades + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_round_trip(card_id, size):
    codec = available(card_id)
    try:
        stream = stream_of(card_id, size)
    except CodecError as error:
        assert len(str(error)) > 20  # an image it cannot code is refused in words
        return
    assert type(stream) is bytes and stream
    decoded = codec.decode(stream, seed=0)
    assert isinstance(decoded, np.ndarray)
    assert decoded.shape == (*size, 3) and decoded.dtype == np.uint8
    assert np.array_equal(codec.decode(stream, seed=0), decoded), "same stream and seed gave other pixels"
    # The middle of a sweep resembles the image: noise or a swapped channel would be off by more than 20 on average.
    assert np.abs(decoded.astype(float) - picture(*size)).mean() < 20


def test_encoding_does_not_touch_the_image(card_id):
    if CARDS[card_id].streams:
        pytest.skip(f"never encodes: decodes the streams of {CARDS[card_id].streams}")
    image = picture(48, 64)
    image.setflags(write=False)
    assert available(card_id).encode(image) == stream_of(card_id, (48, 64)), "the same image gave another stream"


def test_grey_stays_grey(card_id):
    if CARDS[card_id].streams:
        pytest.skip(f"never encodes: decodes the streams of {CARDS[card_id].streams}")
    codec = available(card_id)
    grey = np.repeat(picture(96, 96)[..., :1], 3, axis=-1)
    decoded = codec.decode(codec.encode(grey), seed=0).astype(float)
    # A learned codec may tint a little; a wrong colour matrix or a swapped plane would tint by dozens.
    assert np.ptp(decoded, axis=-1).mean() < (8 if CARDS[card_id].kind == "classical" else 25)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.95, "all but one byte"])
def test_truncated_stream_is_refused(card_id, keep):
    stream = stream_of(card_id, (48, 64))
    short = stream[:-1] if keep == "all but one byte" else stream[: int(len(stream) * keep)]
    with pytest.raises(StreamError):
        available(card_id).decode(short, seed=0)


def test_damaged_magic_is_refused(card_id):
    stream = bytearray(stream_of(card_id, (48, 64)))
    if CARDS[card_id].adapter == "hfdbench.codecs.command:Command":
        del stream[:12]  # raw pictures begin with a size, any of which is valid: take what follows, too
    stream[:12] = bytes(255 - byte for byte in stream[:12])
    with pytest.raises(StreamError):
        available(card_id).decode(bytes(stream), seed=0)


@pytest.mark.parametrize("position", range(0, 48, 5))
def test_damaged_byte_never_crashes(card_id, position):
    stream = bytearray(stream_of(card_id, (48, 64)))
    position = min(position, len(stream) - 1)
    stream[position] ^= 0xFF
    try:
        decoded = available(card_id).decode(bytes(stream), seed=0)
    except StreamError:
        return
    assert decoded.dtype == np.uint8 and decoded.ndim == 3


@pytest.mark.parametrize("foreign", FOREIGN, ids=["empty", "one byte", "text", "zeros"])
def test_foreign_bytes_are_refused(card_id, foreign):
    with pytest.raises(StreamError):
        available(card_id).decode(foreign, seed=0)


def test_streams_of_other_formats_are_refused(card_id):
    card = CARDS[card_id]
    own = card.streams or SAME_FORMAT.get(card_id, card_id.split("-")[0])
    for other in ("jpeg", "webp", "jp2", "avif", "jxl"):
        if other != own and not isinstance(available(other), Unavailable):
            with pytest.raises(StreamError):
                available(card_id).decode(stream_of(other, (48, 64)), seed=0)
