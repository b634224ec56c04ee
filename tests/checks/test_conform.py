"""The conformance kit passes honest codecs and names what careless and cheating ones do."""

import subprocess
import sys
from pathlib import Path

import pytest

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.checks.conform import conform
from hfdbench.codecs.pool import find_seal
from hfdbench.errors import Unavailable, UsageError

HERE = Path(__file__).parents[1]


def findings(adapter: str, timeout_s: float = 60, **options) -> dict:
    """Findings by name for a codec of helpers_conform."""
    adapter = f"helpers_conform:{adapter}"
    card = CodecCard(id="made", kind="classical", adapter=adapter, points=[{"id": "p", "options": options}])
    found = list(conform(card, "p", timeout_s=timeout_s, memory_gib=0.25, megapixels=0.2))
    return {finding.name: finding for finding in found}


def failing(found: dict) -> set[str]:
    return {name for name, finding in found.items() if finding.verdict == "FAIL"}


def test_bundled_codec_passes():
    (card,) = choose(CodecCard, ["webp"])
    found = list(conform(card, "q35", megapixels=0.2))
    assert [str(finding) for finding in found if finding.verdict == "FAIL"] == []
    assert [finding.name for finding in found if finding.verdict == "skip"] == ["batch invariance"]
    assert len(found) == 15 and all(len(str(finding)) < 150 for finding in found)  # one screen


def test_honest_codec_passes():
    found = findings("Honest")
    assert failing(found) == set() and found["batch invariance"].verdict == "pass"


def test_side_file_in_own_folders_is_caught():
    """The codec takes them in turn: of these images the first lies in the working folder, the next at home, in temp."""
    found = findings("SideFile")
    for name in ("1x1", "sealed decode", "bound"):
        assert found[name].verdict == "FAIL", name
    assert "but not in a clean process" in found["sealed decode"].reason


def test_side_file_elsewhere_is_caught(tmp_path, monkeypatch):
    """Without a sandbox it decodes in a clean process, because the file is there still."""
    monkeypatch.setenv("HFDBENCH_SEAL", "process")
    found = findings("SideFile", folder=str(tmp_path))
    assert f"writes {tmp_path}" in found["side files"].reason and found["side files"].verdict == "FAIL"
    assert found["bound"].verdict == "FAIL" and "from elsewhere" in found["bound"].reason


def test_side_file_that_nobody_sees_is_caught_by_the_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("HFDBENCH_SEAL", "process")
    found = findings("ThroughAProgram", folder=str(tmp_path))
    assert found["side files"].verdict == "pass"
    assert found["bound"].verdict == "FAIL" and "from elsewhere" in found["bound"].reason


@pytest.mark.skipif(find_seal() != "sandbox", reason="neither namespaces nor Landlock on this machine")
def test_side_file_elsewhere_cannot_be_written_in_the_sandbox(tmp_path):
    found = findings("SideFile", folder=str(tmp_path))
    assert f"writes {tmp_path}" in found["side files"].reason and found["side files"].verdict == "FAIL"
    assert found["bound"].verdict == "FAIL" and "encode of mosaic" in found["bound"].reason
    assert not list(tmp_path.iterdir())


def test_state_in_the_module_is_caught():
    found = findings("InMemory")
    assert found["sealed decode"].verdict == "FAIL"
    assert "but not in a clean process" in found["sealed decode"].reason


@pytest.mark.parametrize(
    "faults",
    [
        {
            "counts": ("same stream", "another stream"),
            "tints": ("colour drift", "of 2 levels"),
            "mixes": ("batch invariance", "other pixels"),
            "hungry": ("memory", "peak of"),
            "leaks": ("truncated", "IndexError"),
        },
        {
            "draws": ("same pixels", "other pixels"),
            "crashes": ("truncated", "died"),
            "turns": ("odd sizes", "decodes to 97x1"),
        },
        {"fills": ("truncated", "decoded to a picture")},
        {"hangs": ("truncated", "stopped after 3 s")},
    ],
    ids=", ".join,
)
def test_carelessness_is_named(faults):
    found = findings("Careless", timeout_s=3, faults=list(faults))
    for name, told in faults.values():
        assert found[name].verdict == "FAIL" and told in found[name].reason, found[name]
    assert found["side files"].verdict == found["1x1"].verdict == "pass"


def test_what_is_told_and_is_no_failure():
    found = findings("Careless", faults=["seeded", "small"])
    assert found["seeds"].verdict == "info" and "moves a sample" in found["seeds"].reason
    assert found["1x1"].verdict == "skip" and "under 8 pixels" in found["1x1"].reason
    assert failing(found) == set()


def test_codec_that_is_not_here():
    absent = CodecCard(
        id="absent", kind="classical", adapter="helpers_codec:Absent", points=[{"id": "p", "options": {"program": "x"}}]
    )
    with pytest.raises(Unavailable, match="install x"):
        list(conform(absent, "p"))
    with pytest.raises(UsageError, match="do not fit"):
        findings("Honest", quality=3)


def test_the_verb(tmp_path):
    (tmp_path / "codecs").mkdir()
    (tmp_path / "codecs" / "cheat.toml").write_text(
        'id = "cheat"\nkind = "classical"\nadapter = "helpers_conform:InMemory"\npoints = [{ id = "p" }]\n'
    )
    (tmp_path / "helpers_conform.py").write_text((HERE / "helpers_conform.py").read_text())  # beside codecs/: found
    command = [sys.executable, "-c", "from hfdbench.cli import main; main()", "conform", "cheat", "--megapixels", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("cheat p on cpu\n") and "FAIL  sealed decode" in done.stdout
    assert len(done.stdout.splitlines()) == 16
