"""Commands that show what was measured: report, show, list, compare, claims."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdbench.cli.options import (
    JSON,
    Cards,
    DataRoot,
    Device,
    DeviceOption,
    Form,
    Inception,
    OnlyCodecs,
    OnlyDatasets,
    Out,
    Thing,
    Workers,
)
from hfdbench.cli.terminal import Bar, chosen, complain, filtered, without_older
from hfdbench.datasets.ids import parse_id

if TYPE_CHECKING:
    pass


def report(
    figure: Annotated[list[str] | None, typer.Argument(help="Figure ids; all when none is given.")] = None,
    codec: OnlyCodecs = None,
    dataset: OnlyDatasets = None,
    form: Annotated[list[str] | None, typer.Option("--format", help="pdf, svg, png; all when none is given.")] = None,
    width: Annotated[str | None, typer.Option("--width", help="column or full, instead of the card's.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Lay published numbers over, hollow.")] = False,
    published_system: Annotated[
        list[str] | None, typer.Option("--published-system", help="Only these systems; implies --published.")
    ] = None,
    bands: Annotated[
        bool | None, typer.Option("--bands/--no-bands", help="95 % intervals [those that take seconds, not hours].")
    ] = None,
    focus: Annotated[
        str | None, typer.Option("--focus", help="Codecs in colour, by commas; the others are drawn in grey.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="A codec that a second panel holds the others against at equal rate."),
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder of the figures.")] = Path("reports/build"),
    out: Out = Path("results"),
    html: Annotated[bool, typer.Option("--html", help="Write the page instead: one file, pictures included.")] = False,
    quality: Annotated[int, typer.Option("--pictures-quality", help="Page: WebP quality of its pictures.")] = 80,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.1, help="Page: size it stays under, in MB.")] = 60.0,
    images: Annotated[int, typer.Option("--pictures", min=0, help="Page: pictures of the first N images.")] = 24,
    picture_points: Annotated[
        int | None, typer.Option("--picture-points", min=1, help="Page: pictures of N points per codec at most.")
    ] = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Draw figures of stored points, or the page (--html)."""
    from hfdbench.analysis import curves
    from hfdbench.cards.find import choose, find_cards
    from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard
    from hfdbench.report import figures
    from hfdbench.results import published as others
    from hfdbench.results.stored import Results

    every = find_cards(FigureCard, cards or ())
    wanted = choose(FigureCard, figure, cards or ()) if figure else list(every.values())
    if html:
        from hfdbench.report.page import page

        choice = page.Choice(quality, max_mb, images, picture_points, bands)
        with Bar() as bar:
            written = page.write_page(out, to, wanted, choice, codec or (), dataset or (), data_root, cards or (), bar)
        for note in written.notes:
            print(note, file=sys.stderr)
        print(written.path)
        return
    results = Results(out)
    without_older(results)
    points = filtered(results.points(), codec, dataset)
    titles = {card.id: card.title for card in find_cards(DatasetCard, cards or ()).values() if card.title}
    over = others.read(out) if published or published_system else None
    if over is not None:
        others.choose(over, published_system or ())  # refuse an unknown name before anything is drawn
    options = figures.Options(
        formats=tuple(form) if form else figures.FORMATS,
        dataset_titles={name: titled(name, titles) for name in set(points["dataset"])},
        known=find_cards(CodecCard, cards or ()),
        commit=results.commit(),
        width=width,
        intervals=None if bands is False else curves.stored_intervals(results, slow=bool(bands)),
        published=over,
        systems=tuple(published_system or ()),
        results=out,
        focus=tuple(name.strip() for name in focus.split(",")) if focus else (),
        reference=reference,
    )
    drawn = figures.draw_all(points, wanted, to, options)
    for error in drawn.refused:
        print(f"not drawn: {error}", file=sys.stderr)
    for reason in drawn.not_overlaid:
        print(f"no overlay: {reason}", file=sys.stderr)
    for warning in drawn.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for path in drawn.files:
        print(path)


def titled(dataset: str, titles: dict[str, str]) -> str:
    """Title of a dataset; a subset says that it is one."""
    found = parse_id(dataset)
    return found.title(titles.get(found.base, found.base))


