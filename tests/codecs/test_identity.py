"""An identity changes when numbers could, and only then."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard, Point
from hfdbench.codecs import identity as identities
from hfdbench.codecs.identity import identity, key, processor
from hfdbench.codecs.protocol import blueprint, find_adapter
from hfdbench.errors import Unavailable, UsageError

SOURCE = '''
"""A codec."""
import zlib
import numpy
import minehelper  # beside it

class Codec:
    """Does nothing."""

    def encode(self, image):
        return zlib.compress(image * minehelper.scale)
'''


class Place:
    """A folder with a card, its adapter and a module that the adapter imports."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "codecs").mkdir()
        self.write(SOURCE)
        self.help("scale = 1\n")

    def write(self, source: str) -> None:
        self._write("minecodec.py", source)

    def help(self, source: str) -> None:
        self._write("minehelper.py", source)

    def _write(self, name: str, source: str) -> None:
        path = self.folder / name
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text(source)
        os.utime(path, ns=(before + 10**9,) * 2)  # writes may follow within one tick of the file system's clock

    def identity(self, adapter: str = "minecodec:Codec", /, **options) -> dict:
        return identity(self.card(adapter, **options), "a")

    def card(self, adapter: str = "minecodec:Codec", /, **options) -> CodecCard:
        source = self.folder / "codecs" / "mine.toml"
        points = (Point(id="a", options=options),)
        return CodecCard(id="mine", kind="classical", adapter=adapter, points=points, source=source)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def test_a_comment_changes_nothing(place):
    before = place.identity()
    place.write(
        "# A comment.\n" + SOURCE.replace("Does nothing.", "Still does nothing.").replace("A codec", "The codec")
    )
    place.help("\n\nscale = 1  # of a grey level\n")
    assert place.identity() == before


def test_code_changes_it(place):
    before = place.identity()
    place.write(SOURCE.replace("* minehelper", "+ minehelper"))
    after = place.identity()
    assert after["code"] != before["code"]


def test_a_helper_module_changes_it(place):
    """The adapter's own source is the same: its helper scales another way."""
    before = place.identity()
    place.help("scale = 4\n")
    assert place.identity() != before


def test_a_module_of_its_package_changes_it(tmp_path):
    place, package = Place(tmp_path), tmp_path / "packed"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "codec": "from .inner import tables\nclass C: ...",
        "other": "unused = 1",
    }.items():
        (package / f"{name}.py").write_text(text)
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "tables.py").write_text("T = 1")
    before = place.identity("packed.codec:C")
    (package / "other.py").write_text("unused = 2")
    assert place.identity("packed.codec:C") == before
    (package / "inner" / "tables.py").write_text("T = 22")
    os.utime(package / "inner" / "tables.py", ns=(5, 5))
    assert place.identity("packed.codec:C") != before


def test_a_declared_version_stands_for_the_code(place):
    declared = SOURCE.replace("Does nothing.", 'Does nothing."""\n    version = 3\n    """x')
    place.write(declared)
    before = place.identity()
    assert before["version"] == 3 and "code" not in before
    place.write(declared.replace("* minehelper", "+ minehelper"))
    assert place.identity() == before
    place.write(declared.replace("version = 3", "version: int = 4"))
    assert place.identity()["version"] == 4


def test_a_batch_is_declared_and_decides_no_key(place):
    place.write(SOURCE.replace("    def encode", "    version = 1\n\n    def encode"))
    before = place.identity()
    assert identities.batch(place.card()) == 1
    place.write(SOURCE.replace("    def encode", "    version = 1\n    batch = 8\n\n    def encode"))
    assert identities.batch(place.card()) == 8 and place.identity() == before
    place.write(SOURCE.replace("    def encode", "    batch = 0\n\n    def encode"))
    with pytest.raises(UsageError, match=r"Codec\.batch: must be a number from 1 to"):
        place.identity()


def test_libraries_are_those_that_are_imported(place, monkeypatch):
    import numpy

    before = place.identity()
    assert before["libraries"] == {"numpy": numpy.__version__}
    monkeypatch.setattr(identities, "version", lambda name: "999")
    assert place.identity()["libraries"] == {"numpy": "999"}


def test_another_version_of_a_library_of_pillow_changes_it(monkeypatch):
    from PIL import features

    (avif,) = choose(CodecCard, ["avif"])
    before = identity(avif, "q20")
    assert before["libraries"]["pillow:avif"] == features.version("avif")
    monkeypatch.setattr(features, "version", lambda name: "0.1")
    assert identity(avif, "q20") != before


