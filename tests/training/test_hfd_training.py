"""HFD's training: photographs, pairs, recipes, every objective, and that stopping, damage and full disks lose nothing."""

import contextlib
import json
import math
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers_hfd import LAPPED, LEVELS, SMALL, autoencoder, base, decoder, picture, write
from helpers_metrics import random_weights
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.pillow import JPEG
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import UsageError
from hfdbench.files.atomic import replacing
from hfdbench.hfd.decoder import AT_ONCE, Sampling
from hfdbench.hfd.sampling import Schedule, alpha_sigma
from hfdbench.hfd.tiling import noise
from hfdbench.hfd.weights import load_into, read_autoencoder, read_decoder
from hfdbench.training import loop as training
from hfdbench.training import objectives, pairs, photos, tasks
from hfdbench.training.adversaries import Perceptual, distance, read_perceptual, style
from hfdbench.training.recipe import Recipe

NETWORK = {"widths": [8, 16], "blocks": [1, 1], "embedding": 16}
STAGE_1 = {name: list(getattr(SMALL, name)) for name in ("widths", "groups", "lambdas")} | {"hyper": 8, "context": 16}
LAPPED_STAGE_1 = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(LAPPED).items()}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(folder, cache):
    return photos.read_photos(folder, 64, cache)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("weights") / "inception.pth")


def recipe(objective, **values):
    stage_1 = objective == "autoencoder"
    small = dict(steps=4, batch=2, crop=64, warmup=2, bf16=False, pair_side=64, border=32)
    return Recipe(objective=objective, **small | {"model": STAGE_1 if stage_1 else NETWORK} | values)


@pytest.fixture(scope="module")
def make_task(data, cache, inception):
    """Task of a recipe; its pairs are made once for all tests."""

    def make(wanted, **options):
        if wanted.objective == "autoencoder":
            return tasks.AutoencoderTask(wanted, data, **options)
        perceptual = inception if wanted.objective in objectives.PERCEPTUAL else None
        return tasks.DecoderTask(wanted, data, base(), cache, perceptual=perceptual, **options)

    return make


# Photographs and pairs


