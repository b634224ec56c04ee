"""Bootstrap: draws are what their rows say, the fast distances are the plain ones, intervals hold."""

import numpy as np
import pandas as pd
import pytest
from helpers_results import write_codec

from hfdbench.analysis import bootstrap
from hfdbench.analysis.intervals import intervals
from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.kid import kid
from hfdbench.results.stored import Results

IMAGES = 6


def made(dimensions: int, patches: int = 3, seed: int = 0):
    random = np.random.default_rng(seed)
    x = random.normal(1, 2, size=(IMAGES * patches, dimensions))
    y = 0.9 * x + random.normal(0.2, 0.5, size=x.shape)
    return x, y, np.repeat(np.arange(IMAGES), patches)


def test_draws_are_reproducible_and_within_the_images():
    drawn = bootstrap.draws(IMAGES, 50, seed=3)
    assert drawn.shape == (50, IMAGES) and set(drawn.ravel()) == set(range(IMAGES))
    np.testing.assert_array_equal(drawn, bootstrap.draws(IMAGES, 50, seed=3))
    assert (drawn != bootstrap.draws(IMAGES, 50, seed=4)).any()


def test_mean_by_hand():
    drawn = np.array([[0, 0, 1], [2, 2, 2], [1, 2, 2]])
    np.testing.assert_allclose(bootstrap.mean([1.0, 4.0, np.nan], drawn), [2, np.nan, 4])


@pytest.mark.parametrize("dimensions", [40, 5])  # by Gram matrices, by covariances
def test_frechet_is_the_distance_of_the_repeated_rows(dimensions):
    x, y, image = made(dimensions)
    drawn = bootstrap.draws(IMAGES, 4, seed=1)
    found = bootstrap.frechet(x, y, image, drawn)
    for distance, images in zip(found, drawn, strict=True):
        rows = np.concatenate([np.flatnonzero(image == i) for i in images])
        assert distance == pytest.approx(frechet_distance(Moments.of(x[rows]), Moments.of(y[rows])), rel=1e-9)


def test_first_order_is_the_exact_bootstrap_of_large_sets():
    random = np.random.default_rng(4)
    image = np.repeat(np.arange(400), 3)
    x = random.normal(size=(400, 8))[image] + random.normal(size=(1200, 8))
    y = 0.5 * x + np.exp(random.normal(0, 0.5, 400))[image][:, None] * random.normal(0.1, 0.5, size=x.shape)
    drawn = bootstrap.draws(400, 200)
    exact, first = bootstrap.frechet(x, y, image, drawn), bootstrap._frechet_to_first_order(x, y, image, drawn)
    assert np.corrcoef(exact, first)[0, 1] > 0.99
    assert first.std() == pytest.approx(exact.std(), rel=0.05)
    assert first.mean() == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y)), abs=3 * first.std() / 200**0.5)


def test_first_order_is_the_derivative():
    x, y, image = made(5, patches=40)
    once = frechet_distance(Moments.of(x), Moments.of(y))
    copies = 1000  # of every image; then one more of image 2
    more = np.concatenate([np.tile(np.arange(len(x)), copies), np.flatnonzero(image == 2)])
    change = frechet_distance(Moments.of(x[more]), Moments.of(y[more])) - frechet_distance(
        Moments.of(np.tile(x, (copies, 1))), Moments.of(np.tile(y, (copies, 1)))
    )
    first = bootstrap._frechet_to_first_order(x, y, image, np.array([[0, 1, 2, 3, 4, 5, 2]]))[0] - once
    # N - 1 in the covariances is N there and 239 of 240 here.
    assert copies * change == pytest.approx(first, rel=0.02)


def test_large_dimensions_go_to_first_order():
    x, y, image = made(513, patches=100)
    drawn = bootstrap.draws(IMAGES, 3)
    np.testing.assert_allclose(
        bootstrap.frechet(x, y, image, drawn), bootstrap._frechet_to_first_order(x, y, image, drawn)
    )


def test_kid_of_each_image_once_is_kid():
    x, y, image = made(20)
    assert bootstrap.kid(x, y, image, np.arange(IMAGES)[None])[0] == pytest.approx(kid(x, y)[0], rel=1e-9)


