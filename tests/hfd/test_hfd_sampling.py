"""HFD's sampling: schedules, solvers against known distributions, tiles."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers_hfd import decoder, picture

from hfdbench.hfd.decoder import SOLVERS, Decoder, Sampling, recolour
from hfdbench.hfd.network import NetworkConfig
from hfdbench.hfd.sampling import Schedule, alpha_sigma, ancestral, euler, heun, multistep
from hfdbench.hfd.tiling import groups, noise

MEAN, DEVIATION = 0.7, 0.4  # of the Gaussian that samplers are tried on


# Schedules


def sigma_over_alpha(schedule, t):
    alpha, sigma = alpha_sigma(schedule.log_snr(torch.tensor(t)))
    assert (alpha**2 + sigma**2).tolist() == pytest.approx([1.0] * len(t))
    return (sigma / alpha).tolist()


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_schedules_follow_their_paths(shift):
    t = [0.25, 0.5, 0.75]
    tangents = [shift * math.tan(math.pi * x / 2) for x in t]
    assert sigma_over_alpha(Schedule("cosine", shift), t) == pytest.approx(tangents)
    assert sigma_over_alpha(Schedule("linear", shift), t) == pytest.approx([shift * x / (1 - x) for x in t])


@pytest.mark.parametrize("path", ["cosine", "linear"])
def test_schedules_end_at_their_limits_and_less_shift_is_less_noise(path):
    assert Schedule(path).log_snr(torch.tensor([0.0, 1.0])).tolist() == [15, -15]
    t = torch.linspace(0.01, 0.99, 50)
    assert (Schedule(path).log_snr(t).diff() < 0).all()
    assert (Schedule(path, 0.5).log_snr(t) > Schedule(path, 1.0).log_snr(t)).all()


# Solvers, on a Gaussian whose best denoiser and whose ODE are known in closed form


def denoise(z, log_snr):
    alpha, sigma = alpha_sigma(log_snr.double())
    return MEAN + alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2) * (z - alpha * MEAN)


def normals(seed, count=20_000):
    generator = torch.Generator().manual_seed(seed)
    return lambda step=0: torch.randn(count, generator=generator, dtype=torch.float64)


STOCHASTIC = {
    **{f"ancestral {g}": lambda *a, g=g: ancestral(*a, normals(1), g) for g in (0.0, 0.3, 1.0)},
    **{f"multistep {e}": lambda *a, e=e: multistep(*a, normals(1), e) for e in (0.5, 1.0)},
}
DETERMINISTIC = {"euler": euler, "heun": heun, "multistep 0": lambda *a: multistep(*a, normals(1), 0.0)}


@pytest.mark.parametrize("path", ["cosine", "linear"])
@pytest.mark.parametrize("name", [*STOCHASTIC, *DETERMINISTIC])
def test_solvers_reproduce_a_gaussian(name, path):
    log_snrs = Sampling(steps=200, path=path).log_snrs()
    r = (STOCHASTIC | DETERMINISTIC)[name](denoise, normals(0)(), log_snrs)
    assert r.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert r.std().item() == pytest.approx(DEVIATION, rel=0.03)


@pytest.mark.parametrize("name", [*STOCHASTIC, *DETERMINISTIC])
def test_solvers_return_the_truth_when_the_denoiser_knows_it(name):
    truth = normals(2, 10)()
    log_snrs = Sampling(steps=5, shift=0.5).log_snrs()
    solve = {
        "ancestral": lambda: ancestral(lambda z, _: truth, normals(0, 10)(), log_snrs, normals(1, 10), 0.3),
        "multistep": lambda: multistep(lambda z, _: truth, normals(0, 10)(), log_snrs, normals(1, 10), 1.0),
        "euler": lambda: euler(lambda z, _: truth, normals(0, 10)(), log_snrs),
        "heun": lambda: heun(lambda z, _: truth, normals(0, 10)(), log_snrs),
    }[name.split()[0]]
    assert torch.equal(solve(), truth)


def ode_error(solve, evaluations):
    """Largest error of a solver whose evaluations are equally many, between t 0.98 and 0.02 of the straight path."""
    steps = (evaluations - 1) // 2 if solve is heun else evaluations - 1
    log_snrs = Schedule("linear").log_snr(torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64))
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def spread(log_snr):
        alpha, sigma = alpha_sigma(log_snr)
        return alpha, (alpha**2 * DEVIATION**2 + sigma**2).sqrt()

    (alpha, before), (alpha_end, after) = spread(log_snrs[0]), spread(log_snrs[-1])
    exact = alpha_end * MEAN + after / before * (start - alpha * MEAN)  # the ODE keeps quantiles in their place
    calls = []

    def counted(z, log_snr):
        calls.append(log_snr)
        return denoise(z, log_snr)

    error = (solve(counted, start, log_snrs) - denoise(exact, log_snrs[-1])).abs().max().item()
    assert len(calls) == evaluations
    return error


def test_orders_of_convergence():
    """Twice the evaluations: half the error of Euler's, a quarter of Heun's and of the multistep solver's."""
    order = {name: math.log2(ode_error(solve, 65) / ode_error(solve, 129)) for name, solve in DETERMINISTIC.items()}
    assert order["euler"] == pytest.approx(1, abs=0.15)
    assert order["heun"] == pytest.approx(2, abs=0.3)
    assert order["multistep 0"] == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("evaluations", [9, 17, 33])
