"""The verbs. Imports nothing heavy: every command imports what it needs.

stdout is the result, stderr the journey. Exit codes: 0 done; 1 something failed and the rest was kept; 2 bad request.
"""

import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdbench import __version__
from hfdbench.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from hfdbench.pipeline.plan import Request
    from hfdbench.pipeline.run import Summary

app = typer.Typer(
    help="Rate-distortion-realism benchmarks of image codecs.\n\n"
    "A codec compresses, a dataset is what it is tried on, a report shows the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Form(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"


class Thing(StrEnum):
    codecs = "codecs"
    datasets = "datasets"
    figures = "figures"
    published = "published"


class Exchange(StrEnum):
    codec_compare = "codec-compare"
    compressai = "compressai"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Cards = Annotated[
    list[Path] | None, typer.Option("--cards", help="A further folder with codecs/, datasets/ or reports/.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder of results.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of datasets [HFDBENCH_DATA, else the user cache].")
]
Inception = Annotated[Path | None, typer.Option("--inception", help="Inception weights for FID (.pth).")]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Measure lpips, dists, ssimulacra2 or butteraugli too; may be given several times."),
]
Weights = Annotated[
    list[str] | None, typer.Option("--weights", help="METRIC=PATH: the file of weights (or program) of a --metric.")
]
Features = Annotated[
    list[str] | None,
    typer.Option("--feature", help="dinov2 or clip: a further Fréchet distance; NAME=FILE gives its weights."),
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where networks run; auto takes a GPU when there is one.")
]
Workers = Annotated[int, typer.Option("--workers", help="Images coded at once, each in processes of its own.")]
JSON = Annotated[bool, typer.Option("--json", help="Same as --format json.")]