def test_every_bundled_adapter_declares_its_version_and_libraries():
    import ast

    folder = Path(identities.__file__).parent
    seen = []
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_bytes()).body:
            decodes = isinstance(node, ast.ClassDef) and any(getattr(p, "name", "") == "decode" for p in node.body)
            if decodes and node.name not in ("Codec", "Peer"):  # the protocol, and a base class
                names = dict(identities._constants(node.body))
                assert isinstance(names["version"], int) and isinstance(names["libraries"], tuple), node.name
                seen.append(node.name)
    assert {"JPEG", "AVIF", "CompressAI", "HFD", "Command", "Mixed"} <= set(seen)


def test_programs_count_and_their_hints_do_not(tmp_path):
    program = tmp_path / "code"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    place = Place(tmp_path)
    ask = {"encode": ["{env:CODER}", "{input}"], "decode": [str(program), "{output}"], "env": {"CODER": str(program)}}
    adapter = "hfdbench.codecs.command:Command"
    before = place.identity(adapter, **ask)
    assert len(before["programs"]) == 2
    assert place.identity(adapter, **ask, hint="build it", timeout_s=5) == before
    program.write_text("#!/bin/sh\nexit 10\n")
    assert place.identity(adapter, **ask) != before
    program.unlink()
    with pytest.raises(Unavailable, match=r"is not here; build it"):
        place.identity(adapter, **ask, hint="build it")


def test_code_that_no_package_manager_installed_counts(tmp_path, place, monkeypatch):
    (tmp_path / "net" / "lib").mkdir(parents=True)
    (tmp_path / "net" / "lib" / "model.py").write_text("depth = 1")
    monkeypatch.setenv("NET", str(tmp_path / "net"))
    ask = {"encode": ["true"], "decode": ["true"], "env": {"PYTHONPATH": "{env:NET}"}}
    before = place.identity("hfdbench.codecs.command:Command", **ask)
    (tmp_path / "net" / "__pycache__").mkdir()
    (tmp_path / "net" / "__pycache__" / "model.pyc").write_bytes(b"compiled")
    (tmp_path / "net" / ".git").write_text("hidden")
    assert place.identity("hfdbench.codecs.command:Command", **ask) == before
    (tmp_path / "net" / "lib" / "model.py").write_text("depth = 22")
    assert place.identity("hfdbench.codecs.command:Command", **ask) != before
    by_name = place.identity(repository=str(tmp_path / "net"))["repositories"]
    assert by_name == place.identity("hfdbench.codecs.command:Command", **ask)["repositories"] != []


def test_a_mixture_depends_on_what_it_mixes(place):
    ask = {"low": {"step": 1}, "high": {"step": 2}, "share": 0.5}
    before = place.identity("hfdbench.codecs.mixed:Mixed", adapter="minecodec:Codec", **ask)
    place.help("scale = 4\n")
    assert place.identity("hfdbench.codecs.mixed:Mixed", adapter="minecodec:Codec", **ask) != before


def test_old_names_of_adapters_resolve_with_a_warning(place):
    old = "hfdbench.adapters.pillow:JPEG"
    new = place.identity("hfdbench.codecs.pillow:JPEG", quality=50)
    with pytest.warns(DeprecationWarning, match=r"hfdbench\.codecs\.pillow:JPEG"):
        assert place.identity(old, quality=50) == new
    card = CodecCard(id="old", kind="classical", adapter=old, points=(Point(id="a"),))
    with pytest.warns(DeprecationWarning, match="next release"):
        assert find_adapter(blueprint(card, "a")).__name__ == "JPEG"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        place.identity("hfdbench.codecs.pillow:JPEG", quality=50)


def test_no_adapter_is_imported(place):
    place.write("import sys\nsys.exit('imported')\nclass Codec: ...")
    assert place.identity()["code"]
    script = "import sys; from hfdbench.codecs import identity; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_what_cannot_be_found_is_named(place):
    with pytest.raises(UsageError, match=r'no module "nowhere"'):
        place.identity("nowhere:Codec")
    place.write("class Codec:\n  x = (\n")
    with pytest.raises(UsageError, match=r"minecodec\.py:2: .*fix the adapter's source"):
        place.identity()


def test_keys_are_stable():
    """Stored results depend on this value."""
    assert key("streams", {"b": 1, "a": [2.5, None]}, "x") == "2e1398d4c8863500"
    assert processor().split()[0] and len(processor().split()) >= 2
