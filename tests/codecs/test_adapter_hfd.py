"""The codecs of the HFD family: any size, shared streams, seeds, ledger, and everything that is refused."""

import hashlib
import shutil

import numpy as np
import pytest
import tomli_w
import torch
from helpers_hfd import SMALL, autoencoder, decoder, picture, write
from torch.utils.flop_counter import FlopCounterMode

from hfdbench.cards.find import bundled_root, find_cards
from hfdbench.cards.schema import CodecCard, read_card
from hfdbench.codecs.hfd import HFD, BaseDecoder
from hfdbench.codecs.identity import identity
from hfdbench.codecs.pool import Pool
from hfdbench.codecs.protocol import BasePoint, load_codec
from hfdbench.errors import CodecError, StreamError, Unavailable, UsageError
from hfdbench.files.digest import file_sha256
from hfdbench.hfd import coding
from hfdbench.hfd.container import Coded
from hfdbench.hfd.decoder import Sampling
from hfdbench.hfd.weights import read_decoder

SAMPLING = {"steps": 2, "shift": 0.5, "tile": 64, "overlap": 16}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weight files by name: an autoencoder's, decoders'."""
    folder = tmp_path_factory.mktemp("weights")
    return {
        "ae": write(autoencoder(), folder / "ae.safetensors", "autoencoder"),
        "other": write(autoencoder(seed=1), folder / "other.safetensors", "autoencoder"),
        "hfd": write(decoder(), folder / "hfd.safetensors", "hfd"),
        "plus": write(decoder(sum(SMALL.groups)), folder / "plus.safetensors", "hfd-plus"),
        "hific": write(decoder(), folder / "hific.safetensors", "hific"),
        "mse": write(decoder(seed=3), folder / "mse.safetensors", "mse"),
        "jpeg": write(decoder(), folder / "jpeg.safetensors", "hfd", "jpeg", ("q8", "q50")),
    }


@pytest.fixture(scope="module")
def mse(files):
    return HFD([files["ae"]], rate=1)


def sampled(files, name="hfd", **options):
    sampling = {"solver": "once"} if name == "hific" else SAMPLING
    return HFD([files["ae"], files[name]], rate=1, sampling=sampling | options)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (255, 257)], ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("name", ["mse", "plus"])
def test_any_size_round_trips(files, mse, size, name):
    codec = mse if name == "mse" else sampled(files, name, tile=512, steps=1)
    image = picture(*size)
    out = codec.decode(codec.encode(image), seed=3)
    assert out.shape == image.shape and out.dtype == np.uint8


@pytest.mark.parametrize("name", ["elic-mse", "hfd-fast"])
def test_cards_state_the_multiply_adds_of_decoding(name):
    """As torch counts them while a picture is decoded; per pixel they are those of any picture of whole tiles."""
    card = find_cards(CodecCard)[name]
    codec = load_codec(card, card.points[0].id)
    stream = codec.encode(picture(64, 64))
    with FlopCounterMode(display=False) as counter:
        codec.decode(stream, seed=0)
    assert counter.get_total_flops() / 2 / 64**2 == pytest.approx(card.points[0].macs, rel=2e-3)


def test_cards_state_the_multiply_adds_of_an_evaluation():
    cards, counted = find_cards(CodecCard), {}
    for card in cards.values():
        for point in card.points:
            if point.macs_per_evaluation is not None and card.adapter.startswith("hfdbench.codecs.hfd:"):
                path = point.weights[-1].path(card)
                if path not in counted:
                    counted[path] = _macs_of_an_evaluation(path)
                assert point.macs_per_evaluation == pytest.approx(counted[path], rel=1e-5), card.id
                coded = cards[card.streams].points[0].macs or 0
                assert point.macs == coded + point.network_evaluations * point.macs_per_evaluation
    bundled = (bundled_root() / "codecs" / "weights").glob("*.safetensors")
    assert set(counted) == {path for path in bundled if not path.name.startswith("elic")}


def _macs_of_an_evaluation(weights):
    """Per pixel, on tensors without data."""
    decoder, side = read_decoder(weights).module.to("meta"), 2048
    x, one = torch.empty(1, 3, side, side, device="meta"), torch.zeros(1, device="meta")
    latents = torch.empty(1, decoder.config.latents, side // 16, side // 16, device="meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        decoder(x, x, one, one.long(), latents)
    return counter.get_total_flops() / 2 / side**2


def test_decoders_share_streams_and_seeds_decide(files, mse):
    image = picture(64, 100)
    stream = mse.encode(image)
    for name in ("hfd", "plus", "hific"):
        codec = sampled(files, name)
        assert codec.encode(image) == stream
        one, again, other = (codec.decode(stream, seed=seed) for seed in (1, 1, 2))
        assert np.array_equal(one, again) and not np.array_equal(one, mse.decode(stream, seed=1))
        assert np.array_equal(one, other) == (name == "hific")  # a predictor has nothing to draw


def test_plain_grain_takes_the_colours_of_any_weights(files, mse):
    stream = mse.encode(picture(64, 100))
    how = {"solver": "none", "grain": 0.1}
    one, other = (HFD([files["ae"], files[name]], 1, how).decode(stream, seed=1) for name in ("hfd", "hific"))
    assert np.array_equal(one, other) and not np.array_equal(one, mse.decode(stream, seed=1))


def test_decode_gives_what_the_autoencoder_reconstructs(mse):
    """In place and in colour, the repeated border cut off."""
    image = picture(100, 130)
    x = torch.from_numpy(np.pad(image, ((0, 28), (0, 62), (0, 0)), mode="edge")).permute(2, 0, 1)[None] / 255
    told, _ = autoencoder().reconstruct(x, torch.tensor([1]))
    decoded = mse.decode(mse.encode(image), seed=0)
    difference = np.abs(told[0].permute(1, 2, 0).numpy()[:100, :130] * 255 - decoded)
    assert difference.mean() < 2


@pytest.mark.parametrize("size", [(1, 1), (100, 70), (130, 200)])
def test_ledger_adds_up(mse, monkeypatch, size):
    monkeypatch.setattr(coding, "SLICE", 64)
    stream = mse.encode(picture(*size))
    ledger = mse.ledger(stream)
    assert sum(ledger.values()) == len(stream)
    assert set(ledger) == {"header", "hyper-latents", "latents"} and min(ledger.values()) > 0
    slices = -(-size[0] // 64) * -(-size[1] // 64)
    assert ledger["header"] == 16 + 4 * (slices - 1)


# Streams that are refused


def test_every_flipped_byte_and_every_cut_is_refused(mse, monkeypatch):
    monkeypatch.setattr(coding, "SLICE", 64)
    stream = mse.encode(picture(70, 64))
    for k in range(len(stream)):
        damaged = bytearray(stream)
        damaged[k] ^= 0x10
        with pytest.raises(StreamError):
            mse.decode(bytes(damaged), seed=0)
        with pytest.raises(StreamError):
            mse.decode(stream[:k], seed=0)
    with pytest.raises(StreamError):
        mse.decode(stream + b"\0", seed=0)


def test_slices_that_do_not_fit_are_refused(mse, monkeypatch):
    """A stream whose checksum is right but whose lengths lie."""
    monkeypatch.setattr(coding, "SLICE", 64)
    coded = Coded.unpack(mse.encode(picture(70, 64)))
    lying = Coded(coded.model, coded.rate, 70, 64, b"\xff" + coded.payload[1:])
    with pytest.raises(StreamError, match="inside a slice"):
        mse.decode(lying.pack(), seed=0)


def test_streams_of_other_models_rates_and_versions_are_refused(files, mse):
    image = picture(64, 64)
    stream = mse.encode(image)
    with pytest.raises(StreamError, match=r"of model .* decode with the weights it was made with"):
        mse.decode(HFD([files["other"]], rate=1).encode(image), seed=0)
    with pytest.raises(StreamError, match="rate 0, this point decodes rate 1"):
        mse.decode(HFD([files["ae"]], rate=0).encode(image), seed=0)
    with pytest.raises(StreamError, match="magic"):
        mse.decode(b"\xff\xd8\xff\xe0 a JPEG file", seed=0)
    with pytest.raises(StreamError, match="version 9"):
        mse.decode(b"HF\x09" + stream[3:], seed=0)


def test_sizes_beyond_the_header_are_refused(mse):
    with pytest.raises(CodecError, match="65535"):
        mse.encode(np.zeros((65536, 1, 3), np.uint8))


# Cards that do not fit


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ([], {}, "0 weight files"),
        (["ae", "hfd"], {}, "give both or neither"),
        (["ae"], {"sampling": SAMPLING}, "give both or neither"),
        (["ae"], {"rate": 2}, "rate 2 is not one of 0 to 1"),
        (["hfd"], {}, r"hfd\.safetensors.*not weights of this model"),
        (["ae", "ae"], {"sampling": SAMPLING}, r"ae\.safetensors.*not weights of this model"),
        (["ae", "hfd"], {"sampling": {"stpes": 3}}, 'unknown option "stpes"'),
        (["ae", "hfd"], {"sampling": {"steps": 0}}, "steps 0"),
        (["ae", "hfd"], {"sampling": {"solver": "once"}}, "a solver that samples"),
        (["ae", "hific"], {"sampling": SAMPLING}, 'solver "once"'),
        (["ae", "hfd", "hific"], {"sampling": SAMPLING}, "3 weight files"),
        (["ae", "jpeg"], {"sampling": SAMPLING}, "decodes jpeg, not an autoencoder's streams"),
    ],
)
def test_cards_that_do_not_fit_are_refused(files, weights, options, said):
    with pytest.raises(UsageError, match=said):
        HFD([files[name] for name in weights], **{"rate": 0} | options)


# On another codec


def on_jpeg(files, name="jpeg", sampling=SAMPLING, weights=None, base="jpeg", point="q8"):
    codec = load_codec(find_cards(CodecCard)["jpeg"], "q8")
    return BaseDecoder(BasePoint(base, point, codec), weights or [files[name]], sampling)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (65, 95)], ids=lambda size: "x".join(map(str, size)))
def test_a_base_keeps_its_streams(files, size):
    image, plain = picture(*size), load_codec(find_cards(CodecCard)["jpeg"], "q8")
    codec = on_jpeg(files)
    stream = codec.encode(image)
    assert stream == plain.encode(image)
    one, again, other = (codec.decode(stream, seed=seed) for seed in (1, 1, 2))
    assert one.shape == image.shape and one.dtype == np.uint8
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    below = plain.decode(stream, seed=1)
    assert np.array_equal(on_jpeg(files, sampling={"solver": "none"}).decode(stream, seed=1), below)
    with pytest.raises(StreamError, match="JPEG"):
        codec.decode(stream[:-3], seed=1)


def test_the_rate_is_the_place_of_the_point(files):
    """The second of the points that the weights know is the decoder's second rate."""
    image = picture(64, 64)
    codec = on_jpeg(files, point="q50")
    below = load_codec(find_cards(CodecCard)["jpeg"], "q8").decode(codec.encode(image), seed=1)
    expected = decoder().sample(below, 1, 1, Sampling(**SAMPLING))
    assert np.array_equal(codec.decode(codec.encode(image), seed=1), expected)
    assert not np.array_equal(on_jpeg(files).decode(codec.encode(image), seed=1), expected)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"base": "avif"}, r"jpeg\.safetensors decodes jpeg, not avif"),
        ({"name": "hfd"}, r"hfd\.safetensors decodes an autoencoder, not jpeg"),
        ({"point": "q12"}, r"knows jpeg at q8, q50, not at q12"),
        ({"sampling": {"solver": "once"}}, "a solver that samples"),
        ({"sampling": {"stpes": 3}}, 'unknown option "stpes"'),
        ({"name": "ae"}, "not weights of this model"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(files, wrong, said):
    with pytest.raises(UsageError, match=said):
        on_jpeg(files, **wrong)
    with pytest.raises(UsageError, match="2 weight files"):
        on_jpeg(files, weights=[files["ae"], files["jpeg"]])


def test_a_card_names_its_base(files, tmp_path):
    """Found, planned, built and run like any other; the base's card may lie in another folder."""
    place = tmp_path / "codecs"
    place.mkdir()
    shutil.copy(files["jpeg"], place)
    text = (
        'id = "tiny"\nkind = "diffusion"\nadapter = "hfdbench.codecs.hfd:BaseDecoder"\nbase = "jpeg"\n'
        'weights = [{ file = "jpeg.safetensors", sha256 = "DIGEST" }]\n'
        'points = [{ id = "q8", options = { sampling = { steps = 1 } } }]\n'
    ).replace("DIGEST", hashlib.sha256(files["jpeg"].read_bytes()).hexdigest())
    (place / "tiny.toml").write_text(text)
    found = find_cards(CodecCard, [tmp_path])["tiny"]
    assert (found.base, found.streams) == ("jpeg", "jpeg") and [path.name for path in found.base_sources] == [
        "jpeg.toml"
    ]
    image = picture(32, 32)
    by_hand, of_the_card = on_jpeg(files, sampling={"steps": 1}), load_codec(found, "q8")
    stream = by_hand.encode(image)
    assert np.array_equal(of_the_card.decode(stream, seed=5), by_hand.decode(stream, seed=5))
    alone = load_codec(read_card(place / "tiny.toml", CodecCard), "q8")
    assert np.array_equal(alone.decode(stream, seed=5), by_hand.decode(stream, seed=5))
    with Pool("decoder", 1, "cpu", None) as pool:
        answer, body = pool.ask(found, "q8", {"do": "decode", "seed": 5}, stream)
    assert np.array_equal(np.frombuffer(body, np.uint8).reshape(answer["shape"]), by_hand.decode(stream, seed=5))
    for before, after, said in (
        ('base = "jpeg"', 'base = "jpge"', 'key "base": .*did you mean "jpeg"'),
        ('base = "jpeg"', 'base = "jpeg"\nstreams = "avif"', 'decodes the streams of jpeg, "streams" is avif'),
        ('base = "jpeg"', 'base = "tiny"', "tiny leads back to tiny; name a codec that decodes streams"),
        ('id = "q8"', 'id = "q7"', "jpeg has no such point"),
    ):
        (place / "tiny.toml").write_text(text.replace(before, after))
        with pytest.raises(UsageError, match=said):
            find_cards(CodecCard, [tmp_path])


def write_card(place, name, adapter, start, weights, point, options):
    made_by = [{"file": str(each), "sha256": file_sha256(each)} for each in weights]
    (place / f"{name}.toml").write_text(
        f'id = "{name}"\nkind = "diffusion"\nadapter = "hfdbench.codecs.hfd:{adapter}"\n{start}\n'
        + tomli_w.dumps({"weights": made_by, "points": [{"id": point, "options": options}]})
    )


def test_a_base_may_decode_the_streams_of_another(files, tmp_path):
    """The streams are those of the codec behind it, and what decodes them is part of the identity."""
    place = tmp_path / "codecs"
    place.mkdir()
    once = {"rate": 0, "sampling": {"solver": "once"}}
    written = {  # id: adapter, what it starts from, weights, options
        "coder": ("HFD", "", ["ae"], {"rate": 0}),
        "better": ("HFD", 'streams = "coder"', ["ae", "mse"], once),
        "tiny": ("BaseDecoder", 'base = "better"', ["on_better"], {"sampling": {"steps": 1}}),
    }
    weights = files | {"on_better": write(decoder(), tmp_path / "on_better", "hfd", "better", ("q1",))}

    def find():
        for name, (adapter, start, names, options) in written.items():
            write_card(place, name, adapter, start, [weights[each] for each in names], "q1", options)
        return find_cards(CodecCard, [tmp_path])["tiny"]

    found, image = find(), picture(64, 80)
    assert (found.base, found.streams) == ("better", "coder")
    assert CodecCard.model_validate(found.model_dump(mode="json") | {"source": found.source}).streams == "coder"
    plain, better = HFD([files["ae"]], rate=0), HFD([files["ae"], files["mse"]], **once)
    stream = plain.encode(image)
    codec = load_codec(found, "q1")
    assert codec.encode(image) == stream
    expected = decoder().sample(better.decode(stream, seed=0), 0, 5, Sampling(steps=1))
    assert np.array_equal(codec.decode(stream, seed=5), expected)
    before = identity(found, "q1")
    weights["mse"] = write(decoder(seed=4), tmp_path / "other", "mse")
    assert identity(find(), "q1") != before


def test_a_base_may_have_a_base(files, tmp_path):
    """Each decodes what the one behind it decodes; the streams are those at the end, and each card may lie in another folder."""
    made = {"mean": ("jpeg", "mse", {"solver": "once"}, 3), "tiny": ("mean", "hfd", {"steps": 1}, 4)}
    for name, (base, objective, sampling, seed) in made.items():
        (place := tmp_path / f"of {name}" / "codecs").mkdir(parents=True)
        weights = write(decoder(seed=seed), tmp_path / name, objective, base, ("q8",))
        write_card(place, name, "BaseDecoder", f'base = "{base}"', [weights], "q8", {"sampling": sampling})
    roots = [tmp_path / f"of {name}" for name in made]
    cards = find_cards(CodecCard, roots)
    found, image = cards["tiny"], picture(64, 80)
    assert (found.base, found.streams) == ("mean", "jpeg") and len(found.base_sources) == 2
    assert CodecCard.model_validate(found.model_dump(mode="json") | {"source": found.source}).streams == "jpeg"
    jpeg, codec = load_codec(cards["jpeg"], "q8"), load_codec(found, "q8")
    stream = jpeg.encode(image)
    assert codec.encode(image) == stream
    mean = decoder(seed=3).sample(jpeg.decode(stream, seed=0), 0, 0, Sampling(solver="once"))
    expected = decoder(seed=4).sample(mean, 0, 5, Sampling(steps=1))
    assert np.array_equal(codec.decode(stream, seed=5), expected)
    with Pool("decoder", 1, "cpu", None) as pool:
        answer, body = pool.ask(found, "q8", {"do": "decode", "seed": 5}, stream)
    assert np.array_equal(np.frombuffer(body, np.uint8).reshape(answer["shape"]), expected)
    assert identity(found, "q8")["base"] == identity(cards["mean"], "q8")
    text = (roots[0] / "codecs" / "mean.toml").read_text()
    (roots[0] / "codecs" / "mean.toml").write_text(text.replace('base = "jpeg"', 'base = "tiny"'))
    with pytest.raises(UsageError, match=r"leads back to (mean|tiny)"):
        find_cards(CodecCard, roots)


def card(files, digest):
    return CodecCard(
        id="tiny",
        kind="autoencoder",
        adapter="hfdbench.codecs.hfd:HFD",
        weights=[{"file": "ae.safetensors", "sha256": digest}],
        points=[{"id": "q1", "options": {"rate": 0}}, {"id": "q9", "options": {"rate": 9}}],
        source=files["ae"].parent / "tiny.toml",
    )


def test_weights_are_those_of_the_card(files, tmp_path):
    digest = hashlib.sha256(files["ae"].read_bytes()).hexdigest()
    assert load_codec(card(files, digest), "q1").encode(picture(64, 64)).startswith(b"HF")
    with pytest.raises(UsageError, match=r"sha256 of ae\.safetensors differs .*restore the file or fix the card"):
        load_codec(card(files, "0" * 64), "q1")
    with pytest.raises(Unavailable, match=r"ae\.safetensors is missing"):
        load_codec(card({"ae": tmp_path / "ae.safetensors"}, digest), "q1")
    with pytest.raises(UsageError, match=r'tiny\.toml: point "q9": rate 9 is not one of 0 to 1'):
        load_codec(card(files, digest), "q9")