def main() -> None:
    """Entry point: errors that a user can mend become one line on stderr and exit code 2."""
    warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # CompressAI's business, not the user's
    try:
        app()
    except (UsageError, Unavailable) as error:
        print(f"hfdbench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("hfdbench: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our stdout has gone, as head does
        sys.stderr.close()
        sys.exit(0)


def version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


@app.command()
def run(
    codec: Annotated[list[str], typer.Option("--codec", help="Codec id; may be given several times.")],
    dataset: Annotated[
        list[str], typer.Option("--dataset", help="Dataset id or folder:PATH; may be given several times.")
    ],
    point: Annotated[list[str] | None, typer.Option("--point", help="Only these points.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N images, as a set of its own.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of decoders that sample.")] = 0,
    out: Out = Path("results"),
    device: DeviceOption = Device.auto,
    workers: Workers = 1,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="Seconds that one image may take.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    inception: Inception = None,
    feature: Features = None,
    metric: Metrics = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Encode, decode, measure: what is measured already is not measured again."""
    from hfdbench.cards.schema import CodecCard, choose
    from hfdbench.pipeline import run as pipeline
    from hfdbench.pipeline.plan import Request

    request = Request(
        codecs=tuple(choose(CodecCard, codec, cards or ())),
        datasets=tuple(dataset),
        out=out,
        points=tuple(point or ()),
        limit=limit,
        seed=seed,
        device=chosen(device),
        workers=workers,
        timeout_s=timeout_s,
        inception=inception,
        features=tuple(feature or ()),
        data_root=data_root,
        cards=tuple(cards or ()),
        dry_run=dry_run,
        metrics=tuple(metric or ()),
        weights=files(weights),
    )
    with Bar() as progress:
        summary = pipeline.run(request, progress)
    tell([summary])


@app.command()
def match(
    codec: Annotated[str, typer.Argument(help="Classical codec id.")],
    to: Annotated[str, typer.Option("--to", help="Codec whose stored points it is to match in bytes.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset id or folder:PATH.")],
    point: Annotated[list[str] | None, typer.Option("--point", help="Only these points of the other.")] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", min=1e-4, help="Of the bytes, as a share.")] = 0.01,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images.")] = None,
    out: Out = Path("results"),
    workers: Workers = 1,
    inception: Inception = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Solve a classical codec's quality for another's bytes, write the card of that, and measure it."""
    from dataclasses import replace

    from hfdbench.cards.schema import CodecCard, choose, read_card
    from hfdbench.pipeline import match as matching
    from hfdbench.pipeline import run as pipeline
    from hfdbench.pipeline.plan import Request

    known = dict(
        out=out, limit=limit, workers=workers, inception=inception, data_root=data_root, cards=tuple(cards or ())
    )
    request = Request(tuple(choose(CodecCard, [codec], cards or ())), (dataset,), points=tuple(point or ()), **known)
    with Bar() as progress:
        matched = matching.match(request, to, progress, tolerance)
        print(f"{matched.card}", file=sys.stderr)
        for name, reason in matched.left_out:
            print(f"no match for {to} {name}: {reason}", file=sys.stderr)
        solved = replace(request, codecs=(read_card(matched.card, CodecCard),), points=())
        summary = pipeline.run(solved, progress)
    tell([summary])


@app.command()
def score(
    codec: Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="Only these; a folder:PATH must be given.")
    ] = None,
    out: Out = Path("results"),
    workers: Workers = 1,
    inception: Inception = None,
    feature: Features = None,
    metric: Metrics = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Complete stored trials (FID, once there are Inception weights; --feature, --metric) from their streams; encodes nothing."""
    from dataclasses import replace

    from hfdbench.pipeline import run as pipeline

    asked = {"features": tuple(feature or ()), "metrics": tuple(metric or ()), "weights": files(weights)}
    with Bar() as progress:
        summaries = [
            pipeline.score(replace(request, **asked), progress)
            for request in stored_requests(out, codec or [], dataset or [], cards or [], workers, inception, data_root)
        ]
    tell(summaries)


def files(weights: list[str] | None) -> tuple[tuple[str, Path], ...]:
    """Pairs of METRIC=PATH. Raises UsageError for anything else."""
    pairs = [text.partition("=") for text in weights or ()]
    for name, equals, path in pairs:
        if not (name and equals and path):
            raise UsageError(f"--weights {name}{equals}{path}: must be METRIC=PATH, as lpips=alexnet-owt-7be5be79.pth")
    return tuple((name, Path(path)) for name, _, path in pairs)


def stored_requests(out: Path, codecs, datasets, cards, workers, inception, data_root) -> "list[Request]":
    """The requests that made the stored points, one per limit, seed and device."""
    from hfdbench.cards.schema import CodecCard, choose, find_cards
    from hfdbench.pipeline.plan import Request
    from hfdbench.results import store

    points = store.points(out)
    known = points["codec"].isin(find_cards(CodecCard, cards))
    if not known.all():  # of claims' variants, say, or of cards in another folder
        strangers = ", ".join(sorted(set(points.loc[~known, "codec"])))
        print(f"left out: {strangers}; they have no card here, name its folder with --cards", file=sys.stderr)
        points = points[known]
    if codecs:
        points = points[points["codec"].isin([card.id for card in choose(CodecCard, codecs, cards)])]
    found = points["dataset"].str.extract("(?P<name>[^@]*)@?(?P<limit>.*)")
    points = points.assign(name=found["name"], limit=found["limit"])
    folders = [spec for spec in datasets if spec.startswith("folder:")]
    wanted = points["name"].isin(datasets) if datasets else ~points["name"].str.startswith("folder-")
    unnamed = sorted(set(points.loc[points["name"].str.startswith("folder-"), "name"]))
    if unnamed and not folders:
        print(f"left out: {', '.join(unnamed)}; name their folders with --dataset folder:PATH", file=sys.stderr)
    requests = []
    wanted |= points["name"].str.startswith("folder-") & bool(folders)
    for (limit, seed, device), group in points[wanted].groupby(["limit", "seed", "device"]):
        places = sorted(name for name in set(group["name"]) if not name.startswith("folder-"))
        requests.append(
            Request(
                codecs=tuple(choose(CodecCard, sorted(set(group["codec"])), cards)),
                datasets=(*places, *folders),
                out=out,
                points=tuple(sorted(set(group["point"]))),
                limit=int(limit) if limit else None,
                seed=int(seed),
                device=device,
                workers=workers,
                inception=inception,
                data_root=data_root,
                cards=tuple(cards),
            )
        )
    if not requests:
        raise UsageError(f"{out}: no stored point fits; hfdbench show lists what is there")
    return requests


@app.command()
def report(
    figure: Annotated[list[str] | None, typer.Argument(help="Figure ids; all when none is given.")] = None,
    codec: Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only these datasets.")] = None,
    form: Annotated[list[str] | None, typer.Option("--format", help="pdf, svg, png; all when none is given.")] = None,
    width: Annotated[str | None, typer.Option("--width", help="column or full, instead of the card's.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Lay published numbers over, hollow.")] = False,
    published_system: Annotated[
        list[str] | None, typer.Option("--published-system", help="Only these systems; implies --published.")
    ] = None,
    bands: Annotated[
        bool | None, typer.Option("--bands/--no-bands", help="95 % intervals [those that take seconds, not hours].")
    ] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder of the figures.")] = Path("reports/build"),
    out: Out = Path("results"),
    html: Annotated[bool, typer.Option("--html", help="Write the page instead: one file, pictures included.")] = False,
    quality: Annotated[int, typer.Option("--pictures-quality", help="Page: WebP quality of its pictures.")] = 80,
    max_mb: Annotated[float, typer.Option("--max-mb", help="Page: size it stays under, in MB.")] = 60.0,
    images: Annotated[int, typer.Option("--pictures", help="Page: pictures of the first N images.")] = 24,
    picture_points: Annotated[
        int | None, typer.Option("--picture-points", help="Page: pictures of N points per codec at most.")
    ] = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Draw the figures of the report from the stored points, or write its page."""
    from hfdbench.analysis import curves
    from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard, choose, find_cards
    from hfdbench.report import figures
    from hfdbench.results import published as others
    from hfdbench.results import store

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
    points = filtered(store.points(out), codec, dataset)
    titles = {card.id: card.title for card in find_cards(DatasetCard, cards or ()).values() if card.title}
    over = others.read(out) if published or published_system else None
    if over is not None:
        others.choose(over, published_system or ())  # refuse an unknown name before anything is drawn
    options = figures.Options(
        formats=tuple(form) if form else figures.FORMATS,
        dataset_titles={name: titled(name, titles) for name in set(points["dataset"])},
        known=find_cards(CodecCard, cards or ()),
        commit=store.commit(out),
        width=width,
        intervals=None if bands is False else curves.stored_intervals(out, slow=bool(bands)),
        published=over,
        systems=tuple(published_system or ()),
        results=out,
    )
    drawn = figures.draw_all(points, wanted, to, options)
    for error in drawn.refused:
        print(f"not drawn: {error}", file=sys.stderr)
    for reason in drawn.not_overlaid:
        print(f"no overlay: {reason}", file=sys.stderr)
    for path in drawn.files:
        print(path)


def titled(dataset: str, titles: dict[str, str]) -> str:
    """Title of a dataset; a subset says that it is one."""
    name, _, limit = dataset.partition("@")
    title = titles.get(name, name)
    return f"{title}, first {limit} images" if limit else title


@app.command()
def show(
    codec: Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only these datasets.")] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Column names, by commas; all: every column.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.table,
    json: JSON = False,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="With 95 % intervals, those that take seconds.")
    ] = False,
    out: Out = Path("results"),
) -> None:
    """Print the stored points; for a paper, the best value at each rate is bold (--format latex or markdown)."""
    from hfdbench.analysis.curves import stored_intervals
    from hfdbench.report.tables import POINT_COLUMNS, render_points
    from hfdbench.results import store

    points = filtered(store.points(out), codec, dataset).sort_values(["dataset", "codec", "bpp"])
    chosen = (
        None if columns == "all" or (columns is None and (json or form in (Form.json, Form.csv))) else POINT_COLUMNS
    )
    if columns not in (None, "all"):
        chosen = [name.strip() for name in columns.split(",")]
    found = stored_intervals(out) if intervals else None
    print(render_points(points, "json" if json else form.value, chosen, found), end="")


