"""The command adapter, with real programs: small Python scripts, and cjxl where it is installed."""

import os
import sys
import textwrap
import time

import numpy as np
import pytest

from hfdbench.codecs.command import Command, from_yuv, to_yuv
from hfdbench.errors import CodecError, StreamError, Unavailable, UsageError

PACK = (
    "import sys, zlib; open(sys.argv[2], 'wb').write(zlib.compress(open(sys.argv[1], 'rb').read(), int(sys.argv[3])))"
)
UNPACK = "import sys, zlib; open(sys.argv[2], 'wb').write(zlib.decompress(open(sys.argv[1], 'rb').read()))"


@pytest.fixture
def program(tmp_path):
    """A Python text as a command: its words before the arguments."""

    def write(text):
        path = tmp_path / f"program{len(list(tmp_path.iterdir()))}.py"
        path.write_text(textwrap.dedent(text))
        return [sys.executable, str(path)]

    return write


@pytest.fixture
def zlib_pair(program):
    return {
        "encode": [*program(PACK), "{input}", "{output}", "{level}"],
        "decode": [*program(UNPACK), "{input}", "{output}"],
        "level": 9,
    }


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (13, 22, 3), dtype=np.uint8)


def decoded(codec, image):
    return codec.decode(codec.encode(image), seed=0)


@pytest.mark.parametrize("layout", ["png", "ppm", "yuv444p10"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_lossless_pair_gives_the_pixels_back(layout, multiple, zlib_pair, image):
    codec = Command(**zlib_pair, image=layout, multiple=multiple)
    assert np.array_equal(decoded(codec, image), image)


def test_size_is_counted_where_the_picture_does_not_say_it(zlib_pair, image):
    raw = Command(**zlib_pair, image="yuv444p10").encode(image)
    assert raw[:4] == bytes([0, 13, 0, 22]) and raw[4:5] == b"\x78"
    assert Command(**zlib_pair, image="png").encode(image)[:1] == b"\x78"


def test_placeholders(program, image):
    """The encoder writes down its words; the decoder is not run."""
    note = program("import sys; open(sys.argv[1], 'w').write('|'.join(sys.argv[2:]))")
    words = ["{output}", "{level}", "{width}x{height}", "-q{level}", "{env:HFDBENCH_TEST_WORD}", "; rm -rf $HOME"]
    codec = Command(
        encode=note + words, decode=note, level=1.5, image="yuv444p10", multiple=8, env={"HFDBENCH_TEST_WORD": "a b"}
    )
    assert codec.encode(image)[4:] == b"1.5|24x16|-q1.5|a b|; rm -rf $HOME"  # one word each: there is no shell


def test_program_runs_in_a_folder_that_is_gone_afterwards(program, image):
    where = program("import os, sys; open('left over', 'w'); open(sys.argv[1], 'w').write(os.getcwd())")
    folder = Command(encode=[*where, "{output}"], decode=where).encode(image).decode()
    assert folder != os.getcwd() and not os.path.exists(folder)


def test_missing_program_names_itself_and_the_hint(zlib_pair):
    for side in ("encode", "decode"):
        with pytest.raises(Unavailable, match='"no-such-coder" is not here; get it there'):
            Command(**{**zlib_pair, side: ["no-such-coder", "{input}"]}, hint="get it there")


def test_missing_variable_names_itself_and_the_hint(zlib_pair, monkeypatch):
    monkeypatch.delenv("HFDBENCH_TEST_WORD", raising=False)
    zlib_pair["encode"].append("{env:HFDBENCH_TEST_WORD}")
    with pytest.raises(Unavailable, match="HFDBENCH_TEST_WORD is not set; set it"):
        Command(**zlib_pair, hint="set it")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"image": "bmp"}, "png, ppm"),
        ({"range": "studio"}, '"full" or "limited"'),
        ({"image": "yuv420p10", "multiple": 3}, "must be even"),
        ({"decode": []}, "name a program"),
        ({"encode": [sys.executable, "{inptu}"]}, "no placeholder {inptu}"),
    ],
)
def test_bad_options_are_refused_before_coding(change, says, zlib_pair):
    with pytest.raises(UsageError, match=says):
        Command(**{**zlib_pair, **change})