def test_second_order_beats_euler_at_equal_evaluations(evaluations):
    first = ode_error(euler, evaluations)
    assert ode_error(heun, evaluations) < first
    assert ode_error(DETERMINISTIC["multistep 0"], evaluations) < first


# Sampling: steps, the dial, the network's evaluations


@pytest.mark.parametrize("wrong", [
    {"solver": "rk4"}, {"path": "sine"}, {"order": "spiral"}, {"steps": 0}, {"run": 9, "steps": 8}, {"run": -1},
    {"gamma": 1.5}, {"temperature": 1.5},
    {"eta": -0.1}, {"mean": 1.5}, {"shift": 0}, {"strength": 2}, {"grain": -0.1}, {"start": 0}, {"tile": 100}, {"tile": -64},
    {"overlap": 8},
])  # fmt: skip
def test_sampling_refuses_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dial", [{"steps": 3}, {"steps": 6, "run": 2}, {"steps": 3, "mean": 0.5}])
def test_the_network_is_evaluated_as_often_as_is_said(solver, dial):
    model, calls = decoder(), []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    how = Sampling(solver=solver, **dial)
    model.sample(picture(32, 48), 0, 0, how)
    assert len(calls) == how.evaluations
    steps, more = how.run or how.steps, how.mean > 0
    assert how.evaluations == {"none": 0, "once": 1, "heun": 2 * steps - 1 + more}.get(solver, steps + more)


def test_run_and_start_choose_among_the_steps():
    whole = Sampling(steps=8, path="linear").log_snrs()
    assert torch.equal(Sampling(steps=8, run=3, path="linear").log_snrs(), whole[:3])
    late = Sampling(steps=4, start=0.5, path="linear").log_snrs()
    assert torch.allclose(late, whole[4:])  # equal steps, from half the way


def test_run_is_a_dial_between_distortion_and_realism():
    """One step gives the mean, all of them the distribution, the spread growing between: DIRAC's dial."""
    spreads = []
    for run in (1, 10, 20, 30, 40):
        log_snrs = Sampling(steps=40, run=run, gamma=0.3).log_snrs()
        spreads.append(ancestral(denoise, normals(0)(), log_snrs, normals(1), 0.3).std().item())
    assert spreads[0] < 1e-2 and all(a < b for a, b in itertools.pairwise(spreads))
    assert 0.85 * DEVIATION < spreads[-1] < DEVIATION  # the last estimate is a mean, too, of what little noise is left


def test_strength_scales_the_detail():
    image = picture(32, 32)
    whole, half = (decoder().sample(image, 0, 4, Sampling(solver="euler", steps=2, strength=s)) for s in (1.0, 0.5))
    added, half_added = whole.astype(int) - image, half.astype(int) - image
    inside = (whole > 0) & (whole < 255)
    assert np.abs(added).max() > 10
    assert np.abs(half_added - added / 2)[inside].max() <= 1


