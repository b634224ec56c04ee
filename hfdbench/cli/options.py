"""Options that several commands share."""

from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hfdbench.files.remote import located


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


class Foreign(StrEnum):
    compressai = "compressai"
    csv = "csv"


class EngineName(StrEnum):
    local = "local"
    processes = "processes"
    ray = "ray"


class KindOption(StrEnum):
    classical = "classical"
    autoencoder = "autoencoder"
    gan = "gan"
    diffusion = "diffusion"
    flow = "flow"
    other = "other"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Codecs = Annotated[list[str], typer.Option("--codec", help="Codec id; may be given several times.")]
Datasets = Annotated[
    list[str], typer.Option("--dataset", help="Dataset id or folder:PATH; may be given several times.")
]
OnlyCodecs = Annotated[list[str] | None, typer.Option("--codec", help="Only these codecs.")]
OnlyDatasets = Annotated[list[str] | None, typer.Option("--dataset", help="Only these: ids or folder:PATH.")]
Points = Annotated[list[str] | None, typer.Option("--point", help="Only these points.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images, as a set of its own.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of decoders that sample.")]
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Decode with N seeds, from --seed on, where the decoder samples.")
]
Cards = Annotated[
    list[Path] | None, typer.Option("--cards", help="A further folder with codecs/, datasets/ or reports/.")
]
Out = Annotated[
    Path, typer.Option("--out", help="Folder of results, or s3://bucket/folder.", parser=located, metavar="PATH")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        help="Folder of datasets, or s3://bucket/folder [HFDBENCH_DATA, else the user cache].",
        parser=located,
        metavar="PATH",
    ),
]
Inception = Annotated[Path | None, typer.Option("--inception", help="Inception weights for FID (.pth).")]
Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        help="Measure lpips, lpips_vgg (both unasked where their weights are at hand), dists, ssimulacra2 or butteraugli too; "
        "may be given several times. none: not even those unasked.",
    ),
]
Weights = Annotated[
    list[str] | None, typer.Option("--weights", help="METRIC=PATH: the file of weights (or program) of a --metric.")
]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "--feature",
        help="dinov2 or clip: a further Fréchet distance; NAME=FILE gives its weights. none: not even fd_mini, FID, KID.",
    ),
]
DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where networks run; auto takes a GPU when there is one.")
]
Workers = Annotated[int, typer.Option("--workers", help="Images coded at once, each in processes of its own.")]
JSON = Annotated[bool, typer.Option("--json", help="Same as --format json.")]


def _configured(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a file as defaults: what the command line gives counts more."""
    if path is None or ctx.resilient_parsing:
        return path
    from hfdbench.cards.schema import read_toml
    from hfdbench.errors import UsageError, unknown

    known = {parameter.name for parameter in ctx.command.params if parameter.name}
    values = read_toml(path)
    for name in values:
        if name not in known | IN_RUN:
            raise UsageError(f"{path}: {unknown('option', name, known)}")
    ctx.default_map = {**(ctx.default_map or {}), **{name: value for name, value in values.items() if name in known}}
    return path


IN_RUN = frozenset(  # options of a run that `merge`, which reads the same file, has no use for
    ["workers", "timeout_s", "require_seal", "retry_failed", "verify", "engine", "devices", "address", "engine_config"]
)
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        is_eager=True,
        callback=_configured,
        help="TOML file of these options; the command line counts more.",
    ),
]


def as_toml(ctx: typer.Context) -> str:
    """The options of a command that are not their defaults, as `--config` reads them."""
    import tomli_w

    found: dict[str, Any] = {}
    for parameter in ctx.command.params:
        name = parameter.name or ""
        value = ctx.params.get(name)
        if value is None or name in ("config", "print_config") or value == parameter.default:
            continue
        found[name] = [_plain(each) for each in value] if isinstance(value, list | tuple) else _plain(value)
    return tomli_w.dumps({name: value for name, value in found.items() if value != []})


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
