"""Commands that bring things in and out: fetch, import, export, train."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hfdbench.cli.options import (
    Cards,
    DataRoot,
    Device,
    DeviceOption,
    Exchange,
    Out,
)
from hfdbench.cli.terminal import chosen
from hfdbench.errors import Unavailable, UsageError

if TYPE_CHECKING:
    pass


def fetch(
    dataset: Annotated[list[str], typer.Argument(help="Dataset ids.")],
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Download and verify datasets. From their official addresses; resumes."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import DatasetCard
    from hfdbench.datasets.fetch import fetch as bring

    failed = False
    for card in choose(DatasetCard, dataset, cards or ()):
        try:
            print(bring(card, data_root))
        except Unavailable as error:
            print(f"hfdbench: {error}", file=sys.stderr)
            failed = True
    raise typer.Exit(1 if failed else 0)


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
    """Read results of other tools as published points. Figures overlay them."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import DatasetCard
    from hfdbench.report.exchange import import_compressai

    if form is not Exchange.compressai:
        raise UsageError(f"{form.value} files cannot be imported; known: compressai")
    choose(DatasetCard, [dataset.partition("@")[0]], cards or ())
    for file in files:
        print(import_compressai(file, dataset, out, badge=badge, source=source, system=system, variant=variant))


def export_(
    form: Annotated[Exchange, typer.Argument(help="For which tool.")],
    run: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("results"),
    to: Annotated[Path, typer.Option("--to", help="Folder of the files.")] = Path("export"),
    codec: Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", help="Only these datasets.")] = None,
) -> None:
    """Write results for other tools. JSON for codec-compare's page or CompressAI's plots."""
    from hfdbench.report import exchange as interchange

    write = {"codec-compare": interchange.export_codec_compare, "compressai": interchange.export_compressai}[form.value]
    for path in write(run, to, codec or (), dataset or ()):
        print(path)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe (TOML): a path, or the name of a bundled one: elic, hfd …")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of photographs.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of checkpoint, log and weights; resumes what it holds.")
    ] = None,
    campaign: Annotated[
        Path | None, typer.Option("--campaign", help="Several trainings in order, each with a time limit (TOML).")
    ] = None,
    autoencoder: Annotated[Path | None, typer.Option("--autoencoder", help="Stage-1 weights, for stage 2.")] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Codec whose streams stage 2 decodes, instead of --autoencoder.")
    ] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Weights to start from, of the same network.")] = None,
    perceptual: Annotated[
        Path | None, typer.Option("--perceptual", help="Weights of the perceptual loss's network, for GAN decoders.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Folder for pixels and pairs that several trainings share.")
    ] = None,
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
    cards: Cards = None,
) -> None:
    """Train a model on a folder of photographs. Run again to resume."""
    from hfdbench.training import launch

    if (recipe is None) == (campaign is None):
        raise UsageError("give either a recipe or --campaign FILE")
    if data is None or (out is None and not dry_run):
        raise UsageError(f"{'--data' if data is None else '--out'} is missing; give a folder")
    job = launch.Job(
        recipe=recipe or "",
        data=data,
        out=out or Path(),
        autoencoder=autoencoder,
        base=base,
        init=init,
        perceptual=perceptual,
        cache=pairs,
        data_root=data_root,
        cards=tuple(cards or ()),
        device=chosen(device),
        devices=devices,
        threads=threads,
        stop_after_s=None if stop_after is None else 60 * stop_after,
        compiled=compiled,
    )
    if dry_run:
        if campaign is not None:
            launch.read_campaign(campaign)
            raise UsageError("--dry-run tries a recipe; the campaign's file itself is in order")
        print("\n".join(launch.try_out(job)))
        return
    made = launch.run_campaign(campaign, job) if campaign else launch.run(job)
    if made is None:
        print(f"stopped early; run the same command to continue from what {out} holds", file=sys.stderr)
    else:
        print(*(made if isinstance(made, list) else [made]), sep="\n")
