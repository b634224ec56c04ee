"""Codecs with a Python of their own: what they see, what they are called, and what is said when it cannot be made."""

import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard, Point
from hfdbench.codecs import environments, sandbox
from hfdbench.codecs.fetch import fetch
from hfdbench.codecs.identity import identity, provide
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import Unavailable
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.results.parquet import read_metadata

OFFLINE = re.compile(r"connection|resolution|name or service|fetch|timed? ?out|No matching distribution", re.IGNORECASE)
ADAPTER = """
import importlib.metadata, importlib.util, io, os, sys
import numpy as np, PIL
from PIL import Image

class PNG:
    def __init__(self, pillow):
        assert PIL.__version__ == pillow, PIL.__version__
        seen = [path for path in {ours!r} if os.path.isdir(path) and os.listdir(path) not in ([], ["hfdbench"])]
        assert not seen, seen
        assert importlib.util.find_spec("pydantic") is None
        assert importlib.util.find_spec("hfdbench").origin.startswith(os.environ["HFDBENCH_WORKER"])

    def encode(self, image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    def decode(self, stream, *, seed):
        return np.array(Image.open(io.BytesIO(stream)))
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder for the environments alone: what pip and uv have downloaded before is used."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    for name, folder in (("PIP_CACHE_DIR", "pip"), ("UV_CACHE_DIR", "uv")):
        monkeypatch.setenv(name, os.environ.get(name) or str(kept / folder))
    monkeypatch.setenv("PIP_NO_COMPILE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache" / "hfdbench").mkdir(parents=True)
    return tmp_path / "cache" / "hfdbench"


def card(*requirements: str, **more) -> CodecCard:
    return CodecCard(
        id="own", kind="classical", adapter="theirs:PNG", points=(Point(id="a"),), python=requirements, **more
    )


def test_the_worker_needs_the_standard_library_alone(tmp_path):
    import hfdbench

    (tmp_path / "hfdbench").symlink_to(Path(hfdbench.__file__).parent)
    script = (
        "import sys, hfdbench.codecs.worker, hfdbench.codecs.protocol as p\n"
        "p.build(p.Blueprint('c', 'p', 'card', 'json:JSONDecoder', {}))\n"
        "print({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'hfdbench', '__main__'})"
    )
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-S", "-P", "-c", script], env=variables, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_python_is_named_by_its_requirements(cache):
    named = environments._folder
    assert named(["a==1", "b"]) == named(["b", "a==1"]) != named(["a==2", "b"])
    assert named(["a"]).is_relative_to(cache)
    assert environments._with_numpy(["torch==2.0.1", "NumPy<2"]) == ["torch==2.0.1", "NumPy<2"]
    assert environments._with_numpy(["numpydoc"]) == ["numpydoc", "numpy"]


def test_what_cannot_be_made_says_why_and_is_not_used(cache, monkeypatch, capsys):
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    own = card("hfdbench-has-no-such-package==1")
    with pytest.raises(Unavailable, match=r"own: its Python was not made yet; hfdbench fetch own"):
        identity(own, "a")
    with pytest.raises(Unavailable) as caught:
        provide(own, "a")
    assert re.search(r"its Python cannot be made: \S+ ended with code [12]:\n", caught.value.reason)
    assert "hfdbench-has-no-such-package" in caught.value.reason
    log = Path(re.search(r"the whole output is in (\S+\.log);", caught.value.hint)[1])
    assert "hfdbench-has-no-such-package" in log.read_text()
    assert "own: making its Python: hfdbench-has-no-such-package==1" in capsys.readouterr().err
    assert environments.find(own.python) is None and not environments._folder(own.python).exists()
    with pytest.raises(Unavailable, match="Python of its own"):
        load_codec(own, "a")


def test_nothing_is_installed_for_a_codec_that_cannot_work_anyhow(cache, monkeypatch):
    monkeypatch.delenv("HFDBENCH_TCM", raising=False)
    with pytest.raises(Unavailable, match=r"tcm: the environment variable HFDBENCH_TCM is not set; git clone "):
        provide(find_cards(CodecCard)["tcm"], "l0.05")
    assert not (cache / "environments").exists()


def test_nothing_is_fetched_for_a_codec_that_cannot_work_anyhow(cache, tmp_path, monkeypatch):
    named = [card for card in find_cards(CodecCard).values() if card.python and "{env:" in str(card.points)]
    assert len(named) > 8
    for name in (name for card in named for name in re.findall(r"{env:(\w+)}", str(card.points))):
        monkeypatch.delenv(name, raising=False)
    for card in named:
        with pytest.raises(
            Unavailable, match=rf"{card.id}: the environment variable HFDBENCH_\w+ is not set; git clone "
        ):
            fetch(card, ["MIT"])
    for name in ("HFDBENCH_TCM", "HFDBENCH_TCM_WEIGHTS"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(Unavailable, match=r"tcm: \S+0\.0025\.pth\.tar: no such file or folder; git clone "):
        fetch(find_cards(CodecCard)["tcm"])
    (tmp_path / "0.05.pth.tar").touch()  # one point is enough
    monkeypatch.setattr(environments, "make", lambda *_: environments.Environment(tmp_path))
    assert fetch(find_cards(CodecCard)["tcm"]).packages == 0
    assert not (cache / "environments").exists()


def wheel(folder: Path, name: str, version: str) -> Path:
    """A package of nothing."""
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_an_interrupted_one_is_made_anew(tool, cache, tmp_path, monkeypatch):
    """Whatever a killed process left there."""
    if tool == "pip":
        monkeypatch.setattr(environments.shutil, "which", lambda name: None)
    elif environments.shutil.which("uv") is None:
        pytest.skip("uv is not here")
    monkeypatch.setattr(environments, "_with_numpy", list)  # which may be a download
    asked = [f"tiny @ {wheel(tmp_path, 'tiny', '1.5').as_uri()}"]
    folder = environments._folder(asked)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "left").write_text("")
    assert environments.find(asked) is None
    made = environments.make("own", asked)
    assert made == environments.find(asked) and not (folder / "left").exists()
    assert [re.sub("@.*", "", package) for package in made.packages] == ["tiny==1.5"]
    before = made.digest
    (made.site_packages / "tiny-1.5.dist-info").rename(made.site_packages / "tiny-1.6.dist-info")
    metadata = made.site_packages / "tiny-1.6.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.5", "1.6"))
    assert made.digest != before, "what was installed there since counts"


@pytest.mark.packages
def test_two_pythons_and_ours_in_one_run(cache, tmp_path, monkeypatch):
    """Each codec sees its own packages, none of ours, under a key of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(ADAPTER.replace("{ours!r}", repr(sandbox.installed_packages())))
    (tmp_path / "codecs").mkdir()
    versions = {"old": ("11.3.0", "1.26.4"), "new": ("12.0.0", "2.2.6")}
    for name, (pillow, numpy) in versions.items():
        (tmp_path / "codecs" / f"{name}.toml").write_text(
            textwrap.dedent(f"""
            id = "{name}"
            kind = "classical"
            adapter = "theirs:PNG"
            python = ["pillow=={pillow}", "numpy=={numpy}"]
            points = [{{ id = "a", options = {{ pillow = "{pillow}" }} }}]
            """)
        )
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(image).save(pictures / "a.png")
    cards = find_cards(CodecCard)
    try:
        for name in versions:
            provide(cards[name], "a")
    except Unavailable as error:
        if OFFLINE.search(str(error)):
            pytest.skip(f"no package registry: {error.reason[-200:]}")
        raise
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("https_proxy", "HTTPS_PROXY", "HFDBENCH_INCEPTION", "HFDBENCH_DATA"):  # no Inception from anywhere
        monkeypatch.setenv(name, "http://127.0.0.1:9" if "proxy" in name.lower() else "")
    request = Request(
        codecs=(cards["old"], cards["new"], cards["jpeg"]),
        datasets=(f"folder:{pictures}",),
        points=("a", "q50"),
        out=tmp_path / "results",
    )
    summary = run(request)
    assert (len(summary.done), summary.skipped, summary.failed) == (3, (), ())
    keys = set()
    for name, (pillow, numpy) in versions.items():
        [path] = (tmp_path / "results" / "points").glob(f"{name}-a-*.parquet")
        keys.add(read_metadata(path)["stream_key"])
        assert read_metadata(path)["packages"] == [f"numpy=={numpy}", f"pillow=={pillow}"]
    assert len(keys) == 2 and run(request).existing == summary.done
