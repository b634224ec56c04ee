"""Claims and their verdicts as text, Markdown or JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from hfdbench.analysis.claims import Verdict
from hfdbench.errors import UsageError
from hfdbench.report import text

TARGETS = "What HFD is to reach here (docs/models.md)"


def render(verdicts: list[Verdict], form: str = "table", targets: Sequence[Verdict] = ()) -> str:
    """The verdicts as text, the targets a section of their own at the end.

    Parameters
    ----------
    verdicts, targets : list of Verdict
        As `analysis.claims` and `analysis.targets` give them.
    form : {"table", "markdown", "json"}

    Raises
    ------
    UsageError
        For another form.
    """
    if form == "json":
        return text.to_json([asdict(verdict) for verdict in (*verdicts, *targets)], indent=2) + "\n"
    notes = dict.fromkeys(note for verdict in verdicts for note in verdict.notes)
    if form == "markdown":
        section = f"\n## {TARGETS}\n\n{_rows('target', targets)}" if targets else ""
        return _rows("claim", verdicts) + "".join(f"\n{text.plain(note)}\n" for note in notes) + section
    if form != "table":
        raise UsageError(f"--format {form}: claims come as table, markdown or json")
    blocks = [*_blocks(verdicts), *(f"note: {text.plain(note)}" for note in notes)]
    if targets:
        blocks += ["", TARGETS, *_blocks(targets)]
    return "\n".join(blocks) + "\n"


def _rows(what: str, verdicts: Sequence[Verdict]) -> str:
    head = f"| | {what} | verdict | numbers |\n| --- | --- | --- | --- |\n"
    return head + "".join(
        f"| {v.number} | {v.claim} | **{v.verdict}** | {'<br>'.join(map(text.plain, v.numbers))} |\n" for v in verdicts
    )


def _blocks(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for v in verdicts:
        yield f"({v.number}) {v.verdict.upper():<15} {v.claim}"
        yield from (f"      {text.plain(line)}" for line in v.numbers)
