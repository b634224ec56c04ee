"""Pages that nobody writes by hand: tables from METRICS and the cards, and the Markdown files that stand elsewhere.

MkDocs calls these functions; a test calls `pages` too, so that a table in the site is the table in the code.
"""

import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the site is of this checkout, wherever MkDocs is installed

REPOSITORY_FILES = {
    "tables/results.md": "results/README.md",
    "tables/published.md": "results/published/README.md",
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}


def pages() -> dict[str, str]:
    """Markdown of every generated page by its address in the site."""
    made = {
        "tables/metrics.md": metrics(),
        "tables/codecs.md": codecs(),
        "tables/datasets.md": datasets(),
        "tables/commands.md": commands(),
        "tutorials/python.md": notebook("docs/notebooks/python.ipynb"),
    }
    return made | {page: moved(file, page) for page, file in REPOSITORY_FILES.items()}


def notebook(file: str) -> str:
    """The cells of a notebook as a page: its text, and its code in fences."""
    parts = []
    for cell in json.loads((ROOT / file).read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join([*parts, f"This page is the [notebook](../notebooks/{Path(file).name}), which CI runs."])


def moved(file: str, page: str) -> str:
    """A Markdown file of the repository as a page elsewhere: links between such files are kept, others become text."""
    place = {other: address for address, other in REPOSITORY_FILES.items()}

    def link(match: re.Match) -> str:
        text, target = match.groups()
        if re.match("https?:", target):
            return match[0]
        goal = os.path.relpath((ROOT / file).parent / target, ROOT)
        goal = place.get(goal) or (goal.removeprefix("docs/") if goal.startswith("docs/") else None)
        return f"[{text}]({os.path.relpath(goal, Path(page).parent)})" if goal else text

    return re.sub(r"\[([^\]]+)\]\(([^)#\s]+)\)", link, (ROOT / file).read_text("utf-8"))


def metrics() -> str:
    from hfdbench.metrics.registry import METRICS

    def bounds(low: float | None, high: float | None) -> str:
        return f"{'−∞' if low is None else f'{low:g}'} to {'∞' if high is None else f'{high:g}'}"

    rows = [
        (
            f"`{m.column}`",
            m.title,
            m.unit,
            bounds(*m.range),
            {"higher": "↑", "lower": "↓"}[m.direction],
            m.tolerance if m.tolerance is not None else "",
            m.reference,
            m.year or "",
            f"`{m.module}`",
        )
        for m in METRICS.values()
    ]
    head = ("column", "title", "unit", "range", "better", "gate's tolerance", "compared with", "year", "module")
    return (
        "# Metrics\n\nWritten from the table in `hfdbench/metrics/registry.py`, which schema, axes, intervals, gate and page "
        'derive from, too. How each is averaged: [results](results.md). "hand": a case worked out in the tests. The tolerance '
        "of the gate is a fraction of the baseline's value, that of PSNR is in dB.\n\n" + table(head, rows)
    )


def codecs() -> str:
    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import CodecCard

    cards = sorted(find_cards(CodecCard, ()).values(), key=lambda card: (card.kind, card.id))
    parts = ["# Codecs\n\nWritten from the cards in `codecs/`. `hfdbench doctor` says which work on a machine.\n"]
    head = ("id", "title", "kind", "points", "streams of", "paper", "tried")
    rows = []
    for c in cards:
        row = (f"[`{c.id}`](#{c.id})", c.title, c.kind, len(c.points), c.streams or "", linked(c.paper))
        rows.append((*row, "untried" if c.untried else ""))
    parts.append(table(head, rows))
    for card in cards:
        lines = [f"## {card.id}", card.settings.strip() or card.title]
        if card.python:
            lines.append(f"Runs in a Python of its own: {', '.join(f'`{name}`' for name in card.python)}.")
        weights = {w.name: w for point in card.points for w in point.weights if w.url is not None}
        if weights:
            files = ", ".join(f"[{name}]({w.url})" for name, w in weights.items())
            licences = ", ".join(dict.fromkeys(w.licence for w in weights.values()))
            lines.append(f"Weights ({licences}): {files}. `hfdbench fetch {card.id}` brings them.")
        if card.untried:
            lines.append(f"**Untried:** {card.untried.strip()}")
        lines.append("Points: " + ", ".join(f"`{point.id}`" for point in card.points) + ".")
        lines += [f"Left out{f' at {s.point}' if s.point else ''}: {s.reason}" for s in card.skip]
        parts.append("\n\n".join(lines))
    return "\n\n".join(parts)


def datasets() -> str:
    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import DatasetCard

    cards = sorted(find_cards(DatasetCard, ()).values(), key=lambda card: card.id)
    parts = ["# Datasets\n\nWritten from the cards in `datasets/`. `hfdbench fetch ID` brings one.\n"]
    head = ("id", "title", "images", "patches", "protocol", "licence")
    rows = [
        (f"[`{c.id}`](#{c.id})", c.title, c.count or "", f"{c.patches:,}" if c.patches else "", c.protocol, c.licence)
        for c in cards
    ]
    parts.append(table(head, rows))
    parts += [f"## {card.id}\n\n{card.note.strip() or card.title}" for card in cards]
    return "\n\n".join(parts)


def commands() -> str:
    from typer.main import get_command

    from hfdbench.cli.app import GROUPS, app

    verbs = get_command(app).commands
    parts = ["# Commands\n\nWritten from the code. `--help` after a command prints the same."]
    for group, names in GROUPS.items():
        parts.append(f"## {group}")
        for name in names:
            verb = verbs[name]
            rows = []
            for parameter in verb.params:
                if parameter.name == "help":
                    continue
                shown = [*parameter.opts, *parameter.secondary_opts]
                if parameter.param_type_name == "argument":
                    shown = [parameter.name.upper()]
                default = parameter.default
                plain = "" if default in (None, False) or callable(default) else str(getattr(default, "value", default))
                rows.append((", ".join(f"`{word}`" for word in shown), plain, getattr(parameter, "help", "") or ""))
            parts.append(f"### hfdbench {name}\n\n{verb.help}")
            parts.append(table(("argument or option", "default", "meaning"), rows))
    return "\n\n".join(parts)


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    cells = [head, ["---"] * len(head), *[[str(cell).replace("|", "\\|") for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def linked(paper: str) -> str:
    kind, _, number = paper.partition(":")
    places = {"arXiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return f"[{paper}]({places[kind]}{number})" if kind in places else paper


def on_files(files, config):
    from mkdocs.structure.files import File

    for address, markdown in pages().items():
        files.append(File.generated(config, address, content=markdown))
    return files
