"""What each image does to a value: by hand, against leaving it out, and as intervals of stored points."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
from helpers_results import write_codec

from hfdbench.analysis import deviations
from hfdbench.analysis.estimate import Estimate
from hfdbench.analysis.intervals import intervals
from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.kid import SUBSET_SIZE, SUBSETS, kid, subset_values
from hfdbench.results.stored import Results, StoredTrial

IMAGES = 6


def made(dimensions: int, patches: int = 3, seed: int = 0, images: int = IMAGES):
    random = np.random.default_rng(seed)
    x = random.normal(1, 2, size=(images * patches, dimensions))
    y = 0.9 * x + random.normal(0.2, 0.5, size=x.shape)
    return x, y, np.repeat(np.arange(images), patches)


def test_deviations_of_a_mean_by_hand():
    np.testing.assert_allclose(deviations.of_mean([1.0, 4.0, np.nan, 4.0]), [-8 / 3, 4 / 3, 0, 4 / 3])


def test_deviations_of_a_ratio_by_hand():
    np.testing.assert_allclose(deviations.of_ratio([1, 3], [2, 2]), [-0.5, 0.5])
    np.testing.assert_allclose(deviations.of_ratio([1, 2], [2, 4]), [0, 0])


def without_each(distance, x, y, image):
    return np.array([distance(x[image != i], y[image != i]) for i in range(image.max() + 1)])


def frechet(x, y):
    return frechet_distance(Moments.of(x), Moments.of(y))


@pytest.mark.parametrize(("dimensions", "alike"), [(80, 0.8), (5, 0.85)])  # more dimensions than patches, fewer
def test_deviations_of_a_distance_are_what_is_lost_without_each_image(dimensions, alike):
    x, y, image = made(dimensions, patches=2, images=24)
    pseudo = 23 * (frechet(x, y) - without_each(frechet, x, y, image))
    found = deviations.of_frechet(x, y, image, 24)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    assert np.corrcoef(found, pseudo)[0, 1] > alike
    assert found.std() == pytest.approx(pseudo.std(), rel=0.2)


def test_deviations_of_kid_are_the_jackknife():
    x, y, image = made(20)
    pseudo = (IMAGES - 1) * (kid(x, y)[0] - without_each(lambda a, b: kid(a, b)[0], x, y, image))
    np.testing.assert_allclose(deviations.of_kid(x, y, image, IMAGES)[0], pseudo - pseudo.mean(), rtol=1e-7)


def test_pairs_are_what_two_images_do_together():
    """Projections of the matrix that is left when rows, columns and diagonal sum to nothing."""
    images = 40
    half = np.random.default_rng(0).normal(size=(images, images))
    kernel = half + half.T
    apart = ~np.eye(images, dtype=bool)
    alone = np.array([kernel[i][apart[i]].sum() for i in range(images)]) / (images - 2)
    total = kernel[apart].sum() / ((images - 1) * (images - 2))
    both = [(kernel[i, j] - alone[i] - alone[j] + total) for i in range(images) for j in range(images) if i != j]
    exact = 2 * np.mean(np.square(both)) / images**2
    assert np.square(deviations._pairs(kernel)).sum() == pytest.approx(exact, rel=0.4)
    of_sums = np.add.outer(np.arange(images), np.arange(images)).astype(float)
    np.testing.assert_allclose(deviations._pairs(of_sums), 0, atol=1e-9)
    assert len(deviations._pairs(np.ones((3, 3)))) == 0


def test_variance_of_the_difference_of_equal_codecs():
    """By the jackknife alone it is half too large: Efron & Stein 1981."""
    random = np.random.default_rng(0)
    values, plain, corrected = [], [], []
    for _ in range(300):
        x = random.normal(size=(24, 30))
        sides = []
        for noise in random.normal(0, 0.7, size=(2, *x.shape)):
            own, pairs, _ = deviations.of_kid(x, x + noise, np.arange(24), 24)
            sides.append(Estimate(kid(x, x + noise)[0], own, pairs=pairs))
        difference = sides[0] - sides[1]
        values.append(difference.value)
        corrected.append(difference.standard_error**2)
        plain.append(replace(difference, pairs=np.zeros(0)).standard_error ** 2)
    true = np.var(values)
    assert np.mean(plain) > 1.4 * true and 0.85 * true < np.mean(corrected) < 1.35 * true
    assert sides[0].pairs == pytest.approx(-(-sides[0]).pairs)


def test_variance_of_a_kid_over_subsets():
    """What the draw of subsets adds is part of it; those of two codecs are the same, and cancel."""
    random = np.random.default_rng(0)
    values, with_them, without = [], [], []
    for seed in range(80):
        x = random.normal(size=(200, 4))
        sides = []
        for scale in (0.8, 0.9):
            y = scale * x + random.normal(0, 0.3, size=x.shape)
            own, pairs, none = deviations.of_kid(x, y, np.arange(200), 200)
            drawn = subset_values(x, y, seed=seed, subsets=10, subset_size=50)
            sides.append(Estimate(drawn.mean(), own, pairs=pairs, subsets=drawn - drawn.mean()))
            assert len(none) == 0  # so few patches have none
        difference = sides[0] - sides[1]
        values.append(difference.value)
        with_them.append(difference.standard_error**2)
        without.append(replace(difference, subsets=np.zeros(0)).standard_error ** 2)
    assert np.mean(without) < 0.6 * np.var(values) and np.mean(with_them) == pytest.approx(np.var(values), rel=0.35)
    halved = Estimate.of_function(lambda value: value / 2, [difference])
    assert halved.standard_error == pytest.approx(difference.standard_error / 2, rel=0.05)


def test_what_is_kept_of_a_kid_is_taken_apart_again():
    x = np.random.default_rng(0).normal(size=(SUBSET_SIZE, 2))
    for images in (2, 50):
        kept = deviations.of_distance("kid", x, x + 1, np.arange(len(x)) % images, images)
        assert [len(each) for each in kept] == [images, deviations.PAIRS if images > 3 else 0, SUBSETS]
        for found, each in zip(deviations.parts(np.concatenate(kept), images), kept, strict=True):
            np.testing.assert_array_equal(found, each)


def test_what_is_kept_is_checked(tmp_path):
    """Damaged, it is computed again."""
    results, trial = Results(tmp_path), cast(StoredTrial, SimpleNamespace(key="k", name="n", images=3))
    results.keep_deviations(trial, "kid", 4, np.arange(5.0))
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    for data, right in ((whole, True), (whole[:-1], False), (whole[:40], False), (b"", False)):
        path.write_bytes(data)
        found = results.deviations(trial, "kid", 4)
        assert np.array_equal(found, np.arange(5.0)) if right else found is None
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert results.deviations(trial, "kid", 4) is None, place


@pytest.mark.parametrize("of_distance", [deviations.of_frechet, deviations.of_kid])
def test_order_of_patches_does_not_matter(of_distance):
    x, y, image = made(40)
    order = np.random.default_rng(0).permutation(len(image))
    found, same = (
        np.hstack(of_distance(*some, IMAGES)) for some in ((x[order], y[order], image[order]), (x, y, image))
    )
    np.testing.assert_allclose(found, same, rtol=1e-7, atol=1e-9)


def test_misfits_are_refused():
    x, y, image = made(40)
    with pytest.raises(ValueError, match="N x D, N x D and N"):
        deviations.of_frechet(x, y[1:], image, IMAGES)
    with pytest.raises(ValueError, match="do not fit 3 images"):
        deviations.of_kid(x, y, image, 3)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_codec(folder, "plain")
    return folder


@pytest.mark.parametrize("column", ["bpp", "psnr_db", "ms_ssim", "fid", "kid", "fd_mini"])
def test_stored_points_lie_in_their_intervals_which_are_cached(out, column):
    points = Results(out).points()
    found = intervals(out, points, column)
    assert (found["lo"] < points[column]).all() and (points[column] < found["hi"]).all()
    cached = sorted((out / "cache").glob(f"*-{column}-v*.npy"))
    assert len(cached) == (len(points) if column in ("fid", "kid", "fd_mini") else 0)
    before = [path.stat().st_mtime_ns for path in cached]
    pd.testing.assert_frame_equal(intervals(out, points.iloc[::-1], column).iloc[::-1], found)
    assert [path.stat().st_mtime_ns for path in cached] == before


def test_points_without_stored_images_have_no_interval(out):
    points = Results(out).points()
    points.loc[0, "bpp"] += 1e-6  # another measurement than the stored one
    points.loc[1, "codec"] = "published"
    assert intervals(out, points, "bpp")["lo"].isna().tolist() == [True, True, False, False]
    with pytest.raises(UsageError, match="bpp"):
        intervals(out, points, "bp")
