"""Adapters of other people's networks: a real one of CompressAI's stands for those that are built as it is."""

import numpy as np
import pytest
import torch

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import peers
from hfdbench.errors import StreamError, Unavailable

UNTRIED = sorted(card.id for card in find_cards(CodecCard).values() if card.untried)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a class, its configuration, and weights as a trainer on several GPUs leaves them."""
    (tmp_path / "ourmodels.py").write_text(
        "from compressai.models import ScaleHyperprior\n"
        "def settings():\n    return {'N': 8, 'M': 12}\n"
        "class Net(ScaleHyperprior):\n    def __init__(self, config):\n        super().__init__(**config)\n"
    )
    monkeypatch.setenv("HFDBENCH_TEST_PEER", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    import ourmodels  # type: ignore[import-not-found]

    torch.manual_seed(0)
    state = ourmodels.Net(ourmodels.settings()).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    return tmp_path


def strings(checkout, **more):
    file = "{env:HFDBENCH_TEST_PEER}/w.pth"
    named = {"model": "ourmodels:Net", "config": "ourmodels:settings", "checkpoint": file, "stride": 64, **more}
    return peers.Strings("{env:HFDBENCH_TEST_PEER}", **named)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (70, 130)])
def test_the_stream_gives_what_the_network_makes_of_it(checkout, size):
    codec, image = strings(checkout), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    stream = codec.encode(image)
    decoded = codec.decode(stream, seed=0)
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    down, right = -size[0] % 64, -size[1] % 64
    padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
    with torch.no_grad():
        made = codec._net.compress(torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255)
        direct = codec._net.decompress(made["strings"], made["shape"])["x_hat"]
    expected = direct[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(decoded, expected[: size[0], : size[1]])
    height, width, parts = peers.unpack(stream)
    assert ((height, width), parts) == (size, [batch[0] for batch in made["strings"]])
    assert len(stream) - sum(map(len, parts)) <= 4 + 4 + 2 * 2 + 3 * 2 + 1


def test_what_is_no_stream_of_it_is_refused(checkout):
    codec = strings(checkout)
    stream = codec.encode(np.zeros((64, 64, 3), np.uint8))
    for wrong in (b"", b"foreign", stream[:-1], stream[:20], stream[:9] + b"\xff" + stream[10:]):
        with pytest.raises(StreamError):
            codec.decode(wrong, seed=0)


def test_small_pictures_are_padded_to_the_least_size(checkout):
    codec = strings(checkout, least=128)
    stream = codec.encode(np.full((5, 7, 3), 9, np.uint8))
    assert codec.decode(stream, seed=0).shape == (5, 7, 3)


def test_what_is_missing_is_named_with_the_hint(checkout, monkeypatch):
    with pytest.raises(Unavailable, match=r"gone\.pth: no such file; clone it"):
        strings(checkout, checkpoint="{env:HFDBENCH_TEST_PEER}/gone.pth", hint="clone it")
    with pytest.raises(Unavailable, match="works on a GPU alone"):
        strings(checkout, needs_gpu=True)
    monkeypatch.delenv("HFDBENCH_TEST_PEER")
    with pytest.raises(Unavailable, match="variable HFDBENCH_TEST_PEER is not set; clone it"):
        strings(checkout, hint="clone it")


@pytest.mark.parametrize("name", UNTRIED)
def test_untried_cards_fit_their_adapters(name):
    """The options bind, and one that cannot be had says how to get it."""
    import inspect

    card = find_cards(CodecCard)[name]
    module, _, kind = card.adapter.partition(":")
    assert module == "hfdbench.codecs.peers" and card.python
    accepted = inspect.signature(getattr(peers, kind)).parameters
    for point in card.points:
        given = {**point.options, **({"weights": []} if point.weights else {})}
        inspect.signature(getattr(peers, kind)).bind(**given)
        assert ("weights" in accepted) == bool(point.weights)
        assert all(entry.url and entry.licence for entry in point.weights)
