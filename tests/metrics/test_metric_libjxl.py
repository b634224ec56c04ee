"""SSIMULACRA 2 and Butteraugli against what libjxl's programs say on their own, and programs that misbehave."""

import io
import shutil
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfdbench.errors import Unavailable, UsageError
from hfdbench.metrics.image import ssimulacra2
from hfdbench.metrics.image.libjxl import Butteraugli, Ssimulacra2
from hfdbench.metrics.image.measure import Place, open_measure

IDENTICAL = {Ssimulacra2: (100.0,), Butteraugli: (0.0, 0.0)}
BETTER = {Ssimulacra2: 1, Butteraugli: -1}


@pytest.fixture(params=[Ssimulacra2, Butteraugli], ids=lambda kind: kind.program)
def kind(request):
    if shutil.which(request.param.program) is None:
        pytest.skip(f"there is no program {request.param.program}")
    return request.param


def photograph(height: int = 64, width: int = 96) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 60 * np.sin(x / 9 + c) * np.cos(y / 7 + c) + 30 * ((x // 8 + y // 8) % 2) for c in range(3)]
    return np.stack(waves, axis=2).round().clip(0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def test_values_are_those_the_program_prints_for_png_files(kind, tmp_path):
    original = photograph()
    decoded = jpeg(original, 30)
    for name, image in (("a.png", original), ("b.png", decoded)):
        Image.fromarray(image).save(tmp_path / name)
    said = subprocess.run([kind.program, "a.png", "b.png"], cwd=tmp_path, capture_output=True, text=True, check=True)
    numbers = [float(word) for word in said.stdout.split() if word[0].isdigit() and not word.startswith("3-norm")]
    assert list(kind(Place())(original, decoded)) == numbers


def test_order_and_identity(kind):
    original, measure = photograph(), kind(Place())
    assert measure(original, original) == IDENTICAL[kind]
    good, bad = (measure(original, jpeg(original, quality))[0] for quality in (90, 20))
    assert (good - bad) * BETTER[kind] > 0
    assert measure.identity.startswith(kind.program) and len(measure.columns) == len(IDENTICAL[kind])


def test_below_8_pixels_there_is_no_value(kind):
    measure = kind(Place())
    assert measure(photograph(7, 20), photograph(7, 20)) == (None,) * len(measure.columns)
    assert measure(photograph(8, 8), photograph(8, 8)) == IDENTICAL[kind]


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 12.5 apples", "12.5 apples"),
        ("echo nan", "nan"),
        ("echo 50; echo no memory >&2; exit 3", "no memory"),
        ("", "no output"),
    ],
)
def test_a_program_that_fails_is_told_and_gives_no_number(tmp_path, script, told):
    measure = open_measure("ssimulacra2", Place(program(tmp_path / "own", script)))
    with pytest.raises(Unavailable, match=told):
        measure(photograph(), photograph())


def test_absent_programs_and_wrong_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no program") as caught:
        open_measure("butteraugli", Place())
    assert "libjxl" in caught.value.hint
    measure = open_measure("ssimulacra2", Place())  # has a substitute
    assert "ssimulacra2 1" in measure.identity and "without libjxl's program" in measure.remark
    assert measure(photograph(), photograph()) == (100,) and measure(photograph(7), photograph(7)) == (None,)
    assert measure(photograph(), jpeg(photograph(), 20)) == (ssimulacra2.score(photograph(), jpeg(photograph(), 20)),)
    for name in ("ssimulacra2", "butteraugli"):
        with pytest.raises(UsageError, match="no such file"):
            open_measure(name, Place(tmp_path / "nothing"))
    with pytest.raises(UsageError, match='did you mean "butteraugli"'):
        open_measure("buteraugli", Place())


# ---- our own sums against what libjxl's program printed for such pictures (captured by imazen/ssimulacra2, 2026-01-04)


def flat(level: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), level, np.uint8)


def ramp(side: int = 64) -> np.ndarray:
    row = np.arange(side) * 255 // (side - 1)
    return np.broadcast_to(row[None, :, None], (side, side, 3)).astype(np.uint8)


def noise(seed: int, side: int = 64) -> np.ndarray:
    """Of the linear congruential generator of Knuth's MMIX."""
    state, values = seed, []
    for _ in range(3 * side * side):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append(state >> 33 & 255)
    return np.array(values, np.uint8).reshape(side, side, 3)


def box(image: np.ndarray) -> np.ndarray:
    """Means of 8 x 8 pixels, four before and three after each, rounded down; borders repeated."""
    padded = np.pad(image, ((4, 3), (4, 3), (0, 0)), "edge").astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 8), (0, 1))
    return (windows.sum((-2, -1)) // 64).astype(np.uint8)


def sharpened(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), "edge").astype(int)
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.clip(5 * padded[1:-1, 1:-1] - around, 0, 255).astype(np.uint8)


def edge(side: int = 64) -> np.ndarray:
    return np.repeat(np.repeat(np.array([0, 255], np.uint8), side // 2)[None, :, None], side, 0).repeat(3, 2)


PRINTED = {
    "noise, flat": (noise(42), flat(128), -47.33572558, 0.01),
    "noise, sharpened": (noise(999), sharpened(noise(999)), -5.81017556, 0.01),
    "gradient, flat": (ramp(), flat(128), -64.56872148, 0.01),
    "edge, blurred": (edge(), box(edge()), 24.27333552, 0.1),
    "gradient, blurred": (ramp(), box(ramp()), 94.34090315, 0.5),
    "one level": (flat(128), flat(129), 97.98672126, 2),
    "twenty levels": (flat(128), flat(148), 56.05855584, 0.5),
    "fifty levels": (flat(128, 256), flat(178, 256), -0.39085784, 0.5),
    "three scales": (flat(128, 32), flat(178, 32), 85.01409588, 0.5),
}


@pytest.mark.parametrize("name", PRINTED)
def test_our_sums_are_those_that_the_program_printed(name):
    original, decoded, printed, tolerance = PRINTED[name]
    assert ssimulacra2.score(original, decoded) == pytest.approx(printed, abs=tolerance)


def test_our_sums_of_an_odd_size():
    original = photograph(67, 93)
    scores = [ssimulacra2.score(original, jpeg(original, quality)) for quality in (95, 60, 20)]
    assert 100 > scores[0] > scores[1] > scores[2] and ssimulacra2.score(original, original) == 100


@pytest.mark.skipif(shutil.which("ssimulacra2") is None, reason="there is no program ssimulacra2")
def test_our_sums_beside_the_program():
    original = photograph()
    for quality in (90, 50, 20):
        (theirs,) = Ssimulacra2(Place())(original, jpeg(original, quality))
        assert ssimulacra2.score(original, jpeg(original, quality)) == pytest.approx(theirs, abs=0.5)