def show(
    codec: OnlyCodecs = None,
    dataset: OnlyDatasets = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Column names, by commas; all: every column.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.table,
    json: JSON = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="With 95 % intervals, those that take seconds.")
    ] = False,
    older: Annotated[
        bool, typer.Option("--older", help="Older measurements of a point too, and when each began.")
    ] = False,
    out: Out = Path("results"),
) -> None:
    """Print stored points as a table, means over seeds. In LaTeX and Markdown the best value at each rate is bold."""
    from hfdbench.analysis.curves import stored_intervals
    from hfdbench.analysis.seeds import mean_of_seeds, with_spreads
    from hfdbench.report.tables import render_points, shown_columns
    from hfdbench.results.stored import Results

    results = Results(out)
    if not older:
        without_older(results)
    points = mean_of_seeds(filtered(results.points(older=older), codec, dataset))
    points = points.sort_values(["dataset", "codec", "bpp"])
    every = columns == "all" or (columns is None and (json or form in (Form.json, Form.csv)))
    chosen = None if every else [*with_spreads(shown_columns(points), points), *(["measured"] if older else [])]
    if columns not in (None, "all"):
        chosen = [name.strip() for name in columns.split(",")]
    found = stored_intervals(results) if intervals else None
    print(render_points(points, "json" if json else form.value, chosen, found), end="")


def list_(
    thing: Annotated[Thing, typer.Argument(help="What to list.")],
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.table,
    json: JSON = False,
    out: Out = Path("results"),
    cards: Cards = None,
) -> None:
    """List codecs, datasets, figures or published numbers."""
    import pandas as pd

    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard
    from hfdbench.report.tables import render

    if thing is Thing.codecs:
        found = find_cards(CodecCard, cards or ()).values()
        rows = [
            dict(codec=c.id, kind=c.kind, points=len(c.points), title=c.title, paper=c.paper)
            | dict(tried="untried" if c.untried else "")
            for c in found
        ]
    elif thing is Thing.datasets:
        found = find_cards(DatasetCard, cards or ()).values()
        rows = [dict(dataset=c.id, images=c.count, protocol=c.protocol, title=c.title) for c in found]
    elif thing is Thing.published:
        from hfdbench.results import published

        rows = published.summary(published.read(out))
    else:
        found = find_cards(FigureCard, cards or ()).values()
        rows = [dict(figure=c.id, x=c.x, y=c.y, title=c.title) for c in found]
    print(render(pd.DataFrame(rows), "json" if json else form.value), end="")


def compare(
    a: Annotated[str, typer.Argument(help="Codec id.")],
    b: Annotated[str, typer.Argument(help="Codec id it is compared with.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="psnr_db, ms_ssim, fid, kid, ... [psnr_db and fid].")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Id or folder:PATH; needed where both have several.")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Of the intervals, and of all verdicts together.")] = 0.95,
    draws: Annotated[int | None, typer.Option("--draws", hidden=True)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Out = Path("results"),
) -> None:
    """Compare two codecs at equal rate. Prints differences with intervals, verdicts and BD-rates."""
    from hfdbench.analysis.compare import compare_codecs
    from hfdbench.datasets.dataset import dataset_id
    from hfdbench.report import compare_text

    if draws is not None:
        print("--draws has no effect any more: intervals are computed without drawing", file=sys.stderr)
    name = dataset_id(dataset) if dataset else None
    result = compare_codecs(out, a, b, metrics=metric, dataset=name, level=level)
    for note in result.notes:
        print(note, file=sys.stderr)
    print(compare_text.to_json(result) if json else compare_text.text(result), end="")


def claims(
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset that the decoders were measured on.")] = "kodak",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Try claims 4 to 8 on the first N images alone.")
    ] = None,
    metric: Annotated[str, typer.Option("--metric", help="fid, or fd_mini where there is no Inception.")] = "fid",
    run: Annotated[bool, typer.Option("--run", help="Measure first what is missing: takes a while.")] = False,
    form: Annotated[Form, typer.Option("--format", help="table, markdown or json.")] = Form.table,
    out: Out = Path("results"),
    device: DeviceOption = Device.auto,
    workers: Workers = 1,
    inception: Inception = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Test the claims of HFD's paper, then our own targets. Prints numbers, intervals and verdicts."""
    from hfdbench.analysis import claims as trial
    from hfdbench.analysis.targets import targets
    from hfdbench.datasets.dataset import dataset_id
    from hfdbench.pipeline import run as pipeline
    from hfdbench.pipeline.claim_runs import requests
    from hfdbench.report import claims_text

    if run:
        known = dict(out=out, workers=workers, inception=inception, data_root=data_root, cards=tuple(cards or ()))
        with Bar() as progress:
            for request in requests(dataset, limit, device=chosen(device), **known):
                complain([pipeline.run(request, progress)])
    verdicts = trial.from_stored(out, dataset, limit, metric, data_root, cards or ())
    print(claims_text.render(verdicts, form.value, targets(out, dataset_id(dataset))), end="")