def test_grain_has_the_residuals_colours_and_does_not_know_of_tiles():
    model, grey = decoder(), np.full((200, 136, 3), 128, np.uint8)
    covariance = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]) / 400
    values, vectors = np.linalg.eigh(covariance)
    model.root[0] = torch.from_numpy((vectors * np.sqrt(values)) @ vectors.T)
    alone = model.sample(grey, 0, 4, Sampling(solver="none", grain=0.5))
    found = np.cov((alone / 255.0).reshape(-1, 3).T)
    assert found == pytest.approx(0.25 * covariance, rel=0.1, abs=2e-4)
    smooth, whole, tiles = (
        model.sample(grey, 0, 4, Sampling(steps=1, grain=grain, tile=tile)).astype(int)
        for grain, tile in ((0.0, 0), (0.5, 0), (0.5, 64))
    )
    without = model.sample(grey, 0, 4, Sampling(steps=1, tile=64)).astype(int)
    inside = (tiles > 0) & (tiles < 255) & (whole > 0) & (whole < 255)
    assert ((tiles - without) == (whole - smooth))[inside].all()


def test_no_sampling_is_the_reconstruction():
    image = picture(40, 56)
    assert np.array_equal(decoder().sample(image, 0, 4, Sampling(solver="none")), image)


def test_latents_are_seen():
    model, image = decoder(latents=4), picture(40, 64)
    latents = [torch.full((1, 4, 4, 4), value) for value in (0.0, 2.0)]
    one, two = (model.sample(image, 0, 4, Sampling(steps=2), said) for said in latents)
    assert not np.array_equal(one, two)


# Tiles


@pytest.mark.parametrize("order", ["checkerboard", "raster"])
@pytest.mark.parametrize("size", [(64, 64), (200, 330), (1, 200)])
def test_every_pixel_is_in_one_cell_and_known_are_those_of_earlier_groups(order, size):
    height, width = size
    turn = np.full(size, -1)  # group that a pixel is sampled in
    plan = groups(height, width, 64, 48, order)
    for index, group in enumerate(plan):
        for window in group:
            top, bottom, left, right = window.cell
            assert (turn[top:bottom, left:right] == -1).all()
            turn[top:bottom, left:right] = index
    assert (turn >= 0).all()
    for index, group in enumerate(plan):
        for window in group:
            top, bottom, left, right = window.outer
            assert np.array_equal(window.known.numpy(), turn[top:bottom, left:right] < index)
            cell = window.cell
            assert (top, left) == (max(cell[0] - 48, 0), max(cell[2] - 48, 0))
            assert (bottom, right) == (min(cell[1] + 48, height), min(cell[3] + 48, width))


def test_the_number_of_groups_does_not_grow_with_the_picture():
    assert len(groups(640, 640, 64, 32)) == 4
    assert len(groups(640, 640, 64, 32, "raster")) == 100
    assert [len(group) for group in groups(640, 640, 0, 32)] == [1]


def test_noise_depends_on_seed_step_and_place_alone():
    whole = noise(3, 1, (0, 200, 0, 150))
    assert torch.equal(noise(3, 1, (70, 200, 33, 101)), whole[..., 70:200, 33:101])
    assert abs(whole.mean().item()) < 0.02 and whole.std().item() == pytest.approx(1, abs=0.02)
    for other in (noise(4, 1, (0, 200, 0, 150)), noise(3, 2, (0, 200, 0, 150))):
        assert abs((whole * other).mean().item()) < 0.02
    blocks = whole[..., :128, :128].reshape(3, 2, 64, 2, 64).permute(1, 3, 0, 2, 4).reshape(4, -1)
    assert (torch.corrcoef(blocks) - torch.eye(4)).abs().max() < 0.05  # blocks of one field differ, too


