"""Claims and their verdicts as text, Markdown or JSON."""

import json
from dataclasses import asdict

from hfdbench.analysis.claims import Verdict
from hfdbench.errors import UsageError


def render(verdicts: list[Verdict], form: str = "table") -> str:
    """table: text; markdown; json."""
    if form == "json":
        return json.dumps([asdict(verdict) for verdict in verdicts], indent=2) + "\n"
    if form == "markdown":
        head = "| | claim | verdict | numbers |\n| --- | --- | --- | --- |\n"
        rows = (f"| {v.number} | {v.claim} | **{v.verdict}** | {'<br>'.join(v.numbers)} |\n" for v in verdicts)
        return head + "".join(rows)
    if form != "table":
        raise UsageError(f"--format {form}: claims come as table, markdown or json")
    blocks = []
    for v in verdicts:
        blocks.append(f"({v.number}) {v.verdict.upper():<15} {v.claim}")
        blocks += [f"      {line}" for line in v.numbers]
    return "\n".join(blocks) + "\n"
