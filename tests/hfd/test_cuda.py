"""HFD on a GPU: streams that decode on either device, tables that agree, memory. Run them with `pytest -m cuda`.

Tolerances: entropy coding is exact on the CPU whatever the device, so latents decode to the bit. Transforms and networks are
float32 sums in another order: a rounded latent or pixel differs now and then, by one step or one grey level (TF32 is off).
"""

import numpy as np
import pytest
import torch
from helpers_hfd import LAPPED, LEVELS, SMALL, autoencoder, decoder, picture, write

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.hfd import HFD
from hfdbench.codecs.pool import Pool
from hfdbench.codecs.protocol import load_codec
from hfdbench.hfd import coding
from hfdbench.hfd.container import Coded
from hfdbench.hfd.decoder import Sampling

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]

GPU = "cuda"
RATE = 0.002  # share of a stream's bytes
PSNR_DB = 0.01
MEMORY = (
    400  # MiB that a picture of four megapixels may take beyond one of one: tiles and windows do not grow, latents do
)


@pytest.fixture(scope="module", params=[SMALL, LAPPED, LEVELS], ids=["elic", "lapped", "levels"])
def weights(request, tmp_path_factory):
    return write(
        autoencoder(config=request.param), tmp_path_factory.mktemp("weights") / "ae.safetensors", "autoencoder"
    )


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    return write(decoder(), tmp_path_factory.mktemp("weights") / "hfd.safetensors", "hfd")


def psnr(a, b):
    return -10 * np.log10(np.mean((a / 255.0 - b / 255.0) ** 2))


def test_streams_decode_across_devices(weights):
    """To the same latents, to the bit, and the same picture but for single grey levels."""
    image = picture(200, 150)
    codecs = [HFD([weights], 1, device=device) for device in ("cpu", GPU)]
    for codec in codecs:
        stream = codec.encode(image)
        payload = Coded.unpack(stream).payload
        latents = [coding.decode(payload, *image.shape[:2], 1, each._transforms, each._coder)[1] for each in codecs]
        assert torch.equal(*latents)
        first, second = (each.decode(stream, seed=0).astype(int) for each in codecs)
        assert np.abs(first - second).max() <= 1 and (first != second).mean() < 0.01


def test_tables_agree_across_devices(weights):
    """Rate and PSNR of a stream made and decoded on either device."""
    image = picture(200, 150)
    rows = []
    for device in ("cpu", GPU):
        codec = HFD([weights], 1, device=device)
        stream = codec.encode(image)
        rows.append((len(stream), psnr(codec.decode(stream, seed=0), image)))
    (size, db), (size_gpu, db_gpu) = rows
    assert abs(size_gpu - size) <= max(4, RATE * size) and abs(db_gpu - db) <= PSNR_DB


@pytest.mark.parametrize("solver", ["ancestral", "multistep", "heun"])
def test_samples_agree_across_devices(sampler, solver):
    """Noise is drawn on the CPU: the same seed is the same sample, up to sums in another order."""
    reconstruction = picture(100, 130)
    how = Sampling(solver, steps=4, tile=64, overlap=16)
    made = [decoder().to(device).sample(reconstruction, 1, 7, how, at_once=k) for device, k in (("cpu", 1), (GPU, 8))]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 2
    assert psnr(made[0], made[1]) > 55 > psnr(made[0], reconstruction)


def test_the_worker_tells_the_memory_that_decoding_took():
    card = find_cards(CodecCard)["elic-mse"]
    stream = load_codec(card, "q3").encode(picture(128, 128))
    with Pool("decoder", 1, GPU) as pool:
        answers = [pool.ask(card, "q3", {"do": "decode", "seed": 0}, stream)[0] for _ in range(2)]
    assert all(answer["device_peak_bytes"] > 1 << 20 for answer in answers)


def test_memory_does_not_grow_with_the_picture(weights, sampler):
    """Tiles of stage 1 and windows of stage 2: four times the pixels take little more memory on the device."""
    how = {"solver": "multistep", "steps": 1, "tile": 256, "overlap": 32}
    codec = HFD([weights, sampler], 1, how, device=GPU)
    peaks = []
    for side in (1024, 2048):
        image = picture(side, side)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        codec.decode(codec.encode(image), seed=0)
        peaks.append(torch.cuda.max_memory_allocated() / 2**20)
    assert peaks[1] - peaks[0] < MEMORY, peaks