@pytest.mark.parametrize("order", ["checkerboard", "raster"])
@pytest.mark.parametrize("latents", [0, 4])
def test_samples_do_not_depend_on_how_many_windows_are_taken_at_once(order, latents):
    model, image = decoder(latents), picture(150, 331)
    said = torch.randn(1, 4, 10, 21, generator=torch.Generator().manual_seed(0)) if latents else None
    how = Sampling(steps=2, gamma=0.5, tile=64, overlap=16, order=order)
    alone, *others = (model.sample(image, 1, 5, how, said, at_once=count) for count in (1, 2, 8))
    assert alone.shape == image.shape
    for other in others:
        assert np.array_equal(other, alone)


def test_one_tile_is_the_whole_picture():
    model, image = decoder(), picture(100, 130)
    whole, large, tiled = (model.sample(image, 0, 5, Sampling(steps=3, tile=tile)) for tile in (0, 192, 64))
    assert np.array_equal(whole, large)
    assert not np.array_equal(whole, tiled)  # overlaps are finished pixels there: out-painting, not averaging


class Pointwise(Decoder):
    """The best denoiser of pixels that are independent Gaussians given the reconstruction. spread 0: it knows the truth."""

    def __init__(self, spread: float):
        super().__init__(NetworkConfig(widths=(8, 8), blocks=(1, 1), embedding=8, rates=1))
        self.spread = spread
        self.root.copy_(0.1 * torch.eye(3) + 0.02)

    def forward(self, z, reconstruction, log_snr, rate, latents=None):
        alpha, sigma = (float(value) for value in alpha_sigma(log_snr.double()))
        mean = recolour(torch.linalg.inv(self.root), 0.2 * (0.5 - reconstruction))
        r = mean + alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2) * (z - alpha * mean)
        return (alpha * z - r) / sigma


@pytest.mark.parametrize("solver", ["ancestral", "euler", "heun", "multistep"])
@pytest.mark.parametrize("order", ["checkerboard", "raster"])
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_perfect_denoiser_leaves_no_seam(solver, order, spread):
    """Tiles then equal the whole picture: what is known to a window is what it would have sampled itself."""
    model, image = Pointwise(spread), picture(150, 203)
    whole, tiled = (
        model.sample(image, 0, 5, Sampling(solver, steps=6, gamma=0.5, eta=0.5, tile=tile, overlap=32, order=order))
        for tile in (0, 64)
    )
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    if not spread:
        assert np.abs(whole - (image + 0.2 * (127.5 - image)).round()).max() <= 1


def test_a_predictor_needs_no_noise():
    """Solver once: one evaluation of nothing at the noisiest end; the seed decides nothing."""
    model, image = decoder(), picture(40, 50)
    one, other = (model.sample(image, 0, seed, Sampling(solver="once")) for seed in (1, 2))
    assert np.array_equal(one, other) and not np.array_equal(one, image)
    sampled = [model.sample(image, 0, seed, Sampling(steps=2)) for seed in (1, 1, 2)]
    assert np.array_equal(sampled[0], sampled[1]) and not np.array_equal(sampled[0], sampled[2])


def test_mean_is_a_share_of_what_one_evaluation_predicts():
    model, image = decoder(), picture(48, 48)
    sample, half, mean = (
        model.sample(image, 0, 1, Sampling("multistep", 3, mean=mean)).astype(int) for mean in (0, 0.5, 1)
    )
    assert np.array_equal(mean, model.sample(image, 0, 2, Sampling("once")))
    assert np.abs(2 * half - sample - mean).max() <= 2 and np.abs(sample - mean).max() > 4


@pytest.mark.parametrize("solver", ["ancestral", "multistep", "heun"])
def test_temperature_is_the_share_of_the_noise(solver):
    """Nothing is left to chance at 0, less at 0.5 than at 1."""
    model, image = decoder(), picture(48, 48)

    def spread(temperature):
        how = Sampling(solver, steps=3, eta=1.0, temperature=temperature)
        one, other = (model.sample(image, 0, seed, how).astype(float) for seed in (1, 2))
        return np.abs(one - other).mean()

    assert spread(0.0) == 0 < spread(0.5) < spread(1.0)
