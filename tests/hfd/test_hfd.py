"""HFD's coding: exact arithmetic, the container, slices of large pictures, weights that do not fit."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers_hfd import LEVELS, NETWORK, SMALL, autoencoder, decoder, picture, write
from safetensors.torch import save_file

from hfdbench.errors import StreamError
from hfdbench.hfd import coding
from hfdbench.hfd import fixed_point as exact
from hfdbench.hfd.autoencoder import gaussian_likelihood, pad
from hfdbench.hfd.container import Coded
from hfdbench.hfd.lapped import FINE, cheaper, passes
from hfdbench.hfd.weights import load_into, read_autoencoder, read_decoder


@pytest.fixture(scope="module", params=[SMALL, LEVELS], ids=lambda config: config.architecture)
def model(request):
    return autoencoder(config=request.param)


LARGEST_ERROR = {"elic": 0.5, "lapped": 1.5}  # in steps: lapped may round to the next number towards zero


def float_image(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def round_trip(image, rate, model):
    return coding.decode(coding.encode(image, rate, model, model), *image.shape[:2], rate, model, model)


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


DECODE = """
import sys
from pathlib import Path
import torch
from hfdbench.hfd import coding
from hfdbench.hfd.weights import read_autoencoder
torch.set_num_threads(2)
model = read_autoencoder(Path(sys.argv[1])).module
coding.SLICE = 64
_, y_hat = coding.decode(Path(sys.argv[2]).read_bytes(), 100, 70, 1, model, model)
print(y_hat.double().sum().item().hex(), y_hat.double().square().sum().item().hex())
"""


def test_streams_decode_across_threads_and_processes(model, tmp_path, monkeypatch):
    """An encoder with one thread, decoders with one and two, here and in another process: the same latents."""
    monkeypatch.setattr(coding, "SLICE", 64)
    image = picture(100, 70)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        payload = coding.encode(image, 1, model, model)
        _, one = coding.decode(payload, 100, 70, 1, model, model)
        torch.set_num_threads(2)
        assert torch.equal(coding.decode(payload, 100, 70, 1, model, model)[1], one)
    finally:
        torch.set_num_threads(threads)
    (tmp_path / "payload").write_bytes(payload)
    weights = write(model, tmp_path / "ae.safetensors", "autoencoder")
    arguments = [sys.executable, "-W", "ignore", "-c", DECODE, weights, tmp_path / "payload"]
    said = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    assert said == [one.double().sum().item().hex(), one.double().square().sum().item().hex()]
    assert one.abs().max() >= 1  # there was something to code


def test_decoded_latents_are_the_encoders(model):
    """Decoding gives the rounded latents: within half a step of what was analysed; reconstruct() agrees without coding."""
    image = picture(64, 128)
    x_hat, y_hat = round_trip(image, 0, model)
    y = model.analyse(float_image(image), torch.tensor([0]))
    assert (y - y_hat).abs().max() <= LARGEST_ERROR[model.config.architecture] + 2**-10
    told, latents = model.reconstruct(float_image(image), torch.tensor([0]))
    assert (float_image(x_hat) - told).square().mean().sqrt() < 0.01
    assert (model.unscale(y_hat, torch.tensor([0])) - latents).square().mean().sqrt() < 0.01


# Slices: a picture over 1024 pixels, here with smaller slices


def test_a_picture_of_one_slice_is_one_stream(model):
    """The format of small pictures knows nothing of slices."""
    image = picture(130, 70)
    y = model.analyse(pad(float_image(image)), torch.tensor([1]))
    assert coding.encode(image, 1, model, model) == model.compress(y, 1)


def test_slices_cover_the_padded_picture_once():
    seen = np.zeros((2112, 1088), int)
    for top, bottom, left, right in coding.boxes(2050, 1030, coding.SLICE):
        seen[top:bottom, left:right] += 1
        assert all(side % 64 == 0 for side in (top, bottom, left, right))
        assert bottom - top <= coding.SLICE and right - left <= coding.SLICE
    assert (seen == 1).all()


def test_windows_cover_the_padded_picture_once():
    seen = np.zeros((2112 // 16, 1088 // 16), int)
    for tile, window, (rows, columns) in coding.windows(2050, 1030, 80):
        assert all(side % 16 == 0 for side in (*tile, *window))
        assert window[1] - window[0] <= coding.TILE + 2 * 80
        top, left = window[0] // 16, window[2] // 16
        seen[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop] += 1
        assert coding.latents_of(tile) == (
            slice(top + rows.start, top + rows.stop),
            slice(left + columns.start, left + columns.stop),
        )
        for near, far, end, length in ((0, 1, window[1], 2112), (2, 3, window[3], 1088)):
            assert tile[near] - window[near] == min(80, tile[near])
            assert end - tile[far] == min(80, length - tile[far])
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [(140, 650), (523, 60)], ids=["wide", "high"])
def test_slices_decode_to_the_encoders_latents_without_seams(model, monkeypatch, size):
    monkeypatch.setattr(coding, "SLICE", 128)
    monkeypatch.setattr(coding, "TILE", 96)  # tiles and slices need not end together
    height, width = size
    image = picture(height, width)
    x_hat, y_hat = round_trip(image, 1, model)
    whole = model.analyse(pad(float_image(image)), torch.tensor([1]))
    assert y_hat.shape == whole.shape
    # Each window's analysis is the whole picture's but for float rounding, so the decoded latents are its rounding.
    assert (whole - y_hat).abs().max() <= LARGEST_ERROR[model.config.architecture] + 2e-3
    at_once = (model.synthesise(y_hat, torch.tensor([1]))[..., :height, :width].clamp(0, 1) * 255).round()
    difference = (at_once[0].permute(1, 2, 0) - torch.from_numpy(x_hat)).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 1e-3


def test_cheaper_rounding_costs_no_more_than_rounding():
    """Bits and weighted squared error together, whatever the scales; with errors dear it is plain rounding."""
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(20000, generator=generator) * 3
    log_scale = torch.rand(20000, generator=generator) * 6 - 2

    def cost(symbols, weight):
        return weight * (residual - symbols) ** 2 - gaussian_likelihood(symbols, log_scale).log2()

    for weight in (0.5, 8.0):
        symbols = cheaper(residual, log_scale, torch.tensor(weight))
        assert (cost(symbols, weight) <= cost(residual.round(), weight) + 1e-4).all()
        assert ((symbols - residual).abs() <= 1.5).all() and (symbols != residual.round()).any()
    clear = (residual - residual.round()).abs() < 0.499  # a tie costs no error either way
    assert torch.equal(cheaper(residual, log_scale, torch.tensor(1e6))[clear], residual.round()[clear])


def test_passes_cover_every_position_once_from_coarse_to_fine():
    for levels, counts in ((False, [48, 48]), (True, [6, 6, 12, 24, 48])):
        masks = passes(torch.zeros(1, 1, 8, 12), levels)
        assert [int(mask.sum()) for mask in masks] == counts
        assert (torch.stack(masks).sum(0) == 1).all()
    assert passes(torch.zeros(1, 1, 8, 12), True)[0][0, 0, ::4, ::4].all()
    halves = torch.stack(passes(torch.zeros(1, 1, 8, 12), True)[:4]).any(0)
    assert torch.equal(halves, passes(torch.zeros(1, 1, 8, 12), False)[0])


def test_levels_code_block_means_of_the_first_pass_finely():
    """Decoded from coded streams; a model without levels is off by as much as half a step and more."""
    model = autoencoder(config=LEVELS)
    image = picture(64, 128)
    y = model.analyse(float_image(image), torch.tensor([1]))
    _, y_hat = round_trip(image, 1, model)
    first = passes(y, True)[0].expand(-1, 3, -1, -1)
    assert (y_hat - y)[:, :3][first].abs().max() <= 1.5 / FINE + 2**-9 < (y_hat - y).abs().max()


def test_margin_covers_the_receptive_fields(model):
    """Gradients are exact zeros where a network does not look: none beyond the margin in either direction."""
    image = torch.rand(1, 3, 512, 512).requires_grad_()
    model.analyse(image, torch.tensor([0]))[0, :, 16, 16].sum().backward()  # pixels 256 to 271
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.min() >= 256 - model.margin and rows.max() < 272 + model.margin
    assert rows.max() - rows.min() > 48  # the gradient did reach as far as the network
    latents = torch.randn(1, SMALL.latents, 32, 32).requires_grad_()
    model.synthesise(latents, torch.tensor([0]))[..., 256:272, 256:272].sum().backward()
    rows = latents.grad.abs().sum((0, 1, 3)).nonzero().flatten() * 16
    assert rows.min() >= 256 - model.margin and rows.max() < 272 + model.margin
    assert rows.max() > rows.min()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (255, 257)], ids=lambda size: "x".join(map(str, size)))
def test_any_size_round_trips(model, size):
    image = picture(*size)
    x_hat, y_hat = round_trip(image, 0, model)
    assert x_hat.shape == image.shape and x_hat.dtype == np.uint8
    assert y_hat.shape[2:] == tuple(-(-side // 64) * 4 for side in size)


def test_payloads_split_as_they_were_joined():
    parts = [b"one", b"", b"three"]
    joined = b"".join(coding.LENGTH.pack(len(part)) + part for part in parts[:-1]) + parts[-1]
    assert coding.split(joined, 3) == parts
    assert coding.split(b"alone", 1) == [b"alone"]


@pytest.mark.parametrize(
    ("payload", "said"),
    [(b"", "table of slices"), (b"\0\0\0", "table of slices"), (b"\0\0\0\x09short", "inside a slice")],
)
def test_payloads_that_do_not_split_are_refused(payload, said):
    with pytest.raises(StreamError, match=said):
        coding.split(payload, 2)


# The container


def test_container_round_trips_and_counts_sixteen_bytes():
    coded = Coded(b"abcd", 3, 1, 65535, b"payload")
    assert len(coded.pack()) == 16 + 7
    assert Coded.unpack(coded.pack()) == coded


@pytest.mark.parametrize("side", [0, 65536])
def test_container_refuses_sizes_it_cannot_hold(side):
    with pytest.raises(ValueError, match="1 to 65535"):
        Coded(b"abcd", 0, 5, side, b"").pack()


# Weights


def test_weights_come_back_with_what_was_said_of_them(model, tmp_path):
    path = write(model, tmp_path / "ae.safetensors", "autoencoder")
    read = read_autoencoder(path)
    assert read.metadata["objective"] == "autoencoder" and len(read.id) == 4 and not read.module.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.module.state_dict()[name], tensor), name


@pytest.mark.parametrize("damage", ["absent", "text", "cut", "no config", "unknown option"])
def test_files_that_are_no_weights_are_refused(tmp_path, damage):
    path = write(decoder(), tmp_path / "decoder.safetensors", "hfd")
    if damage == "absent":
        path.unlink()
    elif damage == "text":
        path.write_text("weights")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        config = {} if damage == "no config" else {"config": json.dumps({"depth": 3})}
        save_file(decoder().state_dict(), path, config)
    with pytest.raises(ValueError, match=r"decoder\.safetensors.*restore the file"):
        read_decoder(path)


def test_weights_of_another_shape_are_refused(model, tmp_path):
    path = tmp_path / "decoder.safetensors"
    tensors = decoder().state_dict()
    tensors["network.enter.weight"] = tensors["network.enter.weight"][:4].clone()
    save_file(tensors, path, {"config": json.dumps(asdict(NETWORK))})
    with pytest.raises(ValueError, match=r"do not fit the model: .*size mismatch for network\.enter\.weight"):
        read_decoder(path)
    with pytest.raises(ValueError, match="unknown option"):
        read_decoder(write(model, tmp_path / "ae.safetensors", "autoencoder"))


def test_a_decoder_that_now_sees_latents_goes_on_from_one_that_did_not(tmp_path):
    path = write(decoder(), tmp_path / "decoder.safetensors", "hfd")
    seeing = decoder(latents=4)
    before = seeing.network.latents.weight.clone()
    with pytest.raises(ValueError, match=r"network\.latents\.weight"):
        load_into(seeing, path)
    load_into(seeing, path, may_lack=("network.latents.weight", "network.latents.bias"))
    assert torch.equal(seeing.network.enter.weight, decoder().network.enter.weight)
    assert torch.equal(seeing.network.latents.weight, before)
