"""Commands that measure: run, score, match, measure, score-pixels."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfdbench.cli.options import (
    Cards,
    Codecs,
    Config,
    DataRoot,
    Datasets,
    Device,
    DeviceOption,
    EngineName,
    Features,
    Inception,
    KindOption,
    Limit,
    Metrics,
    OnlyCodecs,
    Out,
    Points,
    Seed,
    Seeds,
    Weights,
    Workers,
    as_toml,
)
from hfdbench.cli.terminal import Bar, chosen, tell
from hfdbench.errors import UsageError

if TYPE_CHECKING:
    from hfdbench.pipeline.plan import Request


def run(
    ctx: typer.Context,
    codec: Codecs,
    dataset: Datasets,
    point: Points = None,
    limit: Limit = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    out: Out = Path("results"),
    device: DeviceOption = Device.auto,
    workers: Workers = 1,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="Seconds that one image may take.")] = None,
    require_seal: Annotated[
        bool, typer.Option("--require-seal", help="Refuse to run where codecs cannot be kept in a sandbox.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try every failed image again, not only what died or timed out.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", help="I/N: only the I-th (from 0) of N parts of the images; then: hfdbench merge."),
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            "--verify", min=0, help="Decode N stored streams of every point again; other pixels are an error."
        ),
    ] = 0,
    engine: Annotated[
        EngineName | None,
        typer.Option("--engine", help="local; processes of this machine that measure, too; ray: those of a cluster."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", help="GPUs of worker processes: how many, or ids by commas; implies processes."),
    ] = None,
    address: Annotated[str | None, typer.Option("--address", help="Of the Ray cluster [auto].")] = None,
    engine_config: Annotated[
        Path | None, typer.Option("--engine-config", help="TOML file of the engine and what its workers take.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    config: Config = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print these options as a file for --config, and do nothing.")
    ] = False,
    inception: Inception = None,
    feature: Features = None,
    metric: Metrics = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Encode, decode and measure. What is measured already is skipped; a stopped run continues."""
    if print_config:
        print(as_toml(ctx), end="")
        return
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.pipeline.engines.driver import carry_out
    from hfdbench.pipeline.engines.settings import chosen as chosen_engine
    from hfdbench.pipeline.plan import Request

    request = Request(
        codecs=tuple(choose(CodecCard, codec, cards or ())),
        datasets=tuple(dataset),
        out=out,
        points=tuple(point or ()),
        limit=limit,
        seed=seed,
        seeds=seeds,
        device=chosen(device),
        workers=workers,
        timeout_s=timeout_s,
        require_seal=require_seal,
        retry_failed=retry_failed,
        shard=part(shard),
        verify=verify,
        inception=inception,
        features=tuple(feature or ()),
        data_root=data_root,
        cards=tuple(cards or ()),
        dry_run=dry_run,
        metrics=tuple(metric or ()),
        weights=files(weights),
    )
    by = chosen_engine(engine_config, engine and engine.value, devices, address)
    with Bar() as progress:
        summary = carry_out(request, by, progress)
    tell([summary])


def merge(
    codec: Codecs,
    dataset: Datasets,
    point: Points = None,
    limit: Limit = None,
    seed: Seed = 0,
    seeds: Seeds = 1,
    out: Out = Path("results"),
    device: DeviceOption = Device.auto,
    inception: Inception = None,
    feature: Features = None,
    metric: Metrics = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    cards: Cards = None,
    config: Config = None,
) -> None:
    """Finish what `run --shard` began, once every shard is done. Takes the same options; encodes and decodes nothing."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.pipeline import run as pipeline
    from hfdbench.pipeline.plan import Request

    request = Request(
        codecs=tuple(choose(CodecCard, codec, cards or ())),
        datasets=tuple(dataset),
        out=out,
        points=tuple(point or ()),
        limit=limit,
        seed=seed,
        seeds=seeds,
        device=chosen(device),
        inception=inception,
        features=tuple(feature or ()),
        data_root=data_root,
        cards=tuple(cards or ()),
        metrics=tuple(metric or ()),
        weights=files(weights),
    )
    with Bar() as progress:
        summary = pipeline.merge(request, progress)
    tell([summary])


def score(
    codec: OnlyCodecs = None,
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
    """Add metrics to stored trials. Decodes their streams again: FID once Inception's weights are there, --feature, --metric."""
    from dataclasses import replace

    from hfdbench.pipeline import run as pipeline

    asked = {"features": tuple(feature or ()), "metrics": tuple(metric or ()), "weights": files(weights)}
    with Bar() as progress:
        summaries = [
            pipeline.score(replace(request, **asked), progress)
            for request in stored_requests(out, codec or [], dataset or [], cards or [], workers, inception, data_root)
        ]
    tell(summaries)


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
    metric: Metrics = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Measure a classical codec at another's bytes. Solves its quality for them and writes a card of the result."""
    from dataclasses import replace

    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard, read_card
    from hfdbench.pipeline import match as matching
    from hfdbench.pipeline import run as pipeline
    from hfdbench.pipeline.plan import Request

    request = Request(
        codecs=tuple(choose(CodecCard, [codec], cards or ())),
        datasets=(dataset,),
        points=tuple(point or ()),
        out=out,
        limit=limit,
        workers=workers,
        inception=inception,
        metrics=tuple(metric or ()),
        data_root=data_root,
        cards=tuple(cards or ()),
    )
    with Bar() as progress:
        matched = matching.match(request, to, progress, tolerance)
        print(f"{matched.card}", file=sys.stderr)
        for name, reason in matched.left_out:
            print(f"no match for {to} {name}: {reason}", file=sys.stderr)
        solved = replace(request, codecs=(read_card(matched.card, CodecCard),), points=())
        summary = pipeline.run(solved, progress)
    tell([summary])