@app.command("list")
def list_(
    thing: Annotated[Thing, typer.Argument(help="What to list.")],
    form: Annotated[Form, typer.Option("--format", help="How to print it.")] = Form.table,
    json: JSON = False,
    out: Out = Path("results"),
    cards: Cards = None,
) -> None:
    """List codecs, datasets or figures by their cards; published numbers by their systems."""
    import pandas as pd

    from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard, find_cards
    from hfdbench.report.tables import render

    if thing is Thing.codecs:
        found = find_cards(CodecCard, cards or ()).values()
        rows = [dict(codec=c.id, kind=c.kind, points=len(c.points), title=c.title, paper=c.paper) for c in found]
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


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Codec id.")],
    b: Annotated[str, typer.Argument(help="Codec id it is compared with.")],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="psnr_db, ms_ssim, fid, kid, ... [psnr_db and fid].")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Needed where both have several.")] = None,
    level: Annotated[float, typer.Option("--level", help="Of the intervals.")] = 0.95,
    draws: Annotated[int, typer.Option("--draws", min=20, help="Of the bootstrap.")] = 300,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Out = Path("results"),
) -> None:
    """Say whether codec A is better than B at equal rate, by how much, with intervals, and the BD-rate."""
    from hfdbench.analysis.compare import compare as compared

    result = compared(out, a, b, metrics=metric, dataset=dataset, level=level, draws=draws)
    for note in result.notes:
        print(note, file=sys.stderr)
    print(result.json() if json else result.text(), end="")


