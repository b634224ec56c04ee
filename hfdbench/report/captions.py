"""The text that belongs under a figure: what is shown, by which rules, from what, what was left out; Markdown and LaTeX.

Conventions: a caption is paragraphs; the first one is "**title on dataset.** note". Nothing here measures anything.
"""

from collections.abc import Sequence

from hfdbench import __version__
from hfdbench.analysis.curves import FigureData
from hfdbench.analysis.ledger import LedgerData
from hfdbench.report import text


def source(commit: str) -> str:
    """Which hfdbench made it, and of which commit its data are."""
    return f"hfdbench {__version__}" + (f", data of commit {commit[:12]}" if commit else "")


def sentences(data: FigureData | LedgerData, further: Sequence[str] = ()) -> list[str]:
    """All that a reader must know of a figure, but title and note."""
    found = [f"{'; '.join(data.facts)}."]
    if further:
        found.append(f"Below, over the same rates: {'; '.join(further)}.")
    if isinstance(data, FigureData):
        if any(any(curve.band) for curve in data.curves):
            found.append("Bands: 95 % intervals, bootstrap over images.")
        if data.ties:
            found.append("Grey lines join decoders of the same streams.")
        if data.arrows:
            found.append("Arrows lead from a codec to what decoders make of its streams.")
        if data.overlays:
            origins: dict[str, list[str]] = {}
            for overlay in data.overlays:
                origins.setdefault(overlay.origin, []).append(overlay.label)
            listed = "; ".join(f"{', '.join(labels)} ({origin})" for origin, labels in origins.items())
            found.append(f"Hollow, grey: published numbers on the same dataset by the same protocol: {listed}.")
    return found + [f"Left out: {'; '.join(data.notes)}."] * bool(data.notes)


def markdown(data: FigureData | LedgerData, note: str, commit: str, further: Sequence[str] = ()) -> str:
    """The caption as paragraphs of Markdown. `note`: a sentence of the card; `commit`: of the data; `further`: axes of the
    panels below."""
    title = f"**{text.markdown(f'{data.title or data.id} on {data.dataset_title}')}.** {text.markdown(note)}".strip()
    return "\n".join([title, *map(text.markdown, sentences(data, further)), f"{text.markdown(source(commit))}.", ""])


def latex(data: FigureData | LedgerData, note: str, commit: str, stem: str, further: Sequence[str] = ()) -> str:
    """The caption as LaTeX; `stem`: of the figure's file, and its label."""
    title = rf"\textbf{{{text.tex(f'{data.title or data.id} on {data.dataset_title}')}.}} {text.tex(note)}".strip()
    body = "\n  ".join([title, *map(text.tex, [*sentences(data, further), f"{source(commit)}."])])
    return f"% \\includegraphics{{{stem}.pdf}}\n\\caption{{%\n  {body}}}\n\\label{{fig:{stem}}}\n"
