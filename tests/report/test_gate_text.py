"""What the gate writes: Markdown, JUnit XML that parses, annotations that cannot be broken out of."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers_results import edited, write_codec

from hfdbench.analysis import gate
from hfdbench.cards.find import choose
from hfdbench.cards.schema import GateCard
from hfdbench.report import gate_text

CARD = choose(GateCard, ["default"])[0]


def made(folder: Path, codec: str = "made", **changes) -> Path:
    write_codec(folder, codec, **changes)
    edited(folder, "points", lambda rows, meta: (rows.assign(fid_id="fid256-48p-tf1-123456780000-f32-00000000"), meta))
    return folder


@pytest.fixture
def refused(tmp_path) -> gate.GateReport:
    """One metric worse, one point that cannot be compared."""
    gate.accept(made(tmp_path / "a"), tmp_path / "baseline")
    report = gate.check(made(tmp_path / "b", bpps=(0.11, 0.2, 0.4), psnr_gain=-1.0), tmp_path / "baseline", CARD)
    assert report.exit_code == 1 and len(report.refused) == 1
    return report


def test_summary_names_what_is_worse_and_the_worst_images(refused):
    text = gate_text.markdown(refused)
    worst = refused.worse[0]
    row = next(line for line in text.splitlines() if line.startswith(f"| {worst.label} |"))
    assert row.count("|") == 8 and all(name in row for name, _ in worst.worst)
    assert "**failed**" in text and "made-q4-made: the run has no such point" in text


def test_junit(refused):
    suite = ElementTree.fromstring(gate_text.junit(refused))
    assert int(suite.get("failures")) == len(refused.worse) and int(suite.get("errors")) == 1
    assert int(suite.get("tests")) == len(refused.changes) + 1
    assert "worst images" in suite.find("testcase/failure").text


def test_annotations_escape_what_would_end_them(refused):
    errors = [line for line in gate_text.annotations(refused) if line.startswith("::error title=made-q")]
    assert len(errors) == len(refused.worse) + 1
    strange = replace(refused, refused=("a,b: 5 %\nof it",))
    assert "::error title=a%2Cb::5 %25%0Aof it" in gate_text.annotations(strange)