def test_hanging_program_is_ended_with_its_children(program, tmp_path, image):
    mark = tmp_path / "child was not ended"
    hang = program(f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2.5); open({str(mark)!r}, 'w')"])
        print("thinking", flush=True)
        time.sleep(60)
    """)
    start = time.monotonic()
    with pytest.raises(CodecError, match=r"did not end in 0.8 s: thinking"):
        Command(encode=hang, decode=hang, timeout_s=0.8).encode(image)
    assert time.monotonic() - start < 10
    time.sleep(2.5)
    assert not mark.exists()


def test_failing_encoder_keeps_its_last_words(program, image):
    fail = program("import sys; print('x' * 5000); sys.exit('no licence for wavelets')")
    with pytest.raises(CodecError, match=r"(?s)ended with code 1.*no licence for wavelets$") as caught:
        Command(encode=fail, decode=fail).encode(image)
    assert len(str(caught.value)) < 1200


def test_encoder_without_output_is_an_error(program, image):
    silent = program("print('done')")
    with pytest.raises(CodecError, match="wrote no output: done"):
        Command(encode=silent, decode=silent).encode(image)


def test_decoder_that_refuses_or_writes_another_size_is_a_stream_error(program, zlib_pair, image):
    codec = Command(**zlib_pair, image="yuv444p10")
    stream = codec.encode(image)
    with pytest.raises(StreamError, match=r"(?s)refused the stream.*zlib\.error"):
        codec.decode(stream[:-9], seed=0)
    with pytest.raises(StreamError, match="not one yuv444p10 picture of 21 x 13"):
        codec.decode(bytes([0, 13, 0, 21]) + stream[4:], seed=0)
    with pytest.raises(StreamError, match="no picture size"):
        codec.decode(b"abc", seed=0)
    other = program("import sys; open(sys.argv[1], 'wb').write(b'not a picture')")
    with pytest.raises(StreamError, match="no readable PNG"):
        Command(encode=zlib_pair["encode"], decode=[*other, "{output}"], level=1).decode(b"any", seed=0)


def test_decoder_sees_the_stream_and_nothing_else(program, zlib_pair, image):
    spy = program("import os, sys; sys.exit(','.join(sorted(os.listdir('.'))))")
    codec = Command(encode=zlib_pair["encode"], decode=[*spy, "{input}"], level=1)
    with pytest.raises(StreamError, match=r"in\.bin,log$"):
        codec.decode(codec.encode(image), seed=0)


@pytest.mark.parametrize("span", ["full", "limited"])
def test_colour_is_exact_for_every_8_bit_rgb(span):
    """Pitfall: floors in 8 bits cap even a lossless coder at 43.7 dB."""
    green, blue = (plane.astype(np.uint8) for plane in np.mgrid[:256, :256])
    for red in range(256):
        image = np.stack([np.full_like(green, red), green, blue], axis=-1)
        assert np.array_equal(from_yuv(to_yuv(image, "yuv444p10", span), 256, 256, "yuv444p10", span), image), red


def test_colour_by_hand():
    """White, black and the primaries in BT.709, 10 bits: Y, Cb, Cr."""
    image = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    full = np.frombuffer(to_yuv(image, "yuv444p10", "full"), "<u2").reshape(3, 5).T
    assert full.tolist() == [[1023, 512, 512], [0, 512, 512], [217, 395, 1023], [732, 118, 47], [74, 1023, 465]]
    limited = np.frombuffer(to_yuv(image, "yuv444p10", "limited"), "<u2").reshape(3, 5).T
    assert limited.tolist() == [[940, 512, 512], [64, 512, 512], [250, 409, 960], [691, 167, 105], [127, 960, 471]]


def test_halved_chroma_keeps_grey_and_slow_colour():
    y, x = np.mgrid[:64, :96]
    grey = np.stack([(x * 2).astype(np.uint8)] * 3, axis=-1)
    assert np.array_equal(from_yuv(to_yuv(grey, "yuv420p10", "full"), 64, 96, "yuv420p10", "full"), grey)
    slow = np.stack([x * 2, y * 3, 200 - x], axis=-1).astype(np.uint8)
    error = np.abs(from_yuv(to_yuv(slow, "yuv420p10", "full"), 64, 96, "yuv420p10", "full").astype(int) - slow)
    assert error[2:-2, 2:-2].max() <= 1 and error.max() <= 2  # linear shades come back but for rounding and the border