def test_kid_of_a_draw_leaves_out_pairs_of_copies():
    x, y, image = made(20)
    drawn = bootstrap.draws(IMAGES, 3, seed=1)
    for value, images in zip(bootstrap.kid(x, y, image, drawn), drawn, strict=True):
        rows = np.concatenate([np.flatnonzero(image == i) for i in images])
        kernel = {p: (u[rows] @ v[rows].T / 20 + 1) ** 3 for p, u, v in (("xx", x, x), ("yy", y, y), ("xy", x, y))}
        other = rows[:, None] != rows
        expected = kernel["xx"][other].mean() + kernel["yy"][other].mean() - 2 * kernel["xy"].mean()
        assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [bootstrap.frechet, bootstrap.kid])
def test_order_of_patches_does_not_matter(distance):
    x, y, image = made(40)
    drawn, order = bootstrap.draws(IMAGES, 5), np.random.default_rng(0).permutation(len(image))
    found = distance(x[order], y[order], image[order], drawn)
    np.testing.assert_allclose(found, distance(x, y, image, drawn), rtol=1e-9)


def test_misfits_are_refused():
    x, y, image = made(40)
    with pytest.raises(ValueError, match="N x D, N x D and N"):
        bootstrap.frechet(x, y[1:], image, bootstrap.draws(IMAGES, 2))
    with pytest.raises(ValueError, match="do not fit 3 images"):
        bootstrap.kid(x, y, image, bootstrap.draws(3, 2))


def test_interval_of_a_mean_holds_and_is_no_wider_than_need_be():
    held, widths = 0, []
    for trial in range(200):
        values = np.random.default_rng([1, trial]).normal(size=40)
        low, high = bootstrap.interval(bootstrap.mean(values, bootstrap.draws(40, 400, trial)))
        held += low <= 0 <= high
        widths.append(high - low)
    assert 0.88 <= held / 200 <= 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 / 40**0.5, rel=0.06)


def test_interval_of_fid_holds_for_as_many_patches_only_when_centred():
    def world(seed: int):  # images differ in content and in how much is lost; patches of an image are alike
        random = np.random.default_rng([5, seed])
        scale, image = np.arange(1, 129) ** -0.6, np.repeat(np.arange(24), 3)
        x = (0.7 * random.normal(size=(24, 128))[image] + 0.7 * random.normal(size=(72, 128))) * scale
        lost = 0.5 * np.exp(random.normal(0, 0.4, 24))[image][:, None]
        return x, 0.85 * x + lost * random.normal(size=x.shape) * scale, image

    once = np.arange(24)[None]
    target = np.mean([bootstrap.frechet(*world(1000 + k), once)[0] for k in range(200)])
    held = {"centred": 0, "raw": 0}
    for seed in range(50):
        value = bootstrap.frechet(*world(seed), once)[0]
        raw = bootstrap.frechet(*world(seed), bootstrap.draws(24, 100, seed))
        for name, samples in (("raw", raw), ("centred", bootstrap.centred(raw, value))):
            low, high = bootstrap.interval(samples)
            held[name] += low <= target <= high
    assert held["centred"] >= 46
    assert held["raw"] <= 40  # what centring is there for


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_codec(folder, "plain")
    return folder


@pytest.mark.parametrize("column", ["bpp", "psnr_db", "ms_ssim", "fid", "kid", "fd_mini"])
def test_stored_points_lie_in_their_intervals_which_are_cached(out, column):
    points = Results(out).points()
    found = intervals(out, points, column, count=60)
    assert (found["lo"] < points[column]).all() and (points[column] < found["hi"]).all()
    cached = sorted((out / "cache").glob(f"*-{column}-60-*.npy"))
    assert len(cached) == len(points)
    before = [path.stat().st_mtime_ns for path in cached]
    pd.testing.assert_frame_equal(intervals(out, points.iloc[::-1], column, count=60).iloc[::-1], found)
    assert [path.stat().st_mtime_ns for path in cached] == before


def test_points_without_stored_images_have_no_interval(out):
    points = Results(out).points()
    points.loc[0, "bpp"] += 1e-6  # another measurement than the stored one
    points.loc[1, "codec"] = "published"
    assert intervals(out, points, "bpp", count=20)["lo"].isna().tolist() == [True, True, False, False]
    with pytest.raises(UsageError, match="bpp"):
        intervals(out, points, "bp")
