"""HFD itself: exact entropy coding, the container, the schedule, the sampler, tiles, training."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hfdbench.adapters.hfd import HFD
from hfdbench.errors import StreamError
from hfdbench.hfd import exact, photos, training
from hfdbench.hfd.autoencoder import AutoencoderConfig
from hfdbench.hfd.container import Coded
from hfdbench.hfd.decoder import Decoder, Sampling
from hfdbench.hfd.diffusion import Schedule, alpha_sigma, ancestral
from hfdbench.hfd.network import NetworkConfig

SMALL = AutoencoderConfig(widths=(8, 16, 16), groups=(4, 4, 8), hyper=8, context=16, lambdas=(0.002, 0.01))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eight smooth random pictures, one damaged, one too small."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k in range(8):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((160, 130), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 not a photograph")
    Image.new("RGB", (20, 200)).save(folder / "narrow.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photographs):
    """Both stages, trained for a moment: files of weights."""
    out = tmp_path_factory.mktemp("models")
    data = photos.read_photos(photographs, 64)
    config = {k: getattr(SMALL, k) for k in ("widths", "groups", "hyper", "context", "lambdas")}
    recipe = training.Recipe("autoencoder", steps=30, batch=4, crop=64, warmup=5, bf16=False, model=config)
    first = training.train(training.AutoencoderTask(recipe, data), recipe, out / "ae")
    from hfdbench.hfd.weights import read_autoencoder

    network = {"widths": (8, 16), "blocks": (1, 1), "embedding": 16}
    recipe = training.Recipe("decoder", steps=20, batch=4, crop=64, warmup=5, bf16=False, model=network)
    task = training.DecoderTask(recipe, data, read_autoencoder(first).module, out)
    second = training.train(task, recipe, out / "decoder")
    return first, second


def picture(height, width, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Exact arithmetic


def test_exact_convolution_matches_float_and_never_depends_on_order():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(64, 48, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv2d(48, 8, 1))
    x = exact.to_grid(torch.randn(3, 64, 17, 9) * 5)
    with torch.inference_mode():
        together = exact.run(net, x)
        shuffled = torch.cat([exact.run(net, x[k : k + 1]) for k in (2, 0, 1)])[[1, 2, 0]]
        assert torch.equal(together, shuffled)
        # The channels in another order are other partial sums: equal only if every sum is exact.
        order = torch.randperm(64)
        net_permuted = torch.nn.Sequential(torch.nn.Conv2d(64, 48, 5, padding=2), net[1], net[2])
        net_permuted[0].weight.data, net_permuted[0].bias.data = net[0].weight[:, order], net[0].bias
        assert torch.equal(exact.run(net_permuted, x[:, order]), together)
        assert (net.double()(x) - together).abs().max() < 0.05


def test_exact_refuses_layers_it_does_not_know():
    with pytest.raises(TypeError, match="Sigmoid"):
        exact.run(torch.nn.Sigmoid(), torch.zeros(1, 1, 2, 2))


def test_streams_decode_across_threads_and_processes(trained, tmp_path):
    """An encoder with one thread, decoders with one and two, here and in another process: the same latents."""
    codec = HFD([trained[0]], rate=1)
    image = picture(100, 70)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        stream = codec.encode(image)
        coded = Coded.unpack(stream)
        one = codec._coder.decompress(coded.payload, (8, 8), 1)
        torch.set_num_threads(2)
        assert codec.encode(image) == stream
        assert torch.equal(codec._coder.decompress(coded.payload, (8, 8), 1), one)
    finally:
        torch.set_num_threads(threads)
    (tmp_path / "stream").write_bytes(stream)
    script = (
        "import sys, torch; from pathlib import Path; from hfdbench.adapters.hfd import HFD;"
        "from hfdbench.hfd.container import Coded; torch.set_num_threads(2);"
        "c = HFD([Path(sys.argv[1])], rate=1); s = Coded.unpack(Path(sys.argv[2]).read_bytes());"
        "print(c._coder.decompress(s.payload, (8, 8), 1).double().sum().item().hex())"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", script, str(trained[0]), str(tmp_path / "stream")]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == one.double().sum().item().hex()


def test_decoded_latents_are_the_encoders(trained):
    """Decoding gives the rounded latents: within half a step of what was analysed, and reconstruct() agrees."""
    codec = HFD([trained[0]], rate=0)
    model = codec._coder
    x = torch.from_numpy(picture(64, 128)).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        y = model.analyse(x, torch.tensor([0]))
        y_hat = model.decompress(model.compress(y, 0), (4, 8), 0)
        assert (y - y_hat).abs().max() <= 0.5 + 2**-10
        decoded = model.synthesise(y_hat, torch.tensor([0]))
        assert (decoded - model.reconstruct(x, torch.tensor([0]))).square().mean().sqrt() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (65, 63), (128, 64)])
def test_any_size_round_trips(trained, size):
    for codec in (HFD([trained[0]], rate=0), HFD(list(trained), rate=0, decoder="diffusion", steps=2)):
        image = picture(*size)
        out = codec.decode(codec.encode(image), seed=3)
        assert out.shape == image.shape and out.dtype == np.uint8


def test_decoders_share_streams_and_seeds_decide(trained):
    mse = HFD([trained[0]], rate=1)
    sampled = HFD(list(trained), rate=1, decoder="diffusion", steps=3)
    image = picture(64, 64)
    stream = mse.encode(image)
    assert sampled.encode(image) == stream
    assert np.array_equal(sampled.decode(stream, seed=1), sampled.decode(stream, seed=1))
    assert not np.array_equal(sampled.decode(stream, seed=1), sampled.decode(stream, seed=2))


# The container


def test_container_round_trips_and_counts_sixteen_bytes():
    coded = Coded(b"abcd", 3, 1, 65535, b"payload")
    assert len(coded.pack()) == 16 + 7
    assert Coded.unpack(coded.pack()) == coded


@pytest.mark.parametrize("side", [0, 65536])
def test_container_refuses_sizes_it_cannot_hold(side):
    with pytest.raises(ValueError, match="1 to 65535"):
        Coded(b"abcd", 0, 5, side, b"").pack()


def test_every_flipped_byte_and_every_cut_is_refused(trained):
    codec = HFD([trained[0]], rate=0)
    stream = codec.encode(picture(64, 64))
    for k in range(len(stream)):
        damaged = bytearray(stream)
        damaged[k] ^= 0x10
        with pytest.raises(StreamError):
            codec.decode(bytes(damaged), seed=0)
    for cut in (0, 1, 15, 16, len(stream) - 1):
        with pytest.raises(StreamError):
            codec.decode(stream[:cut], seed=0)


def test_streams_of_other_models_rates_and_versions_are_refused(trained):
    codec = HFD([trained[0]], rate=0)
    coded = Coded.unpack(codec.encode(picture(64, 64)))
    with pytest.raises(StreamError, match="model"):
        codec.decode(Coded(b"zzzz", 0, 64, 64, coded.payload).pack(), seed=0)
    with pytest.raises(StreamError, match="rate 1"):
        codec.decode(Coded(coded.model, 1, 64, 64, coded.payload).pack(), seed=0)
    with pytest.raises(StreamError, match="magic"):
        codec.decode(b"\xff\xd8\xff\xe0 a JPEG file", seed=0)
    with pytest.raises(StreamError, match="version 9"):
        codec.decode(b"HF\x09" + coded.pack()[3:], seed=0)


# Schedule and sampler


def test_schedule_is_the_shifted_cosine():
    t = torch.tensor([0.25, 0.5, 0.75])
    assert Schedule(1.0).log_snr(t).tolist() == pytest.approx(
        [-2 * math.log(math.tan(math.pi * x / 2)) for x in t.tolist()]
    )
    ratio = [math.sqrt((-v).sigmoid() / v.sigmoid()) for v in Schedule(0.5).log_snr(t)]
    assert ratio == pytest.approx([0.5 * math.tan(math.pi * x / 2) for x in t.tolist()])  # sigma/alpha = s tan(pi t/2)
    ends = Schedule(1.0).log_snr(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [15, -15]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_sampler_reproduces_a_gaussian(gamma):
    """For data N(m, s^2) the best v is known in closed form: enough steps must give back m and s."""
    mean, deviation = 0.7, 0.4
    generator = torch.Generator().manual_seed(0)

    def noise():
        return torch.randn(40_000, generator=generator, dtype=torch.float64)

    def predict(z, log_snr):
        alpha, sigma = alpha_sigma(log_snr.double())
        r = mean + alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * (z - alpha * mean)
        return (alpha * z - r) / sigma

    r = ancestral(predict, noise(), noise, Schedule(1.0), steps=400, gamma=gamma)
    assert r.mean().item() == pytest.approx(mean, abs=0.01)
    assert r.std().item() == pytest.approx(deviation, rel=0.03)


def test_sampler_returns_the_truth_when_the_network_knows_it():
    truth = torch.randn(1, 3, 4, 4, dtype=torch.float64)

    def predict(z, log_snr):
        alpha, sigma = alpha_sigma(log_snr.double())
        return (alpha * z - truth) / sigma

    start = torch.randn_like(truth)
    r = ancestral(predict, start, lambda: torch.randn_like(truth), Schedule(0.5), 5, 0.3)
    assert torch.allclose(r, truth)


def test_tiles_change_nothing():
    torch.manual_seed(0)
    decoder = Decoder(NetworkConfig(widths=(8, 8, 8), blocks=(1, 1, 1), embedding=8, rates=1)).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    decoder.root.copy_(0.1 * torch.eye(3) + 0.02)
    x_hat = torch.rand(1, 3, 150, 203)
    whole = decoder.sample(x_hat, 0, 5, Sampling(steps=3, tile=64_000))
    for tile in (64, 128):
        assert (decoder.sample(x_hat, 0, 5, Sampling(steps=3, tile=tile)) - whole).abs().max() < 1e-4
    assert whole.shape == x_hat.shape


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"gamma": 1.5}, {"shift": 0}, {"strength": 2}, {"tile": 100}])
def test_sampling_refuses_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


# Training


def test_photos_leaves_out_what_it_cannot_use(photographs, tmp_path):
    data = photos.read_photos(photographs, 64)
    assert len(data.images) == 8
    assert set(data.left_out) == {"broken.jpg", "narrow.png"}
    with pytest.raises(ValueError, match="no picture to train on"):
        photos.read_photos(tmp_path, 64)


def test_training_stopped_and_resumed_equals_undisturbed(photographs, tmp_path):
    data = photos.read_photos(photographs, 64)
    config = {"widths": (8, 16, 16), "groups": (4, 4), "hyper": 8, "context": 8, "lambdas": (0.01,)}
    recipe = training.Recipe("autoencoder", steps=6, batch=2, crop=64, bf16=False, model=config)
    whole = training.train(training.AutoencoderTask(recipe, data), recipe, tmp_path / "whole")
    stopped = training.train(
        training.AutoencoderTask(recipe, data), recipe, tmp_path / "parts", keep_every=1, stop_after_s=0.0
    )
    assert stopped is None
    resumed = training.train(training.AutoencoderTask(recipe, data), recipe, tmp_path / "parts")
    from safetensors.torch import load_file

    first, second = load_file(whole), load_file(resumed)
    assert all(torch.equal(first[k], second[k]) for k in first)
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6

    other = training.Recipe("autoencoder", steps=7, batch=2, crop=64, bf16=False, model=config)
    with pytest.raises(ValueError, match="another recipe"):
        training.train(training.AutoencoderTask(other, data), other, tmp_path / "parts")


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"good")

    def full(temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        training.write_atomically(path, full)
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


def test_training_lowers_the_loss(trained):
    lines = [json.loads(line) for line in (trained[1].parent / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 20
    assert math.isfinite(lines[-1]["loss"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 1", '"stage" is missing'),
        ('stage = "autoencoder"\nsteps = 1\nlerning_rate = 1', 'unknown key "lerning_rate"'),
        ('stage = "gan"\nsteps = 1', '"gan" is unknown'),
        ('stage = "decoder"\nsteps = 1\ncrop = 100', "multiple of 64"),
        ("stage = ", "not a readable recipe"),
    ],
)
def test_recipes_say_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        training.Recipe.read(path)
