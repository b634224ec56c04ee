"""The doctor runs no code that nobody asked it to run, and goes on whatever a card or package is like."""

from pathlib import Path

import pytest

from hfdbench.cards.schema import CodecCard
from hfdbench.checks import doctor
from hfdbench.checks.doctor import Diagnosis


@pytest.fixture
def trap(tmp_path, monkeypatch) -> Path:
    """A folder that one may have unpacked from anywhere: its card starts a program when it is built."""
    (tmp_path / "codecs").mkdir()
    options = f'options = {{ args = ["touch", "{tmp_path / "ran"}"] }}'
    (tmp_path / "codecs" / "x.toml").write_text(
        f'id = "x"\nkind = "classical"\nadapter = "subprocess:Popen"\n[[points]]\nid = "p"\n{options}\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*cards: Path) -> dict[str, Diagnosis]:
    """Findings on the codecs of the folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        every = doctor.find_cards(CodecCard, cards)
        patch.setattr(doctor, "find_cards", lambda kind, _: {"x": every["x"]} if kind is CodecCard else {})
        patch.setattr(doctor, "BY_NAME", {})
        return {finding.what: finding for finding in doctor.examine(None, None, cards)}


def test_cards_of_the_current_folder_are_not_built(trap):
    finding = found()["codec x"]
    assert finding.state.startswith("not here: not tried") and not finding.broken
    assert "--cards ." in finding.hint
    assert not (trap / "ran").exists()


def test_cards_that_are_named_are_built_in_the_sandbox(trap):
    assert found()["sandbox"].works == (doctor.find_level() != "process")
    finding = found(trap)["codec x"]
    assert finding.state.startswith("works")
    assert (trap / "ran").exists() == (doctor.find_level() == "process")  # the sandbox's own folders are read-only
