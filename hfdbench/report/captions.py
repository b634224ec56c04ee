"""The text that belongs under a figure: what is shown, by which rules, from what, what was left out; Markdown and LaTeX.

Conventions: a caption is paragraphs; the first one is "**title on dataset.** note". Nothing here measures anything.
"""

from hfdbench import __version__
from hfdbench.analysis.curves import FigureData
from hfdbench.analysis.ledger import LedgerData
from hfdbench.report.text import tex


def source(commit: str) -> str:
    """Which hfdbench made it, and of which commit its data are."""
    return f"hfdbench {__version__}" + (f", data of commit {commit[:12]}" if commit else "")


def sentences(data: FigureData | LedgerData) -> list[str]:
    """All that must be said of a figure but title and note."""
    said = [f"{'; '.join(data.facts)}."]
    if isinstance(data, FigureData):
        if any(any(curve.band) for curve in data.curves):
            said.append("Bands: 95 % intervals, bootstrap over images.")
        if data.ties:
            said.append("Grey lines join decoders of the same streams.")
        if data.overlays:
            origins: dict[str, list[str]] = {}
            for overlay in data.overlays:
                origins.setdefault(overlay.origin, []).append(overlay.label)
            listed = "; ".join(f"{', '.join(labels)} ({origin})" for origin, labels in origins.items())
            said.append(f"Hollow: published numbers on the same dataset by the same protocol: {listed}.")
    return said + [f"Left out: {'; '.join(data.notes)}."] * bool(data.notes)


def markdown(data: FigureData | LedgerData, note: str, commit: str) -> str:
    lines = [f"**{data.title or data.id} on {data.dataset_title}.** {note}".strip(), *sentences(data)]
    return "\n".join([*lines, f"{source(commit)}.", ""])


def latex(data: FigureData | LedgerData, note: str, commit: str, stem: str) -> str:
    title = rf"\textbf{{{tex(f'{data.title or data.id} on {data.dataset_title}')}.}} {tex(note)}".strip()
    body = "\n  ".join([title, *map(tex, [*sentences(data), f"{source(commit)}."])])
    return f"% \\includegraphics{{{stem}.pdf}}\n\\caption{{%\n  {body}}}\n\\label{{fig:{stem}}}\n"
