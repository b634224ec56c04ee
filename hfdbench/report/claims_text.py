"""Claims and their verdicts as text, Markdown or JSON."""

from dataclasses import asdict

from hfdbench.analysis.claims import Verdict
from hfdbench.errors import UsageError
from hfdbench.report import text


def render(verdicts: list[Verdict], form: str = "table") -> str:
    """The verdicts as text.

    Parameters
    ----------
    verdicts : list of Verdict
        As `analysis.claims` gives them.
    form : {"table", "markdown", "json"}

    Raises
    ------
    UsageError
        For another form.
    """
    if form == "json":
        return text.to_json([asdict(verdict) for verdict in verdicts], indent=2) + "\n"
    notes = dict.fromkeys(note for verdict in verdicts for note in verdict.notes)
    if form == "markdown":
        head = "| | claim | verdict | numbers |\n| --- | --- | --- | --- |\n"
        rows = (
            f"| {v.number} | {v.claim} | **{v.verdict}** | {'<br>'.join(map(text.plain, v.numbers))} |\n"
            for v in verdicts
        )
        return head + "".join(rows) + "".join(f"\n{text.plain(note)}\n" for note in notes)
    if form != "table":
        raise UsageError(f"--format {form}: claims come as table, markdown or json")
    blocks = []
    for v in verdicts:
        blocks.append(f"({v.number}) {v.verdict.upper():<15} {v.claim}")
        blocks += [f"      {text.plain(line)}" for line in v.numbers]
    blocks += [f"note: {text.plain(note)}" for note in notes]
    return "\n".join(blocks) + "\n"