def measure(
    originals: Annotated[str, typer.Argument(help="Folder of the originals, or the id of a dataset.")],
    decoded: Annotated[Path, typer.Argument(help="Folder of the decoded pictures, named as their originals are.")],
    metric: Metrics = None,
    feature: Features = None,
    inception: Inception = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    device: DeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure two folders of pictures, paired by name. Needs no card and stores nothing."""
    import pandas as pd

    from hfdbench.pipeline.measure import measure as measure_folders
    from hfdbench.report import tables, text

    with Bar() as progress:
        found = measure_folders(
            originals,
            decoded,
            metrics=metric or (),
            features=feature or (),
            inception=inception,
            weights=dict(files(weights)),
            data_root=data_root,
            device=chosen(device),
            progress=progress,
        )
    if as_json:
        values = {column: vars(value) for column, value in found.values.items()}
        print(text.to_json({**vars(found), "values": values}, indent=2))
    else:
        for name, reason in found.left_out:
            print(text.plain(f"left out: {name}: {reason}"), file=sys.stderr)
        for note in found.notes:
            print(text.plain(note), file=sys.stderr)
        print(f"{found.images:,} images, {found.patches:,} patches ({found.protocol})\n")
        rows = [{"column": column, **vars(value)} for column, value in found.values.items()]
        print(tables.render_values(pd.DataFrame(rows)), end="")
    raise typer.Exit(found.exit_code)


def score_pixels(
    folder: Annotated[Path, typer.Argument(help="Folder of the decoded pictures, named as their originals are.")],
    system: Annotated[str, typer.Option("--system", help="Name of the codec, as its authors call it.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset id or folder:PATH.")],
    point: Annotated[str, typer.Option("--point", help="Id of the operating point [name of the folder].")] = "",
    sizes: Annotated[
        Path | None,
        typer.Option("--bytes", help="CSV (name, bytes or bpp), or folder of streams [streams beside the pictures]."),
    ] = None,
    estimated: Annotated[
        bool, typer.Option("--estimated", help="The sizes are estimates of an entropy model.")
    ] = False,
    decoder: Annotated[
        str, typer.Option("--decoder", help="FOLDER holds streams: decode them here with this codec's --point.")
    ] = "",
    kind: Annotated[KindOption, typer.Option("--kind", help="Kind of codec, for figures.")] = KindOption.other,
    source: Annotated[str, typer.Option("--source", help="Where it is from, in words.")] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="What was measured of this system and point before is outdated.")
    ] = False,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = Path("results"),
    device: DeviceOption = Device.auto,
    workers: Workers = 1,
    inception: Inception = None,
    feature: Features = None,
    metric: Metrics = None,
    weights: Weights = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Measure pictures that somebody else decoded. Stored beside the results of `run`, marked as their author's."""
    from hfdbench.pipeline.foreign import Foreign, score_foreign
    from hfdbench.pipeline.plan import Request

    made = Foreign(folder, system, point, sizes, estimated, decoder, kind.value, source, replace)
    request = Request(
        codecs=(),
        datasets=(dataset,),
        out=out,
        limit=limit,
        seed=seed,
        device=chosen(device),
        workers=workers,
        inception=inception,
        features=tuple(feature or ()),
        data_root=data_root,
        cards=tuple(cards or ()),
        metrics=tuple(metric or ()),
        weights=files(weights),
    )
    with Bar() as progress:
        summary = score_foreign(made, request, progress)
    tell([summary])


def part(shard: str | None) -> tuple[int, int] | None:
    """Parse I/N. Raises UsageError for anything else."""
    if shard is None:
        return None
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard {shard}: must be I/N, as 0/8 or $SLURM_ARRAY_TASK_ID/8")
    return int(index), int(count)


def files(weights: list[str] | None) -> tuple[tuple[str, Path], ...]:
    """Pairs of METRIC=PATH. Raises UsageError for anything else."""
    pairs = [text.partition("=") for text in weights or ()]
    for name, equals, path in pairs:
        if not (name and equals and path):
            raise UsageError(f"--weights {name}{equals}{path}: must be METRIC=PATH, as lpips=alexnet-owt-7be5be79.pth")
    return tuple((name, Path(path)) for name, _, path in pairs)


def stored_requests(
    out: Path,
    codecs: list[str],
    datasets: list[str],
    cards: list[Path],
    workers: int,
    inception: Path | None,
    data_root: Path | None,
) -> "list[Request]":
    """The requests that made the stored points, one per limit, seed and device."""
    from hfdbench.cards.find import choose, find_cards
    from hfdbench.cards.schema import CodecCard
    from hfdbench.pipeline.plan import Request
    from hfdbench.results.stored import Results

    points: Any = Results(out).points()
    authors = points["badge"].notna()
    if authors.any():
        systems = ", ".join(sorted(set(points.loc[authors, "codec"])))
        print(f"left out: {systems}: by its authors; hfdbench score-pixels adds metrics to it", file=sys.stderr)
        points = points[~authors]
    known = points["codec"].isin(find_cards(CodecCard, cards))
    if not known.all():  # of claims' variants, say, or of cards in another folder
        unknown = ", ".join(sorted(set(points.loc[~known, "codec"])))
        print(f"left out: {unknown}: no card; name the folder of their cards with --cards", file=sys.stderr)
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