def test_photos_leaves_out_what_it_cannot_use(folder, data, tmp_path):
    assert data.names == tuple(f"{k}.png" for k in range(8))
    assert set(data.left_out) == {"broken.jpg", "narrow.png"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no picture to train on \(0 left out"):
        photos.read_photos(tmp_path / "empty", 64, tmp_path)
    with pytest.raises(ValueError, match=r"no picture to train on \(10 left out as damaged or under 500 pixels"):
        photos.read_photos(folder, 500, tmp_path)


def test_photographs_are_mapped_once(folder, tmp_path):
    """Their pixels lie in one file, which is used as long as the folder does not change."""
    place = shutil.copytree(folder, tmp_path / "photos")
    first = photos.read_photos(place, 64, tmp_path / "cache")
    (pixels,) = (tmp_path / "cache").glob("*.pixels")
    written = pixels.stat().st_mtime_ns
    again = photos.read_photos(place, 64, tmp_path / "cache")
    assert again.sha256 == first.sha256 and pixels.stat().st_mtime_ns == written
    base = again.images.pixels
    assert isinstance(base, np.memmap) and np.shares_memory(base, again.images[3])
    for k, image in enumerate(again.images):
        assert np.array_equal(image, picture(130, 160, seed=k))
    Image.fromarray(picture(130, 160, seed=9)).save(place / "3.png")
    changed = photos.read_photos(place, 64, tmp_path / "cache")
    assert changed.sha256 != first.sha256 and len(list((tmp_path / "cache").glob("*.pixels"))) == 2
    assert np.array_equal(changed.images[3], picture(130, 160, seed=9))


def test_photographs_are_read_by_the_rules_of_datasets(tmp_path):
    """Sixteen bits become eight by rounding, not white by clipping."""
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = photos.read_photos(tmp_path, 64, tmp_path / "cache").images[0]
    assert np.abs(image[..., 0] - deep / 257.0).max() <= 0.5


def test_pairs_show_the_photograph_its_reconstruction_and_its_latents(data, tmp_path):
    model = autoencoder()
    made = pairs.make_pairs(data, pairs.AutoencoderBase(model), 64, 32, tmp_path)
    assert len(made) == 16 and {pair.rate for pair in made} == {0, 1}  # each photograph at two rates
    for pair, photo in zip(made[::2], data.images, strict=True):
        original, coded = pair.pixels[..., :3], pair.pixels[..., 3:]
        assert pair.pixels.shape == (64, 64, 6) and pair.latents.shape == (SMALL.latents, 4, 4)
        places = np.lib.stride_tricks.sliding_window_view(photo, (12, 12), (0, 1)).transpose(0, 1, 3, 4, 2)
        top, left = np.argwhere((places == original[:12, :12]).all((2, 3, 4)))[0]
        part = torch.from_numpy(photo[top - 32 : top + 96, left - 32 : left + 96].copy())
        told, latents = model.reconstruct(part.permute(2, 0, 1)[None] / 255, torch.tensor([pair.rate]))
        inner = (told[0, :, 32:96, 32:96] * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(inner, coded)
        assert np.allclose(latents[0, :, 2:6, 2:6], pair.latents, atol=1e-2)
    (place,) = tmp_path.iterdir()
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    pairs.make_pairs(data, pairs.AutoencoderBase(model), 64, 32, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before  # made once
    pairs.make_pairs(data, base(seed=1), 64, 32, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # another model's are others


def test_pairs_on_a_codec_are_what_its_card_makes(data, tmp_path):
    card = find_cards(CodecCard)["jpeg"]
    on = pairs.CodecBase(card, ("q8", "q50"))
    assert (on.name, on.points, on.latents) == ("jpeg", ("q8", "q50"), 0)
    made = pairs.make_pairs(data, on, 64, 32, tmp_path)
    assert {pair.rate for pair in made} == {0, 1}
    for pair, photo in zip(made[::2], data.images, strict=True):
        original, coded = pair.pixels[..., :3], pair.pixels[..., 3:]
        assert pair.latents.shape == (0, 4, 4)
        places = np.lib.stride_tricks.sliding_window_view(photo, (12, 12), (0, 1)).transpose(0, 1, 3, 4, 2)
        top, left = np.argwhere((places == original[:12, :12]).all((2, 3, 4)))[0]
        codec = load_codec(card, on.points[pair.rate])
        stream = codec.encode(photo[top - 32 : top + 96, left - 32 : left + 96].copy())
        assert np.array_equal(codec.decode(stream, seed=0)[32:96, 32:96], coded)
    assert on.digest() != pairs.CodecBase(card, ("q8", "q35")).digest() != pairs.CodecBase(card).digest()
    assert [pair.rate for pair in pairs.make_pairs(data, on, 64, 32, tmp_path, rates_each=1)] == [0, 1] * 4
    pixels, _, latents = pairs.crops(made, 3, 32, np.random.default_rng(0))
    assert pixels.shape == (3, 6, 32, 32) and latents.shape == (3, 0, 2, 2)


class Enlarges(JPEG):
    def decode(self, stream, *, seed):
        return super().decode(stream, seed=seed).repeat(2, 0)


def test_bases_that_do_not_serve_are_named(data, tmp_path, monkeypatch):
    card = find_cards(CodecCard)["jpeg"]
    with pytest.raises(ValueError, match='base jpeg: no point of jpeg "q7"'):
        pairs.CodecBase(card, ("q7",))
    monkeypatch.setattr(pairs, "load_codec", lambda card, point: Enlarges(quality=50))
    with pytest.raises(ValueError, match=r"base jpeg, point q8: decodes 128x128 pixels to uint8 128x256"):
        pairs.make_pairs(data, pairs.CodecBase(card, ("q8",)), 64, 32, tmp_path)
    with pytest.raises(ValueError, match="sees latents, which base jpeg does not have"):
        tasks.DecoderTask(recipe("hfd-plus"), data, pairs.CodecBase(card, ("q8",)), tmp_path)


def test_held_out_photographs_are_chosen_by_name_alone(data):
    kept = photos.without_held_out(data, 2)
    out = [name for name in data.names if photos.held_out(name, 2)]
    assert kept.sha256 != data.sha256  # so that pairs of the one are not taken for those of the other
    assert out and set(kept.names) == set(data.names) - set(out) and len(kept.images) == len(kept.names)
    assert [k for k in range(50) if photos.held_out(f"{k}.png", 10)] == [7, 29, 32]  # of sha256, by hand
    with pytest.raises(ValueError, match="no photograph is left"):
        photos.without_held_out(replace(data, names=(out[0],), images=data.images.select([0])), 2)


def test_processes_that_begin_elsewhere_share_the_pairs(data, tmp_path, monkeypatch):
    """One that begins at another photograph goes on from there; the pairs are the same ones in the same order."""
    one = pairs.make_pairs(data, base(), 64, 32, tmp_path / "one")
    written, write = [], pairs.replacing
    monkeypatch.setattr(pairs, "replacing", lambda path, *errors: written.append(path) or write(path, *errors))
    other = pairs.make_pairs(data, base(), 64, 32, tmp_path / "other", first=5)
    for a, b in zip(one, other, strict=True):
        assert a.rate == b.rate and np.array_equal(a.pixels, b.pixels) and np.array_equal(a.latents, b.latents)
    assert [int(path.name[:6]) for path in written[::4]] == [5, 6, 7, 0, 1, 2, 3, 4]


def test_crops_of_latents_lie_where_the_pixels_do(tmp_path):
    """Latents that are their place's mean: so are the crops', flipped ones too."""
    grey = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    np.save(tmp_path / "one.pixels.npy", grey.repeat(16, 0).repeat(16, 1)[..., None].repeat(6, 2))
    np.save(tmp_path / "one.latents.npy", grey[None].astype(np.float16))
    pair = pairs.Pair(tmp_path / "one", 96, 128, 1)
    pixels, rate, latents = pairs.crops([pair], 20, 32, np.random.default_rng(1))
    image, reconstruction = pixels.float().chunk(2, 1)
    assert torch.equal(image, reconstruction) and rate.tolist() == [1] * 20
    assert torch.equal(nn.functional.avg_pool2d(image, 16)[:, :1], latents.float())
    assert len(torch.unique(latents, dim=0)) > 5


def test_smooth_fields_are_smooth_and_differ():
    fields = photos.smooth_fields(40, 192, np.random.default_rng(0)).astype(int)
    assert fields.shape == (40, 192, 192, 3) and fields.min() >= 0 and fields.max() <= 255
    assert max(np.abs(np.diff(fields, axis=axis)).max() for axis in (1, 2)) <= 12
    constant = (fields == fields[:, :1, :1]).all((1, 2, 3))
    assert 0 < constant.sum() < 40
    assert len(np.unique(fields.mean((1, 2)), axis=0)) == 40


def test_scaled_crops_show_more_of_the_picture(data):
    """Of a picture whose columns count pixels, a crop's steps from column to column are the scale's inverse."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3))
    crops = photos.scaled_crops(photos.Images.of([ramp]), 30, 64, 0.5, np.random.default_rng(0)).astype(float)
    steps = np.abs((crops[:, 32, 56] - crops[:, 32, 8]) / 48).mean(1)
    assert steps.min() >= 0.95 and steps.max() <= 2.05 and steps.min() < 1.2 and steps.max() > 1.8
    small = np.zeros((70, 70, 3), np.uint8)
    assert photos.scaled_crops(photos.Images.of([small]), 2, 64, 0.5, np.random.default_rng(0)).shape == (2, 64, 64, 3)


def test_residual_roots_whiten(data, tmp_path):
    made = pairs.make_pairs(data, base(), 64, 32, tmp_path)
    roots = pairs.residual_roots(made, 2)
    for rate in (0, 1):
        parts = [pair.pixels.reshape(-1, 6).astype(float) / 255 for pair in made if pair.rate == rate]
        residual = np.concatenate([part[:, :3] - part[:, 3:] for part in parts])
        white = residual @ np.linalg.inv(roots[rate].double().numpy()).T
        assert np.allclose(white.T @ white / len(white), np.eye(3), atol=1e-3)
        assert torch.allclose(roots[rate], roots[rate].T)


def test_a_high_passed_residual_lacks_its_gaussian_blur(data, tmp_path):
    x = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    blurred = gaussian_filter(x.double().numpy(), 1.5, axes=(2, 3), mode="nearest", radius=5)
    assert np.allclose(pairs.highpassed(x, 1.5), x - blurred, atol=1e-6)
    assert pairs.highpassed(x, 0) is x
    made = pairs.make_pairs(data, base(), 64, 32, tmp_path)
    whole, fine = (pairs.residual_roots(made, 2, deviation) for deviation in (0, 1.5))
    assert (torch.linalg.det(fine) < torch.linalg.det(whole)).all()


def test_pairs_say_what_they_lack(data, tmp_path):
    with pytest.raises(ValueError, match="multiples of 16"):
        pairs.make_pairs(data, base(), 64, 10, tmp_path)
    with pytest.raises(ValueError, match="1 photographs are too few for 2 rates"):
        pairs.make_pairs(replace(data, images=data.images.select([0])), base(), 64, 32, tmp_path)


# Losses


class Off(nn.Module):
    """Knows v of a batch and errs by d."""

    def __init__(self, batch, schedule, d):
        super().__init__()
        self.config = decoder().config
        self.root = decoder().root
        alpha, sigma = (x.float()[:, None, None, None] for x in alpha_sigma(schedule.log_snr(batch.t)))
        self.truth = alpha * batch.noise - sigma * objectives.whitened(self, batch)
        self.d = d

    def forward(self, z, reconstruction, log_snr, rate, latents=None):
        self.z = z
        return self.truth + self.d


def random_batch():
    generator = torch.Generator().manual_seed(0)
    image, reconstruction = torch.rand(2, 5, 3, 16, 16, generator=generator)
    drawn = torch.randn(5, 3, 16, 16, generator=generator)
    t = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95], dtype=torch.float64)
    return objectives.Batch(image, reconstruction, torch.tensor([0, 1, 0, 1, 0]), torch.zeros(5, 4, 1, 1), t, drawn)


@pytest.mark.parametrize("objective", objectives.DIFFUSION)
@pytest.mark.parametrize("path", ["cosine", "linear"])
def test_losses_are_the_squared_errors_they_are_called(objective, path):
    """Of v, of the flow's velocity r - e, of r: each computed anew from what the network said and what was so."""
    batch, schedule = random_batch(), Schedule(path)
    d = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(1))
    model = Off(batch, schedule, d)
    loss, _ = objectives.diffusion(model, objective, schedule)(batch)
    alpha, sigma = (x.float()[:, None, None, None] for x in alpha_sigma(schedule.log_snr(batch.t)))
    r = objectives.whitened(model, batch)
    assert torch.allclose(model.z, alpha * r + sigma * batch.noise, atol=1e-6)
    said = model.truth + d
    said_r, said_noise = alpha * model.z - sigma * said, sigma * model.z + alpha * said
    expected = {
        "hfd": (d,),
        "hfd-rf": ((said_r - said_noise) - (r - batch.noise),),
        "dirac": (said_r - r,),
        "hfd-plus": (d, objectives.fine(d)),
    }[objective]
    assert loss.item() == pytest.approx(sum(error.square().mean().item() for error in expected), rel=1e-4)
    assert torch.allclose(said_r - r, -sigma * d, atol=1e-4)
    assert torch.allclose((said_r - said_noise) - (r - batch.noise), -(sigma + alpha) * d, atol=1e-4)


def test_a_student_that_does_what_two_steps_of_its_teacher_do_has_no_loss():
    """The target of the last step and of others, against sampling with the teacher by the sampler itself."""
    teacher = decoder(seed=3)
    schedule = Schedule("cosine")
    torch.manual_seed(0)
    image, reconstruction = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    rate, t, noise = torch.tensor([0, 1]), torch.tensor([0.1, 0.6]), torch.randn(2, 3, 32, 32)
    batch = objectives.Batch(image, reconstruction, rate, torch.zeros(2, 0, 2, 2), t, noise)
    seen = {}

    class Student:
        config, root = teacher.config, teacher.root

        def __call__(self, z, *others):
            seen.update(z=z, others=others)
            return torch.zeros_like(z)

    loss, _ = objectives.distillation(Student(), teacher, schedule, 4)(batch)
    wanted = []
    for k, step in enumerate((1, 3)):
        levels = schedule.log_snr(torch.tensor([step, step - 0.5, step - 1]) / 4).float()

        def denoise(z, level, k=k):
            alpha, sigma = alpha_sigma(level)
            v = teacher(z, reconstruction[k : k + 1], level[None].float(), torch.tensor([k]))
            return alpha * z - sigma * v

        z = seen["z"][k : k + 1]
        with torch.no_grad():
            end = z
            for now, then in ((levels[0], levels[1]), (levels[1], levels[2])):
                (alpha, sigma), (alpha_then, sigma_then) = alpha_sigma(now), alpha_sigma(then)
                r = denoise(end, now)
                end = alpha_then * r + sigma_then / sigma * (end - alpha * r)
        # The student's single step arrives there, too.
        (alpha, sigma), (alpha_end, sigma_end) = alpha_sigma(levels[0]), alpha_sigma(levels[2])
        r = (end - sigma_end / sigma * z) / (alpha_end - sigma_end / sigma * alpha)
        wanted.append(((alpha * z - r) / sigma).square().mean())
    assert float(loss) == pytest.approx(float(sum(wanted) / 2), rel=1e-3)
    assert torch.allclose(seen["others"][1].double(), schedule.log_snr(torch.tensor([0.25, 0.75])), atol=1e-4)


def test_fine_detail_is_what_a_blur_takes_away():
    assert objectives.fine(torch.full((1, 3, 8, 8), 2.0)).abs().max() < 1e-6
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(1, 3, 8, 8)
    assert torch.allclose(objectives.fine(stripes)[..., 1:-1], stripes[..., 1:-1])


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_prediction_adds_the_residual_in_colour(share):
    batch = random_batch()
    model = decoder(noise=share)
    r, image = objectives.predict(model, batch)
    expected = batch.reconstruction + torch.einsum("nij,njhw->nihw", model.root[batch.rate], r)
    assert torch.allclose(image, expected, atol=1e-6)
    pixels = (batch.reconstruction[0] * 255).round().byte().permute(1, 2, 0).numpy()
    sampled = model.sample(pixels, 0, 0, Sampling(solver="once"))  # what training sees is what decoding makes
    field = noise(0, 0, (0, pixels.shape[0], 0, pixels.shape[1]))
    batch = replace(batch, reconstruction=torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, noise=field)
    one = objectives.Batch(*(value[:1] for value in vars(batch).values()))
    made = (objectives.predict(model, one)[1].clamp(0, 1) * 255).round()[0].permute(1, 2, 0)
    assert np.abs(made.numpy() - sampled).max() <= 1


def test_perceptual_distances_are_zero_for_equals_alone(inception):
    net = read_perceptual("inception", inception)
    assert isinstance(net.train(), Perceptual) and not net.training  # batch norms never learn
    image, other = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    a, b = net(image), net(other)
    assert [x.shape[1] for x in a] == [64, 192, 288]
    for x in a:
        assert torch.allclose(x.square().mean(1), torch.ones(()), atol=1e-3)
    for measure in (distance, style):
        assert measure(a, a) == 0 and measure(a, b) > 0
    image = image.requires_grad_()
    distance(net(image), b).backward()
    assert image.grad.abs().max() > 0 and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(("network", "said"), [("vgg19", "is unknown"), ("alexnet", "not weights of alexnet")])
def test_perceptual_networks_that_are_not_here_are_refused(inception, network, said):
    with pytest.raises(ValueError, match=said):
        read_perceptual(network, inception)


# Training


def lines(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("objective", ["autoencoder", *objectives.OBJECTIVES])
def test_every_objective_trains(make_task, data, tmp_path, objective):
    wanted = recipe(objective, ema=0.5, batch=4)
    task = make_task(wanted)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    weights = training.train(task, tmp_path)
    assert weights == tmp_path / "weights.safetensors"
    said = lines(tmp_path)[-1]
    assert said["step"] == 4 and all(math.isfinite(value) for value in said.values())
    gan = objective in AT_ONCE and objective != objectives.MSE
    assert gan == ("critic_loss" in said)
    model = (read_autoencoder if objective == "autoencoder" else read_decoder)(weights)
    assert model.metadata == {
        "objective": objective,
        "config": json.dumps(asdict(task.model.config)),
        "recipe": wanted.model_dump_json(),
        "data_sha256": data.sha256,
        "photographs": "8",
        "steps": "4",
        "torch": torch.__version__,
    } | ({} if objective == "autoencoder" else {"base": "", "points": '["q1", "q2"]'})
    kept, saved = load_file(weights), torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(saved["modules"]) == ({"model", "critic"} if gan else {"model"})
    moved = [name for name in before if not torch.equal(saved["average"][name], before[name])]
    assert len(moved) > len(before) / 4
    for name in moved:  # what is kept is the average, which lags behind
        if name.startswith("spatial_context"):  # masked on use, after the checkpoint
            continue
        assert torch.allclose(kept[name].float(), saved["average"][name].float(), rtol=1e-3, atol=1e-4), name
    assert any(not torch.equal(saved["average"][name], saved["modules"]["model"][name]) for name in moved)
    rows = 2 if objective == "autoencoder" else 3
    assert Image.open(tmp_path / "samples.png").size == (6 * 64, rows * 64)
    assert Image.open(tmp_path / "loss.png").size[0] > 200
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("objective", objectives.OBJECTIVES)
def test_sample_grids_show_what_the_decoder_makes(make_task, objective):
    """Predictions at once where that is the objective; else samples, which noise has shaped."""
    task = make_task(recipe(objective))
    torch.manual_seed(0)
    nn.init.normal_(task.model.eval().network.leave.weight, std=0.1)  # a new network says nothing
    batch = task.batch(*task.draw(2, np.random.default_rng(0)))
    original, reconstruction, made = task.samples(batch)
    assert torch.equal(original, batch.image) and torch.equal(reconstruction, batch.reconstruction)
    with torch.no_grad():
        predicted = objectives.predict(task.model, batch)[1].clamp(0, 1)
    assert (predicted - reconstruction).abs().max() * 255 > 2
    error = (made - predicted).abs().max() * 255
    assert error <= 0.51 if objective in AT_ONCE else error > 2


def test_plus_alone_sees_latents(make_task):
    for objective in objectives.OBJECTIVES:
        assert make_task(recipe(objective)).model.config.latents == (SMALL.latents if objective == "hfd-plus" else 0)


def test_the_squared_error_is_of_the_image_over_the_residuals_power(make_task):
    """Predicting nothing has the residual's power, 1 on average, at every rate; predicting the original has none."""
    task = make_task(recipe("mse"))
    batch = task.batch(*task.draw(64, np.random.default_rng(0)))
    ((_, loss),) = task.passes(task.modules, None)
    assert loss(batch)[0].item() == pytest.approx(1, abs=0.25)  # a new network says nothing
    error = (batch.image - batch.reconstruction).square().mean((1, 2, 3))
    power = torch.stack([torch.trace(task.model.root[k] @ task.model.root[k]) / 3 for k in batch.rate])
    assert loss(batch)[0].item() == pytest.approx((error / power).mean().item(), rel=1e-4)
    whole = replace(batch, reconstruction=batch.image)
    assert loss(whole)[0].item() == 0


def test_training_learns(make_task, tmp_path, monkeypatch):
    """v is predicted better than by nothing, whose error is about 1."""
    monkeypatch.setattr(training, "LOG_EVERY", 20)
    training.train(make_task(recipe("hfd", steps=80, learning_rate=4e-3, batch=4)), tmp_path)
    first, *_, last = (line["loss"] for line in lines(tmp_path))
    assert last < 0.85 * first < 1


def equal(a, b):
    a, b = load_file(a), load_file(b)
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


@pytest.mark.parametrize("objective", ["autoencoder", "hfd-plus", "hific"])
def test_stopped_and_resumed_equals_undisturbed(make_task, tmp_path, objective):
    wanted = recipe(objective, steps=3)
    whole = training.train(make_task(wanted), tmp_path / "whole")
    for _ in range(2):  # each run is over after a step
        assert training.train(make_task(wanted), tmp_path / "parts", stop_after_s=0.0) is None
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    assert equal(whole, training.train(make_task(wanted), tmp_path / "parts"))
    assert lines(tmp_path / "parts")[-1]["step"] == 3
    assert equal(whole, training.train(make_task(wanted), tmp_path / "parts"))  # once more: nothing is left to do


def test_a_killed_training_goes_on_from_its_last_minute(make_task, tmp_path, monkeypatch):
    """What came after the checkpoint is done again, and stands in the log once."""
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    wanted = recipe("hfd", steps=4)
    whole = training.train(make_task(wanted), tmp_path / "whole")
    task, write = make_task(wanted), training.Log.write

    def killed_at_three(self, step, **line):
        means = write(self, step=step, **line)
        if step == 3:
            raise KeyboardInterrupt
        return means

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Log, "write", killed_at_three)
        training.train(task, tmp_path / "parts", keep_every_s=0.0)
    assert [line["step"] for line in lines(tmp_path / "parts")] == [1, 2, 3]
    assert equal(whole, training.train(make_task(wanted), tmp_path / "parts"))
    assert [line["step"] for line in lines(tmp_path / "parts")] == [1, 2, 3, 4]


def test_seeds_decide(make_task, tmp_path):
    one, again, other = (
        training.train(make_task(recipe("hfd", steps=2, seed=seed)), tmp_path / f"{k}")
        for k, seed in enumerate((1, 1, 2))
    )
    assert equal(one, again) and not equal(one, other)


def test_bfloat16_trains(make_task, tmp_path):
    fabric = training.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")  # also where it is slow
    assert training.train(make_task(recipe("hfd", steps=2)), tmp_path, fabric)
    assert math.isfinite(lines(tmp_path)[-1]["loss"])


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_for_machines_with_kernels(monkeypatch, fast):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert training.make_fabric("cpu", 1, bf16=True)._precision.precision == ("bf16-mixed" if fast else "32-true")
    assert training.make_fabric("cpu", 1, bf16=False)._precision.precision == "32-true"


@pytest.mark.parametrize("objective", objectives.OBJECTIVES)
def test_losses_keep_to_their_device(make_task, objective):
    """On tensors that claim to be on a GPU and hold nothing: torch refuses any operation that mixes them with the CPU's.

    Not stage 1's: CompressAI's bottleneck reads a value back, and there is none.
    """
    task = make_task(recipe(objective))
    drawn = task.draw(2, np.random.default_rng(0))
    fabric = SimpleNamespace(device=torch.device("cuda"), autocast=contextlib.nullcontext)
    networks = list(task.modules.values())
    if objective in objectives.PERCEPTUAL:
        networks.append(task.perceptual)
        task.perceptual.to = lambda *_, **__: task.perceptual  # it is moved below
    if objective == objectives.DISTILLED:
        networks.append(task.teacher)
        task.teacher.to = lambda *_, **__: task.teacher
    with FakeTensorMode() as fake:
        for part in (part for network in networks for part in network.modules()):
            for tensors in (part._parameters, part._buffers):
                tensors |= {name: fake.from_tensor(x).to("cuda") for name, x in tensors.items() if x is not None}
        batch = task.batch(*(fake.from_tensor(x).to("cuda") for x in drawn))
        for _, loss_of in task.passes(task.modules, fabric):
            loss, said = loss_of(batch)
            assert {value.device.type for value in (loss, *said.values())} == {"cuda"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("objective", ["autoencoder", *objectives.OBJECTIVES])
def test_every_objective_trains_on_a_gpu(make_task, tmp_path, objective):
    fabric = training.make_fabric("cuda", 1, bf16=True)
    assert training.train(make_task(recipe(objective)), tmp_path, fabric)
    assert math.isfinite(lines(tmp_path)[-1]["loss"])


def test_a_decoder_goes_on_from_another(make_task, tmp_path):
    """hfd-plus from hfd: its layer of latents starts at zero, all else where the other ended."""
    first = training.train(make_task(recipe("hfd", steps=2)), tmp_path / "hfd")
    task = make_task(recipe("hfd-plus", steps=2), init=first)
    trained, started = read_decoder(first).module.state_dict(), task.model.state_dict()
    latents = {"network.latents.weight", "network.latents.bias"}
    assert set(started) - set(trained) == latents and all(started[name].abs().max() == 0 for name in latents)
    assert all(torch.equal(started[name], trained[name]) for name in trained if name != "root")
    assert training.train(task, tmp_path / "plus")
    with pytest.raises(ValueError, match="do not fit the model"):
        make_task(recipe("hfd"), init=tmp_path / "plus" / "weights.safetensors")
    with pytest.raises(ValueError, match="do not fit the model"):
        load_into(autoencoder(), first)


# Stage 1


class Shifted(nn.Module):
    """Everything a grey level of 255 brighter, at no rate; every second column another two brighter, the next as much darker."""

    config = LAPPED

    def forward(self, image, rate):
        stripes = torch.tensor([1.0, -1.0]).repeat(image.shape[3] // 2) * 2 / 255
        return image + 1 / 255 + stripes, torch.zeros(len(image))


def test_errors_of_block_means_count_beside_texture():
    image, rate = torch.rand(2, 3, 64, 64), torch.tensor([0, 0])
    plain, _, mse = tasks.rate_distortion(Shifted(), image, rate)
    weighted, _, same = tasks.rate_distortion(Shifted(), image, rate, block_means=0.5)
    assert mse * 255**2 == pytest.approx(5, rel=1e-3) and torch.equal(mse, same)
    assert weighted / plain == pytest.approx((5 + 0.5 * 3 * 1) / 5, rel=1e-3)


def test_a_lapped_transform_starts_as_a_transform(data):
    """Untrained, all coefficients kept, it gives the picture back; its first latents are the means of luma and chroma."""
    options = {**LAPPED_STAGE_1, "groups": [256, 256, 256], "lambdas": [1e9, 1e9]}
    model = tasks.AutoencoderTask(recipe("autoencoder", model=options), data).model.eval()
    image, rate = torch.rand(1, 3, 128, 192), torch.tensor([0])
    with torch.no_grad():
        y = model.unscale(model.analyse(image, rate), rate)
        assert torch.allclose(model.synthesise(model.analyse(image, rate), rate), image, atol=1e-4)
        grey = model.unscale(model.analyse(torch.full((1, 3, 128, 192), 0.75), rate), rate)
    assert torch.allclose(grey[:, 0], torch.full((1, 8, 12), 0.25 * 16 * 3**0.5), atol=1e-4)
    assert grey[:, 1:].abs().max() < 1e-4
    assert y[:, 3:].abs().max() > 0.1


def test_a_lapped_transform_codes_flat_fields_flat():
    model = autoencoder(config=replace(LAPPED, groups=(16, 16, 32)))
    with torch.no_grad():
        for last in (model.analysis.last, model.synthesis.last, *(net[-1] for net in model.entropy_parameters)):
            last.weight.zero_()  # as a new model's
    image = torch.full((1, 3, 192, 128), 0.3)
    image[:, 1] = 0.6
    x_hat, _ = model.reconstruct(image, torch.tensor([1]))
    assert (x_hat - image).square().mean().sqrt() * 255 < 4
    assert (x_hat - x_hat.mean((2, 3), keepdim=True))[..., 64:-64, :].abs().max() * 255 < 4


def test_a_lapped_transform_trains(make_task, tmp_path):
    wanted = recipe("autoencoder", model=LAPPED_STAGE_1, smooth=0.3, smallest_scale=0.5, block_means=1.0)
    weights = training.train(make_task(wanted), tmp_path)
    model = read_autoencoder(weights).module
    assert model.config == LAPPED
    x_hat, _ = model.reconstruct(torch.rand(1, 3, 70, 90), torch.tensor([1]))
    assert x_hat.shape == (1, 3, 70, 90)


def test_an_autoencoder_goes_on_for_other_lambdas_and_with_levels(make_task, tmp_path):
    """Gains of a rate that the start does not have lie between those of its neighbours, over log lambda."""
    start = write(autoencoder(config=LAPPED), tmp_path / "start.safetensors", "autoencoder")
    low, high = LAPPED.lambdas
    wanted = LAPPED_STAGE_1 | {"lambdas": [low, (low * high) ** 0.5, high], "levels": 2}
    old = read_autoencoder(start).module
    new = make_task(recipe("autoencoder", model=wanted), init=start).model
    for name in old.by_rate:
        a, b = old.get_parameter(name), new.get_parameter(name)
        assert torch.allclose(b[[0, 2]], a, atol=1e-5) and torch.allclose(b[1], a.mean(0), atol=1e-5)
    assert torch.equal(new.analysis.basis, old.analysis.basis)
    assert not any(p.any() for net in new.level_context for p in net.parameters())


def test_only_what_is_named_trains(make_task, tmp_path):
    start = write(autoencoder(config=LEVELS), tmp_path / "start.safetensors", "autoencoder")
    wanted = recipe("autoencoder", model=LAPPED_STAGE_1 | {"levels": 2}, only=["level_", "entropy_parameters.1"])
    task = make_task(wanted, init=start)
    assert task.groups == 2
    weights = training.train(task, tmp_path)
    assert weights is not None
    before, after = load_file(start), load_file(weights)
    names = [name for name, _ in task.model.named_parameters() if "spatial" not in name and "neighbours.w" not in name]
    changed = {name for name in names if not torch.equal(after[name], before[name].half())}
    assert changed and all(name.startswith(wanted.only) for name in changed)
    assert make_task(wanted.model_copy(update={"only": ("synthesis",)}), init=start).groups is None
    with pytest.raises(ValueError, match=r'no parameter begins with "decoder"; there are .*analysis'):
        make_task(wanted.model_copy(update={"only": ("decoder",)}))


def test_a_constant_rate_can_be_prolonged(make_task, tmp_path):
    """Where `wsd` decays may be decided while it trains: the weights before decay are a longer training's."""
    wanted = recipe("autoencoder", steps=100, schedule="wsd", decay=0.5)
    assert training.train(make_task(wanted), tmp_path / "run", stop_after_s=0.0) is None
    short = wanted.model_copy(update={"steps": 4})
    weights = training.train(make_task(short), tmp_path / "run")
    rates = [short.learning_rate_at(step, short.at(step)) for step in (1, 2, 3, 4)]
    assert rates == pytest.approx([4e-4, 4e-4, 4e-4 * 0.51, 4e-4 * 0.02])
    before = load_file(tmp_path / "run" / "before-decay.safetensors")
    assert before.keys() <= load_file(weights).keys()
    assert any(not torch.equal(value, load_file(weights)[name]) for name, value in before.items())
    assert make_task(wanted, init=tmp_path / "run" / "before-decay.safetensors")


# What goes wrong


@pytest.fixture
def stopped(make_task, tmp_path):
    """A folder with the checkpoint of an hfd of four steps, stopped after one."""
    assert training.train(make_task(recipe("hfd")), tmp_path / "run", stop_after_s=0.0) is None
    return tmp_path / "run"


def test_another_recipe_or_other_data_is_refused(make_task, data, stopped):
    for task in (make_task(recipe("hfd", steps=5)), make_task(recipe("dirac"))):
        with pytest.raises(UsageError, match=r"made by another recipe or other data; choose another --out"):
            training.train(task, stopped)
    task = make_task(recipe("hfd"))
    task.data = replace(data, sha256="0" * 64)
    with pytest.raises(UsageError, match="other data"):
        training.train(task, stopped)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damaged_checkpoints_are_refused(make_task, stopped, damage):
    path = stopped / "checkpoint.pt"
    whole = path.read_bytes()
    damaged = {"cut": whole[: len(whole) // 2], "flipped": b"\0" + whole[1:], "empty": b"", "text": b"weights"}[damage]
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=r"checkpoint\.pt: not a checkpoint of hfdbench .* delete it"):
        training.train(make_task(recipe("hfd")), stopped)


FULL = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/training"]
from test_hfd_training import recipe
from helpers_hfd import autoencoder, base
from hfdbench.errors import UsageError
from hfdbench.training import loop as training, photos, tasks
data, cache, out, limit = (Path(a) for a in sys.argv[2:])
task = tasks.DecoderTask(recipe("hfd"), photos.read_photos(data, 64, cache), base(), cache)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(str(limit)), int(str(limit))))
try:
    training.train(task, out)
except UsageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_leaves_the_last_checkpoint(make_task, folder, cache, stopped):
    """No file may grow beyond half a checkpoint: writing the next one fails for real, and the last one resumes."""
    checkpoint = stopped / "checkpoint.pt"
    good = checkpoint.read_bytes()
    arguments = [Path(__file__).parents[1], folder, cache, stopped, str(len(good) // 2)]
    said = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{checkpoint}: cannot be written"), said
    assert "the old file is intact; check free space" in said
    assert checkpoint.read_bytes() == good
    assert not [path for path in stopped.iterdir() if path.name.startswith(".")]
    assert training.train(make_task(recipe("hfd")), stopped)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_while_logging_leaves_the_last_checkpoint(make_task, stopped):
    good = (stopped / "checkpoint.pt").read_bytes()
    (stopped / "log.jsonl").unlink(missing_ok=True)
    (stopped / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        UsageError, match=r"log\.jsonl: could not be written .*last checkpoint is intact; free disk space"
    ):
        training.train(make_task(recipe("hfd")), stopped)
    assert (stopped / "checkpoint.pt").read_bytes() == good


def test_files_that_cannot_be_written_leave_the_old_ones(tmp_path):
    """safetensors and torch have errors of their own for what the system refuses: here, files of more than 4 KiB."""
    writers = {"w.safetensors": lambda path: save_file({"a": torch.ones(9999)}, path)}
    writers["c.pt"] = lambda path: torch.save({"a": torch.ones(9999)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, write_file in writers.items():
        (tmp_path / name).write_bytes(b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(UsageError, match=rf"{name}: cannot be written: .*the old file is intact"):  # noqa: SIM117
                with replacing(tmp_path / name, RuntimeError, SafetensorError) as temporary:
                    write_file(temporary)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (tmp_path / name).read_bytes() == b"old"


TWO = """
import hashlib, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/training"]
from test_hfd_training import recipe
from helpers_hfd import autoencoder, base
from hfdbench.training import loop as training, photos, tasks
data, cache, inception, out = (Path(a) for a in sys.argv[2:])
fabric = training.make_fabric("cpu", 2, False)
fabric.launch()
found = photos.read_photos(data, 64, cache)
for objective in ("autoencoder", "hfd-plus", "hific"):
    wanted = recipe(objective, steps=2, batch=4)
    if objective == "autoencoder":
        task = tasks.AutoencoderTask(wanted, found)
    else:
        task = tasks.DecoderTask(wanted, found, base(), cache, perceptual=inception)
    training.train(task, out / objective, fabric)
    digest = hashlib.sha256()
    for name, tensor in sorted(task.model.state_dict().items()):
        if name.startswith("spatial_context"):  # masked on use, and only the first process draws samples
            continue
        digest.update(name.encode() + tensor.numpy().tobytes())
    (out / f"{objective}-{fabric.global_rank}").write_text(digest.hexdigest())

class Clock:  # of another speed in each process
    ticks = 0
    def monotonic(self):
        Clock.ticks += 1 + 9 * fabric.global_rank
        return Clock.ticks

training.time = Clock()
limits = {"stop_after_s": 3}, {"finish_after_s": 6}
ended = [training.train(tasks.AutoencoderTask(recipe("autoencoder", steps=9, batch=4), found), out / "timed", fabric, **limit)
         for limit in limits]
(out / f"timed-{fabric.global_rank}").write_text(str([weights is not None for weights in ended]))
"""


def test_two_processes_train_one_model(folder, cache, inception, tmp_path):
    """Through Fabric, as on many devices: both end with the same weights, each having seen crops of its own.

    Limits of time are by the first one's clock, or one would wait for another that has stopped.
    """
    script = tmp_path / "two.py"
    script.write_text(TWO)
    arguments = [sys.executable, script, Path(__file__).parents[1], folder, cache, inception, tmp_path]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {(tmp_path / f"timed-{rank}").read_text() for rank in (0, 1)} == {"[False, True]"}
    for objective in ("autoencoder", "hfd-plus", "hific"):
        digests = [(tmp_path / f"{objective}-{rank}").read_text() for rank in (0, 1)]
        assert digests[0] == digests[1]
        assert (tmp_path / objective / "weights.safetensors").exists()
