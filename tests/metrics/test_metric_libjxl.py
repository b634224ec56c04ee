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
    for name in ("ssimulacra2", "butteraugli"):
        with pytest.raises(Unavailable, match="no program") as caught:
            open_measure(name, Place())
        assert "libjxl" in caught.value.hint
        with pytest.raises(UsageError, match="no such file"):
            open_measure(name, Place(tmp_path / "nothing"))
    with pytest.raises(UsageError, match='did you mean "butteraugli"'):
        open_measure("buteraugli", Place())
