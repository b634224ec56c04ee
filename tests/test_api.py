"""`import hfdbench`: light, typed, and the numbers of the command line; the notebook of the documentation runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hfdbench
from hfdbench.errors import StreamError, UsageError

pytestmark = pytest.mark.usefixtures("offline")
NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebooks" / "python.ipynb"


def test_importing_costs_nothing_heavy():
    code = (
        "import sys, hfdbench; dir(hfdbench); print(sorted({'torch', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_its_names():
    from hfdbench import api

    for name in hfdbench.__all__:
        assert name in dir(hfdbench) and getattr(hfdbench, name) is not None
    assert hfdbench.run is api.run and set(hfdbench.__all__) - {"__version__"} <= set(api.__all__)
    assert all(getattr(api, name).__doc__ for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ran'"):
        hfdbench.ran  # noqa: B018


def test_a_codec():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    jpeg = hfdbench.codec("jpeg", "q80")
    stream = jpeg.encode(image[:, ::-1])  # of any strides
    assert stream[:2] == b"\xff\xd8" and jpeg.decode(stream).shape == image.shape
    assert np.array_equal(jpeg.decode(stream), jpeg.decode(stream, seed=1))
    with pytest.raises(UsageError, match=r"not float64 \(40, 60, 3\)"):
        jpeg.encode(image / 255)
    with pytest.raises(UsageError, match="not list"):
        jpeg.encode([[1, 2, 3]])  # pyright: ignore
    with pytest.raises(StreamError):
        jpeg.decode(b"no stream")
    with pytest.raises(UsageError, match='did you mean "jpeg"'):
        hfdbench.codec("jpg", "q80")
    with pytest.raises(UsageError, match="point of jpeg"):
        hfdbench.codec("jpeg", "q81")


def test_a_decoder_of_anothers_streams():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    base, grain = hfdbench.codec("elic-mse", "q1"), hfdbench.codec("elic-grain", "q1")
    stream = grain.encode(image)
    assert stream == base.encode(image)
    assert not np.array_equal(grain.decode(stream, seed=1), grain.decode(stream, seed=2))
    assert np.array_equal(base.decode(stream, seed=1), base.decode(stream, seed=2))


def test_results_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        hfdbench.load_results(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no points yet"):
        hfdbench.load_results(tmp_path).points()


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert len(names["summary"].points) == 4 and names["summary"].exit_code == 0
    assert set(names["table"]["codec"]) == {"jpeg", "webp"} and names["table"]["psnr_db"].between(20, 50).all()
    assert names["found"].images == 2 and names["found"].values["psnr_db"].value > 25
    assert 25 < names["psnr_db"] < 45 and names["stream"][:2] == b"\xff\xd8"
