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
    Foreign,
    OnlyCodecs,
    OnlyDatasets,
    Out,
)
from hfdbench.cli.terminal import chosen
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.remote import located

if TYPE_CHECKING:
    pass


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Ids of datasets and codecs.")],
    accept_licence: Annotated[
        list[str] | None,
        typer.Option("--accept-licence", help="Licence of a codec's weights [HFDBENCH_ACCEPT_LICENCE]."),
    ] = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Download and verify datasets, and what codecs need. From their official addresses; resumes."""
    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import CodecCard, DatasetCard
    from hfdbench.codecs import fetch as codecs
    from hfdbench.datasets import fetch as datasets
    from hfdbench.errors import unknown

    known: dict[str, CodecCard | DatasetCard] = {**find_cards(CodecCard, cards or ())}
    known |= find_cards(DatasetCard, cards or ())
    for name in names:
        if name not in known:
            raise unknown("dataset or codec", name, known)
    failed = False
    for card in (known[name] for name in dict.fromkeys(names)):
        try:
            if isinstance(card, DatasetCard):
                print(datasets.fetch(card, data_root))
            else:
                print(codecs.fetch(card, accept_licence or ()))
        except Unavailable as error:
            print(f"hfdbench: {error}", file=sys.stderr)
            failed = True
    raise typer.Exit(1 if failed else 0)


def import_(
    form: Annotated[Foreign, typer.Argument(help="compressai: its results files (JSON); csv: a row for each point.")],
    files: Annotated[list[Path], typer.Argument(help="The files.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Dataset they were measured on: the id of a card.")],
    system: Annotated[str, typer.Option("--system", help="Name of the system, when the file's is not right.")] = "",
    variant: Annotated[str, typer.Option("--variant", help="Which curve of it.")] = "",
    badge: Annotated[str, typer.Option("--badge", help="author-file, re-run or digitised.")] = "re-run",
    source: Annotated[str, typer.Option("--source", help="Where the file is from: repository and path.")] = "",
    resize: Annotated[
        str, typer.Option("--resize", help="csv: of FID's patches: torch-fidelity, pytorch-fid, clean-fid or unknown.")
    ] = "",
    patches: Annotated[str, typer.Option("--patches", help="csv: of FID: fid256, whole or unknown.")] = "",
    network: Annotated[str, typer.Option("--network", help="csv: of LPIPS: alex, vgg, squeeze or unknown.")] = "",
    rate: Annotated[str, typer.Option("--rate", help="csv: coded, estimated or unknown.")] = "",
    by: Annotated[str, typer.Option("--by", help="csv: a column that tells its curves apart.")] = "",
    audit: Annotated[bool, typer.Option("--audit", help="csv: print what conflicts, keep nothing.")] = False,
    out: Out = Path("results"),
    cards: Cards = None,
) -> None:
    """Read results of others as published points. Names what they cannot be compared with; figures overlay the rest."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import DatasetCard
    from hfdbench.report.exchange import import_compressai
    from hfdbench.results import audit as audits
    from hfdbench.results import published

    card = choose(DatasetCard, [parse_id(dataset).base], cards or ())[0].model_copy(update={"id": dataset})
    labels = {"system": system, "variant": variant, "badge": badge, "source": source}
    if form is Foreign.compressai:
        if audit or by or resize or patches or network or rate:
            raise UsageError("--audit, --by, --resize, --patches, --network and --rate are for csv files")
        for file in files:
            print(import_compressai(file, dataset, out, **labels))
        return
    protocol = audits.Protocol(resize, patches, network, rate)
    for file in files:
        result = audits.audit(file, card, protocol, published.read(out), by=by, **labels)
        stream = sys.stdout if audit else sys.stderr
        for sentence in result.found:
            print(f"found: {sentence}", file=stream)
        for sentence in result.conflicts:
            print(f"conflict: {sentence}", file=stream)
        if audit:
            print(
                f"{len(result.points)} values at {result.points['bpp'].nunique()} rates, {len(result.conflicts)} conflicts"
            )
        else:
            print(*audits.keep(result, out, file), sep="\n")


def export_(
    form: Annotated[Exchange, typer.Argument(help="For which tool.")],
    run: Annotated[Path, typer.Argument(help="Folder of results.", parser=located, metavar="RUN")] = Path("results"),
    to: Annotated[Path, typer.Option("--to", help="Folder of the files.")] = Path("export"),
    codec: OnlyCodecs = None,
    dataset: OnlyDatasets = None,
) -> None:
    """Write results for other tools. JSON for codec-compare's page or CompressAI's plots."""
    from hfdbench.datasets.dataset import dataset_id
    from hfdbench.report import exchange as interchange

    write = {"codec-compare": interchange.export_codec_compare, "compressai": interchange.export_compressai}[form.value]
    paths, notes = write(run, to, codec or (), [dataset_id(spec) for spec in dataset or ()])
    for note in notes:
        print(note, file=sys.stderr)
    for path in paths:
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
        float | None, typer.Option("--stop-after", min=0.01, help="Minutes after which to stop, resumable.")
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
        raise UsageError("give either a recipe or --campaign FILE; hfdbench train elic --data PHOTOGRAPHS --out FOLDER")
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
