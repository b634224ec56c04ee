"""SSIMULACRA 2 and Butteraugli, computed by libjxl's own programs; SSIMULACRA 2 also without, by `ssimulacra2`.

Conventions: images are uint8, H x W x 3, sRGB, of one shape, handed over losslessly (PPM). SSIMULACRA 2 has no unit: 100 is
identical, 90 indistinguishable, below 0 very bad; higher is better. Butteraugli is a distance in just noticeable
differences, lower is better, for a screen of 80 nits: `butteraugli` is its maximum over the image, `butteraugli_3norm`
what libjxl calls so, the mean of the map's generalised means of powers 3, 6 and 12. Both need 8 pixels a side; below
that they are None (`butteraugli_main` would say 0). Releases of libjxl differ in the third digit: `identity` holds the
program's sha256.
"""

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.digest import file_sha256
from hfdbench.files.temporary import temporary_folder
from hfdbench.metrics.image import ssimulacra2
from hfdbench.metrics.image.measure import Place

SIDE = 8  # pixels
TIMEOUT_S = 600
NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
HINT = (
    "install libjxl's development tools (Debian: libjxl-devtools, libjxl >= 0.8 for ssimulacra2) so that it is on PATH"
)


class _Program:
    """A program that compares two images. Subclasses: `program`, `columns`, `pattern` with one group per column."""

    program: str
    columns: tuple[str, ...]
    pattern: str
    remark = ""
    _path: Path | None

    def __init__(self, place: Place):
        name = self.columns[0]
        if place.weights is not None and not Path(place.weights).is_file():
            raise UsageError(f"{name}: {place.weights}: no such file; give the program {self.program}")
        found = place.weights or shutil.which(self.program)
        if found is None:
            raise Unavailable(f"there is no program {self.program}", HINT)
        self._path = Path(found).resolve()
        self.identity = f"{self.program} {file_sha256(self._path)[:12]}"

    def __call__(self, original: np.ndarray, decoded: np.ndarray) -> tuple[float | None, ...]:
        if original.shape != decoded.shape:
            raise ValueError(f"original and reconstruction differ in shape: {original.shape} and {decoded.shape}")
        if min(original.shape[:2]) < SIDE:
            return (None,) * len(self.columns)
        return self._ask(original, decoded)

    def _ask(self, original: np.ndarray, decoded: np.ndarray) -> tuple[float, ...]:
        with temporary_folder() as folder:
            paths = [folder / "original.ppm", folder / "decoded.ppm"]
            for path, image in zip(paths, (original, decoded), strict=True):
                height, width = image.shape[:2]
                path.write_bytes(b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(image).tobytes())
            return self._run(paths)

    def _run(self, paths: list[Path]) -> tuple[float, ...]:
        try:
            ran = subprocess.run([str(self._path), *paths], capture_output=True, text=True, timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{self.program}: {error}") from None
        found = re.fullmatch(self.pattern, ran.stdout.strip())
        values = tuple(map(float, found.groups())) if found else ()
        if ran.returncode or not values or not all(map(math.isfinite, values)):
            printed = " ".join((ran.stderr or ran.stdout).split())[-200:]
            raise Unavailable(f"{self.program} failed (exit code {ran.returncode}): {printed or 'no output'}")
        return values


class Ssimulacra2(_Program):
    """SSIMULACRA 2 (Sneyers 2022, cloudinary/ssimulacra2): by libjxl's program, or by our own sums where there is none."""

    program = "ssimulacra2"
    columns = ("ssimulacra2",)
    pattern = NUMBER

    def __init__(self, place: Place):
        if place.weights is None and shutil.which(self.program) is None:
            self._path = None
            self.identity = f"hfdbench.metrics.image.ssimulacra2 {ssimulacra2.VERSION}"
            self.remark = "SSIMULACRA 2 by hfdbench, without libjxl's program"
        else:
            super().__init__(place)

    def _ask(self, original: np.ndarray, decoded: np.ndarray) -> tuple[float, ...]:
        return (ssimulacra2.score(original, decoded),) if self._path is None else super()._ask(original, decoded)


class Butteraugli(_Program):
    """Butteraugli (Alakuijala et al. 2017, arXiv:1703.04416): the maximum and the 3-norm."""

    program = "butteraugli_main"
    columns = ("butteraugli", "butteraugli_3norm")
    pattern = rf"{NUMBER}\s+3-norm: {NUMBER}"