@app.command()
def fetch(
    dataset: Annotated[list[str], typer.Argument(help="Dataset ids.")],
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Download datasets from their official addresses, resuming, and check them."""
    from hfdbench.cards.schema import DatasetCard, choose
    from hfdbench.datasets.fetch import fetch as bring

    failed = False
    for card in choose(DatasetCard, dataset, cards or ()):
        try:
            print(bring(card, data_root))
        except Unavailable as error:
            print(f"hfdbench: {error}", file=sys.stderr)
            failed = True
    raise typer.Exit(1 if failed else 0)


@app.command()
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
    """Try the claims of HFD's paper on stored results: numbers, intervals, verdicts."""
    from hfdbench.analysis import claims as trial
    from hfdbench.pipeline import run as pipeline

    if run:
        known = dict(out=out, workers=workers, inception=inception, data_root=data_root, cards=tuple(cards or ()))
        with Bar() as progress:
            for request in trial.requests(dataset, limit, device=chosen(device), **known):
                complain([pipeline.run(request, progress)])
    verdicts = trial.from_stored(out, dataset, limit, metric, data_root, cards or ())
    print(trial.render(verdicts, form.value), end="")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe (TOML): a path, or the name of a bundled one: elic, hfd …")],
    data: Annotated[Path, typer.Option("--data", help="Folder of photographs.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of checkpoint, log and weights; resumes what it holds.")],
    autoencoder: Annotated[Path | None, typer.Option("--autoencoder", help="Stage-1 weights, for stage 2.")] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Weights to start from, of the same network.")] = None,
    perceptual: Annotated[
        Path | None, typer.Option("--perceptual", help="Weights of the perceptual loss's network, for GAN decoders.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", help="Folder that several stage-2 trainings share.")] = None,
    device: DeviceOption = Device.auto,
    devices: Annotated[int, typer.Option("--devices", min=1, help="How many of them, through Lightning Fabric.")] = 1,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    stop_after: Annotated[
        float | None, typer.Option("--stop-after", help="Minutes after which to stop, resumable.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the networks; takes a C++ compiler.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="One step on one crop, nothing kept.")] = False,
    data_root: DataRoot = None,
) -> None:
    """Train a stage of HFD from a folder of photographs; run again to resume."""
    from hfdbench.training.loop import train_recipe

    try:
        weights = train_recipe(
            recipe,
            data,
            out,
            autoencoder=autoencoder,
            init=init,
            perceptual=perceptual,
            pair_cache=pairs,
            data_root=data_root,
            device=chosen(device),
            devices=devices,
            threads=threads,
            stop_after_s=None if stop_after is None else 60 * stop_after,
            compiled=compiled,
            dry_run=dry_run,
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    if weights is None and not dry_run:
        print(f"stopped early; run the same command to go on from {out / 'checkpoint.pt'}", file=sys.stderr)
    elif weights is not None:
        print(weights)


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="Folder of results.")],
    against: Annotated[Path | None, typer.Option("--against", help="The baseline: a folder.")] = None,
    accept: Annotated[Path | None, typer.Option("--accept", help="Make the run this baseline instead.")] = None,
    codec: Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")] = None,
    card: Annotated[str, typer.Option("--card", help="Gate card: what may get worse, and how much.")] = "default",
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the summary here, too.")] = None,
    cards: Cards = None,
) -> None:
    """Fail (1) when a run is worse than a baseline beyond chance and tolerance; 2: they cannot be compared."""
    from hfdbench.analysis import gate
    from hfdbench.cards.schema import GateCard, choose

    if (against is None) == (accept is None):
        raise UsageError("give either --against BASELINE or --accept BASELINE")
    if accept is not None:
        print("\n".join(str(path) for path in gate.accept(run, accept, codec or ())))
        return
    report = gate.compare(run, against, choose(GateCard, [card], cards or ())[0], codec or ())
    gate.tell(report, junit, markdown)
    raise typer.Exit(report.exit_code)


