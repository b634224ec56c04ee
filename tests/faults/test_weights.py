"""Weights that a training spoilt or somebody forged are refused when they are read, by name."""

import json

import numpy as np
import pytest
import torch
from helpers_hfd import SMALL, autoencoder, decoder, write
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hfdbench.hfd.weights import read_autoencoder, read_decoder

pytestmark = pytest.mark.faults


def changed(path, tensors=None, config=None):
    """The file with some tensors and keys of its config replaced."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if config:
        metadata["config"] = json.dumps(json.loads(metadata["config"]) | config)
    save_file(load_file(path) | (tensors or {}), path, metadata)
    return path


@pytest.fixture
def stage_1(tmp_path):
    return write(autoencoder(), tmp_path / "ae.safetensors", "autoencoder")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite(stage_1, tmp_path, value):
    whole = load_file(stage_1)
    name = next(name for name in whole if name.startswith("synthesis") and name.endswith("weight"))
    whole[name].view(-1)[5] = value
    with pytest.raises(ValueError, match=rf"ae\.safetensors: {name} holds NaN or infinity"):
        read_autoencoder(changed(stage_1, {name: whole[name]}))
    second = write(decoder(), tmp_path / "hfd.safetensors", "hfd")
    root = load_file(second)["root"]
    root[0, 0, 0] = value
    with pytest.raises(ValueError, match="root holds NaN or infinity"):
        read_decoder(changed(second, {"root": root}))


def forged(table):
    rng = np.random.default_rng(0)
    cdf, length, offset = (table[f"gaussian.{name}"].clone() for name in ("_quantized_cdf", "_cdf_length", "_offset"))
    falling = cdf.clone()
    falling[3, 1] = 2**16
    open_end = cdf.clone()
    open_end[0, length[0] - 1] = 2**16 - 1
    return {
        "too long": {"_cdf_length": torch.full_like(length, 10**6)},
        "none": {"_cdf_length": torch.zeros_like(length)},
        "negative": {"_cdf_length": -length},
        "falling": {"_quantized_cdf": falling},
        "open": {"_quantized_cdf": open_end},
        "zero": {"_quantized_cdf": torch.zeros_like(cdf)},
        "noise": {"_quantized_cdf": torch.from_numpy(rng.integers(-(2**30), 2**30, cdf.shape, dtype=np.int32))},
        "fewer": {"_quantized_cdf": cdf[:5], "_cdf_length": length[:5], "_offset": offset[:5]},
        "far": {"_offset": torch.full_like(offset, 2**30)},
    }


FORGED = ("too long", "none", "negative", "falling", "open", "zero", "noise", "fewer", "far")


@pytest.mark.parametrize("kind", FORGED)
def test_probability_tables_that_are_none(stage_1, kind):
    tensors = {f"gaussian.{name}": value for name, value in forged(load_file(stage_1))[kind].items()}
    with pytest.raises(ValueError, match="probability tables of gaussian"):
        read_autoencoder(changed(stage_1, tensors))


@pytest.mark.parametrize(
    "config",
    [
        {"widths": [10**9, 16, 16]},
        {"widths": [8, 16, -16]},
        {"widths": [8, 16, 0]},
        {"groups": [4] * 10**5},
        {"groups": [0, 4]},
        {"hyper": 0},
        {"context": 1e30},
        {"lambdas": []},
        {"lambdas": [0.0, 1.0]},
        {"architecture": "other"},
        {"widths": "abc"},
    ],
    ids=lambda config: str(config)[:40],
)
def test_sizes_that_no_model_has(stage_1, config):
    with pytest.raises(ValueError, match=r"not weights of this model|do not fit"):
        read_autoencoder(changed(stage_1, config=config))


@pytest.mark.parametrize(
    "config", [{"widths": [10**9, 8]}, {"blocks": [10**6, 1]}, {"blocks": [1]}, {"rates": 0}, {"latents": -1}], ids=str
)
def test_sizes_that_no_decoder_has(tmp_path, config):
    path = write(decoder(), tmp_path / "hfd.safetensors", "hfd")
    with pytest.raises(ValueError, match=r"not weights of this model|do not fit"):
        read_decoder(changed(path, config=config))


def test_good_weights_are_read(stage_1):
    assert read_autoencoder(stage_1).module.config == SMALL
