"""MSE, PSNR and MS-SSIM: by hand, against other implementations, and their declared rules."""

import resource

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from hfdbench.metrics.image.pixel import ms_ssim, ms_ssim_db, mse, psnr_db, psnr_pooled_db
from hfdbench.metrics.registry import METRICS


def pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture with structure at all scales, and a noisy copy."""
    random = np.random.default_rng(seed)
    image = sum(
        random.normal(0, 22, (-(-height // cell), -(-width // cell), 3))
        .repeat(cell, 0)
        .repeat(cell, 1)[:height, :width]
        for cell in (1, 4, 16, 64)
    )
    noisy = image + random.normal(0, 15, image.shape)
    return tuple((x + 128).round().clip(0, 255).astype(np.uint8) for x in (image, noisy))


def wang(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of one channel in float64, straight from the paper: eq. 7 with the weights of section 3.2."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(x):
        for axis in (0, 1):
            x = np.apply_along_axis(np.convolve, axis, x, window, "valid")
        return x

    a, b, c1, c2, value = a.astype(float), b.astype(float), (0.01 * 255) ** 2, (0.03 * 255) ** 2, 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mean_a, mean_b = blur(a), blur(b)
        variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
        contrast = (2 * (blur(a * b) - mean_a * mean_b) + c2) / (variances + c2)
        if scale == 4:
            contrast *= (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        value *= contrast.mean() ** weight
        if scale < 4:
            a, b = (x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2).mean((1, 3)) for x in (a, b))
    return value


def test_mse_and_psnr_by_hand():
    a = np.zeros((2, 2, 3), np.uint8)
    b = a.copy()
    b[0, 0] = (255, 0, 3)
    assert mse(a, b) == (255**2 + 9) / 12
    assert mse(b, a) == mse(a, b)  # no wrap-around of uint8
    assert psnr_db(65025 / 1000) == pytest.approx(30)
    assert mse(a, a) == 0 and psnr_db(0) is None


def test_mse_and_psnr_equal_scikit_image():
    a, b = pair(37, 53)
    assert mse(a, b) == pytest.approx(mean_squared_error(a, b), rel=1e-14)
    assert psnr_db(mse(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), rel=1e-12)


def test_pooled_psnr_is_that_of_one_long_image():
    (a, b), (c, d) = pair(40, 30), pair(80, 30, seed=1)
    d = (d // 32 * 32).astype(np.uint8)
    parts = [(mse(a, b), 40 * 30), (mse(c, d), 80 * 30)]
    whole = psnr_db(mse(np.concatenate([a, c]), np.concatenate([b, d])))
    assert psnr_pooled_db(parts) == pytest.approx(whole, rel=1e-12)
    assert psnr_pooled_db(parts[::-1]) == psnr_pooled_db(parts)
    assert whole != pytest.approx(sum(psnr_db(value) for value, _ in parts) / 2, abs=0.01)  # not the mean of dB
    assert psnr_pooled_db([(0.0, 10)]) is None
    with pytest.raises(ValueError, match="no image"):
        psnr_pooled_db([])


def test_ms_ssim_equals_the_paper():
    a, b = pair(176, 192)
    assert ms_ssim(a, b) == pytest.approx(np.mean([wang(a[..., c], b[..., c]) for c in range(3)]), abs=1e-5)


def theirs(a: np.ndarray, b: np.ndarray) -> float:
    """pytorch-msssim in float64, its window too."""
    from pytorch_msssim import ms_ssim

    window = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    tensors = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None].double() for x in (a, b))
    return ms_ssim(*tensors, data_range=255, win=(window / window.sum()).repeat(3, 1, 1, 1)).item()


@pytest.mark.parametrize("shape", [(171, 205), (176, 192), (161, 330)])  # odd sides get zeros at both ends
def test_ms_ssim_is_pytorch_msssims(shape):
    a, b = pair(*shape)
    assert ms_ssim(a, b) == pytest.approx(theirs(a, b), abs=1e-13)


@pytest.mark.parametrize("levels", [(250, 255), (255, 254), (255, 255), (1, 0), (128, 140), (0, 255)])
def test_ms_ssim_of_flat_images_is_never_above_one(levels):
    """In float32 the first is 1.0001: the variances of bright flat areas are rounding noise there."""
    a, b = (np.full((200, 170, 3), level, np.uint8) for level in levels)
    value = ms_ssim(a, b)
    assert value == pytest.approx(theirs(a, b), abs=1e-12) and value <= 1
    assert (value == 1) == (levels[0] == levels[1])
    assert (ms_ssim_db(value) is None) == (levels[0] == levels[1])


def test_ms_ssim_invariances():
    a, b = pair(192, 176)
    value = ms_ssim(a, b)
    assert 0.3 < value < 0.99
    assert ms_ssim(b, a) == pytest.approx(value, abs=1e-13)
    assert ms_ssim(a[::-1, ::-1, ::-1], b[::-1, ::-1, ::-1]) == pytest.approx(value, abs=1e-13)
    assert ms_ssim(a, a) == 1


def test_ms_ssim_of_a_small_side_is_none():
    assert ms_ssim(*pair(160, 300)) is None
    assert ms_ssim(*pair(300, 160)) is None
    assert ms_ssim(*pair(161, 161)) is not None


def test_ms_ssim_db():
    assert ms_ssim_db(0.99) == pytest.approx(20)
    assert ms_ssim_db(1.0) is None


def test_memory_does_not_grow_with_the_number_of_images():
    for size in (400, 500):
        ms_ssim(*pair(size, size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(24):
        ms_ssim(*pair(*((400, 500) if seed % 2 else (500, 400)), seed))
    # KiB; 24 images kept alive with their filtered copies would be over 200 MiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_refuses_other_images():
    a, b = pair(10, 10)
    for function in (mse, ms_ssim):
        with pytest.raises(ValueError, match="uint8"):
            function(a, b.astype(np.float32))
        with pytest.raises(ValueError, match="H x W x 3"):
            function(a[..., 0], b[..., 0])
        with pytest.raises(ValueError, match="differ in shape"):
            function(a, b[:5])


def test_every_metric_has_an_axis_and_a_direction():
    assert {"bpp", "psnr_db", "ms_ssim", "fid", "kid"} <= set(METRICS)
    for column, metric in METRICS.items():
        assert metric.column == column and metric.title
        assert ("(dB)" in metric.title) == column.endswith("_db")
        higher = metric.computed == "crop" or column in ("precision", "recall", "ssimulacra2")
        assert metric.direction == ("higher" if higher else "lower")