@app.command()
def conform(
    codec: Annotated[str, typer.Argument(help="Codec id.")],
    point: Annotated[str | None, typer.Option("--point", help="Which point; the middle one when not given.")] = None,
    device: DeviceOption = Device.cpu,
    timeout_s: Annotated[float, typer.Option("--timeout-s", help="Seconds that one image may take.")] = 120,
    memory_gib: Annotated[float, typer.Option("--memory-gib", help="What decoding may take at its peak.")] = 4,
    megapixels: Annotated[float, typer.Option("--megapixels", help="Size of the image that memory is taken at.")] = 2,
    cards: Cards = None,
) -> None:
    """Say on one screen what holds for a codec: sizes, determinism, damage, honesty, memory. 1: something fails."""
    from hfdbench.cards.schema import CodecCard, choose, find_cards
    from hfdbench.checks.conform import conform as check

    card = choose(CodecCard, [codec], cards or ())[0]
    point = point or card.points[len(card.points) // 2].id
    card.point(point)
    encoder = find_cards(CodecCard, cards or ())[card.streams] if card.streams else None
    limits = {"timeout_s": timeout_s, "memory_gib": memory_gib, "megapixels": megapixels}
    failed = False
    print(f"{card.id} {point} on {chosen(device)}")
    for finding in check(card, point, encoder=encoder, device=chosen(device), **limits):
        print(finding, flush=True)
        failed |= finding.verdict == "FAIL"
    raise typer.Exit(1 if failed else 0)


@app.command("export")
def export_(
    form: Annotated[Exchange, typer.Argument(help="For which tool.")],
    run: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("results"),
    to: Annotated[Path, typer.Option("--to", help="Folder of the files.")] = Path("export"),
    codec: Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only these datasets.")] = None,
) -> None:
    """Write results as JSON for codec-compare's page or CompressAI's plots."""
    from hfdbench.report import exchange as interchange

    write = {"codec-compare": interchange.export_codec_compare, "compressai": interchange.export_compressai}[form.value]
    for path in write(run, to, codec or (), dataset or ()):
        print(path)


@app.command("import")
def import_(
    form: Annotated[Exchange, typer.Argument(help="Of which tool: compressai.")],
    files: Annotated[list[Path], typer.Argument(help="Its results files (JSON).")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset they were measured on: the id of a card.")],
    system: Annotated[str, typer.Option("--system", help="Name of the system, when the file's is not right.")] = "",
    variant: Annotated[str, typer.Option("--variant", help="Which curve of it.")] = "",
    badge: Annotated[str, typer.Option("--badge", help="author-file, re-run or digitised.")] = "re-run",
    source: Annotated[str, typer.Option("--source", help="Where the file is from: repository and path.")] = "",
    out: Out = Path("results"),
    cards: Cards = None,
) -> None:
    """Keep others' results as published points, which figures overlay."""
    from hfdbench.cards.schema import DatasetCard, choose
    from hfdbench.report.exchange import import_compressai

    if form is not Exchange.compressai:
        raise UsageError(f"{form.value} files cannot be imported; known: compressai")
    choose(DatasetCard, [dataset.partition("@")[0]], cards or ())
    for file in files:
        print(import_compressai(file, dataset, out, badge=badge, source=source, system=system, variant=variant))


@app.command()
def doctor(
    inception: Inception = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Say which codecs, weights and data work here, and the line that mends the rest."""
    from hfdbench.checks.doctor import examine, summary

    findings = []
    for finding in examine(inception, data_root, cards or []):
        print(finding, flush=True)
        findings.append(finding)
    print(f"\n{summary(findings)}")
    raise typer.Exit(1 if any(finding.broken for finding in findings) else 0)


def filtered(points, codecs: list[str] | None, datasets: list[str] | None):
    """Rows of these codecs and datasets. Raises UsageError for one that has no rows."""
    from hfdbench.errors import unknown

    for column, names in (("codec", codecs), ("dataset", datasets)):
        for name in names or ():
            if name not in set(points[column]):
                raise unknown(f"result of {column}", name, set(points[column]))
        if names:
            points = points[points[column].isin(names)]
    return points


def chosen(device: Device) -> str:
    if device is Device.cpu:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device is Device.cuda:
        raise UsageError("--device cuda: torch sees no GPU; use --device cpu")
    return "cpu"


def complain(summaries: "list[Summary]") -> None:
    """Say on stderr what was left out and what failed."""
    for summary in summaries:
        for label, reason in summary.skipped:
            print(f"skipped {label}: {reason}", file=sys.stderr)
        for label, errors in summary.failed:
            for error in errors:
                print(f"failed {label}: {error}", file=sys.stderr)


def tell(summaries: "list[Summary]") -> None:
    """Print the points on stdout, what was left out on stderr, and leave with the exit code."""
    import pandas as pd

    from hfdbench.report.tables import POINT_COLUMNS, render

    complain(summaries)
    for summary in summaries:
        print(
            f"{len(summary.done)} done, {len(summary.existing)} there already, "
            f"{len(summary.skipped)} skipped, {len(summary.failed)} failed",
            file=sys.stderr,
        )
    points = pd.concat([summary.points for summary in summaries])
    if len(points):
        print(render(points.sort_values(["dataset", "codec", "bpp"]), "table", POINT_COLUMNS), end="")
    raise typer.Exit(max(summary.exit_code for summary in summaries))


class Bar:
    """Progress on stderr: images done, rate, time left."""

    def __init__(self) -> None:
        self._bar = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, total: int, what: str) -> None:
        from tqdm import tqdm

        self.__exit__()
        self._bar = tqdm(total=total, desc=what, unit="image", dynamic_ncols=True, leave=False)

    def advance(self, n: int = 1) -> None:
        self._bar.update(n)

    def note(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
