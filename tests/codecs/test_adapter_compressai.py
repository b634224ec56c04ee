"""The CompressAI adapter, with real models of random weights saved where the pretrained ones would lie."""

import zlib

import numpy as np
import pytest

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import compressai as adapter
from hfdbench.codecs.compressai import CompressAI
from hfdbench.errors import StreamError, Unavailable, UsageError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with weights of the right shapes, under CompressAI's own file names."""
    import torch
    from compressai.zoo.image import cfgs, model_architectures, model_urls

    folder = tmp_path_factory.mktemp("weights")
    for name, quality in (
        ("bmshj2018-hyperprior", 1),
        ("bmshj2018-hyperprior", 2),
        ("mbt2018", 1),
        ("cheng2020-attn", 1),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = model_architectures[name](*cfgs[name][quality])
        net.update()
        torch.save(net.state_dict(), folder / model_urls[name]["mse"][quality].rsplit("/", 1)[-1])
    return folder


@pytest.fixture
def codec(weights, monkeypatch):
    monkeypatch.setenv("HFDBENCH_COMPRESSAI", str(weights))
    return CompressAI


@pytest.fixture
def image():
    y, x = np.mgrid[:70, :50]
    return np.stack([x * 5, y * 3, 255 - x * 2 - y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("model", ["bmshj2018-hyperprior", "mbt2018", "cheng2020-attn"])
def test_round_trip_equals_the_model_run_on_the_padded_image(model, codec, image):
    import torch

    one = codec(model, 1)
    stream = one.encode(image)
    again = codec(model, 1)  # a decoder that never saw the image
    pixels = again.decode(stream, seed=0)
    assert pixels.shape == image.shape and pixels.dtype == np.uint8
    padded = np.pad(image, ((0, 58), (0, 14), (0, 0)), mode="edge")
    x = torch.from_numpy(padded).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        coded = again._net.compress(x)
        expected = again._net.decompress(**coded)["x_hat"][0, :, :70, :50].clamp(0, 1) * 255
    assert np.array_equal(pixels, expected.round().byte().permute(1, 2, 0).numpy())
    strings = sum(len(string) for part in coded["strings"] for string in part)
    assert 11 <= len(stream) - strings <= 17  # the container is counted, and small


@pytest.mark.parametrize("height, width", [(1, 1), (7, 5), (64, 64), (65, 129)])
def test_any_size(codec, height, width):
    one = codec("bmshj2018-hyperprior", 1)
    assert one.decode(one.encode(np.full((height, width, 3), 99, np.uint8)), seed=0).shape == (height, width, 3)


def test_every_damage_is_refused(codec, image):
    one = codec("bmshj2018-hyperprior", 1)
    stream = one.encode(image)
    for length in range(0, len(stream), 7):
        with pytest.raises(StreamError):
            one.decode(stream[:length], seed=0)
    for at in range(0, len(stream), 5):
        damaged = bytearray(stream)
        damaged[at] ^= 4
        with pytest.raises(StreamError):
            one.decode(bytes(damaged), seed=0)


def test_stream_of_another_quality_or_model_is_refused(codec, image):
    stream = codec("bmshj2018-hyperprior", 1).encode(image)
    for other in (codec("bmshj2018-hyperprior", 2), codec("mbt2018", 1)):
        with pytest.raises(StreamError, match="another model or quality"):
            other.decode(stream, seed=0)


def test_checksum_is_crc32_of_all_before(codec, image):
    stream = codec("bmshj2018-hyperprior", 1).encode(image)
    assert int.from_bytes(stream[-4:], "little") == zlib.crc32(stream[:-4])
    assert stream[:7] == b"cz\x01\x00\x01" + bytes([70, 50])  # magic, version, model, quality, height, width


def test_missing_weights_are_said_quickly_with_the_hint(weights, monkeypatch, tmp_path):
    """Weights that are neither in the folder nor in torch.hub's cache, and a server that nobody answers at."""
    from compressai.zoo import image as zoo

    monkeypatch.setenv("HFDBENCH_COMPRESSAI", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    urls = {"mse": {1: "https://127.0.0.1:9/bmshj2018-hyperprior-1-7eb97409.pth.tar"}}
    monkeypatch.setitem(zoo.model_urls, "bmshj2018-hyperprior", urls)
    adapter._silence.cache_clear()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 cannot be reached.*set HFDBENCH_COMPRESSAI"):
        CompressAI("bmshj2018-hyperprior", 1)
    adapter._silence.cache_clear()


def test_unknown_model_and_quality():
    with pytest.raises(UsageError, match='did you mean "mbt2018"'):
        CompressAI("mbt-2018", 1)
    with pytest.raises(UsageError, match="cheng2020-attn has 1 to 6"):
        CompressAI("cheng2020-attn", 7)


def test_cards_list_every_quality_of_the_zoo():
    from compressai.zoo.image import model_urls

    for name in ("bmshj2018-hyperprior", "mbt2018", "cheng2020-attn"):
        points = find_cards(CodecCard)[name].points
        assert [point.options["quality"] for point in points] == sorted(model_urls[name]["mse"])
        assert all(point.options["model"] == name for point in points)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**20, 2**40])
def test_varint(value):
    coded = adapter.varint(value)
    assert adapter.read_varint(b"xx" + coded + b"y", 2) == (value, 2 + len(coded))
