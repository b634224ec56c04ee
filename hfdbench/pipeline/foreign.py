"""Pictures or streams that somebody else made of a dataset, measured as `run` measures what it codes itself.

Conventions: files and sizes are matched to the images of the dataset by stem. The size of an image's stream is stated in a
CSV file (`name`, and `bytes` or `bpp`), or is that of a stream file, beside the pictures or in a folder of its own. Results
have the badge "author's pixels, rate stated" (or "rate estimated"), or, of streams that a codec of ours decodes, "author's
streams". A picture that is missing, doubled, of another size, translucent or in a lossy file is an image that failed: it
is named, and distances over the others alone are null.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hfdbench.cards.find import choose, find_cards
from hfdbench.cards.schema import CodecCard, Kind
from hfdbench.codecs.identity import identity, provide, stream_key, trial_key
from hfdbench.datasets.dataset import CROP, Dataset
from hfdbench.datasets.folder import pictures_in
from hfdbench.datasets.ids import printable
from hfdbench.datasets.image_files import image_suffix, picture_header
from hfdbench.errors import ImageError, Unavailable, UsageError, no_folder, unknown
from hfdbench.files.digest import file_sha256
from hfdbench.pipeline.pairing import Pairs, lossy_kind, paired, several
from hfdbench.pipeline.plan import Given, Plan, Request, Trial, asked_dataset
from hfdbench.pipeline.run import Summary, carry_out
from hfdbench.progress import Progress, Silent
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import DamagedFile
from hfdbench.results.published import read_csv
from hfdbench.results.stored import read_point

TRANSLUCENT = ("RGBA", "RGBa", "LA", "La", "PA")


@dataclass(frozen=True)
class Foreign:
    """What somebody else made.

    Attributes
    ----------
    folder : Path
        Of the decoded pictures, or of the streams when there is a decoder.
    system : str
        Name of the codec, as its authors call it.
    point : str
        Id of its operating point; the name of the folder when empty.
    sizes : Path, optional
        CSV file of the sizes, or folder of stream files; stream files beside the pictures when None.
    estimated : bool
        Whether the sizes are estimates of an entropy model.
    decoder : str
        Id of a codec that decodes the streams; none when empty.
    kind : str
        Kind of codec, for figures.
    source : str
        Where it is from, in words.
    replace : bool
        Whether other pictures of the same system and point, measured before, are outdated.
    """

    folder: Path
    system: str
    point: str = ""
    sizes: Path | None = None
    estimated: bool = False
    decoder: str = ""
    kind: Kind = "other"
    source: str = ""
    replace: bool = False


def score_foreign(made: Foreign, request: Request, progress: Progress | None = None) -> Summary:
    """Measure what somebody else made of a dataset, and store it.

    Parameters
    ----------
    made : Foreign
    request : Request
        Dataset (one), results folder, metrics and networks; it names no codec.
    progress : Progress, optional

    Returns
    -------
    Summary
        Its `failed` names every image that could not be measured.

    Raises
    ------
    UsageError
        Nothing fits the dataset; a size is missing, unknown, 0 or larger than the raw pixels; the name is that of a codec
        here or of another system.
    """
    if not made.folder.is_dir():
        raise no_folder(made.folder, "give one that holds the decoded pictures or streams")
    if made.decoder and (made.sizes or made.estimated):
        raise UsageError("--bytes and --estimated are for pictures: streams are counted as they are; leave them out")
    (spec,) = request.datasets
    dataset = asked_dataset(spec, request)
    card, point = _card(made, request)
    streams = bool(made.decoder)
    found, what = (_visible(made.folder), "stream") if streams else (pictures_in(made.folder), "decoded picture")
    pairs = paired(dataset, found, what)
    if not pairs.files:
        raise UsageError(
            f"{made.folder}: no {what} is named as an image of {dataset.id} is "
            f"({several(dataset.names)}); they are matched by stem"
        )
    failed = dict(pairs.lonely)
    if not streams:
        failed |= {image: why for image, path in pairs.files.items() if (why := _fault(dataset, image, path))}
    files = {image: path for image, path in pairs.files.items() if image not in failed}
    if not files:
        raise UsageError(
            f"{made.folder}: no picture can be measured; the first: {next(failed[image] for image in pairs.files)}"
        )
    sizes = {} if streams else _sizes(made, dataset, files)
    rows = tuple(_row(dataset, image, failed.get(image), sizes.get(image)) for image in range(len(dataset)))
    badge = "author's streams" if streams else f"author's pixels, rate {'estimated' if made.estimated else 'stated'}"
    given = Given(badge, rows, files, streams)
    trial = _trial(made, request, dataset, card, point, given)
    _refuse_others(made, request, trial)
    return carry_out(request, Plan((trial,), ()), progress or Silent(), notes=_report(dataset, failed, pairs))


def _id(name: str, what: str) -> str:
    """Id of a name: its letters, digits and . _ + in lower case, anything else a hyphen."""
    made = re.sub(r"[^a-z0-9._+]+", "-", name.lower()).strip("-._+")
    if not made:
        raise UsageError(f'{what} "{name}": has neither letter nor digit; choose another name')
    return made


def _card(made: Foreign, request: Request) -> tuple[CodecCard, str]:
    """A card of the system with its one point, and the id of the point."""
    name, known = _id(made.system, "--system"), find_cards(CodecCard, request.cards)
    if name in known:
        raise UsageError(
            f'--system {made.system}: "{name}" is a codec here ({known[name].source}); choose another name, such as '
            f'"{made.system} authors"'
        )
    described = {"id": name, "title": made.system, "kind": made.kind, "settings": made.source}
    if not made.decoder:
        point = _id(made.point or made.folder.resolve().name, "--point")
        return CodecCard.model_validate({**described, "adapter": "author:pixels", "points": [{"id": point}]}), point
    (card,) = choose(CodecCard, [made.decoder], request.cards)
    points = {point.id: point for point in card.points}
    if made.point not in points:
        raise unknown(f"point of {card.id} (--point)", made.point, points)
    described["settings"] = ", ".join(filter(None, [card.settings, made.source]))
    return card.model_copy(update={**described, "kind": card.kind, "points": (points[made.point],)}), made.point


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _fault(dataset: Dataset, image: int, path: Path) -> str | None:
    """Why a decoded picture cannot stand for what a decoder gave, as far as its header says."""
    if kind := lossy_kind(path):
        return f"{printable(path.name)} is a {kind} file, whose own losses would be measured too; save it as PNG"
    try:
        header = picture_header(path)
        if header.mode in TRANSLUCENT:
            return f"{printable(path.name)} is translucent ({header.mode}); save it as RGB of 8 bits"
        height, width = _size(dataset, image)
        if sorted((header.height, header.width)) != sorted((height, width)):  # either may be turned by its EXIF data
            return f"{printable(path.name)}: {header.width}x{header.height} pixels, the original has {width}x{height}"
    except ImageError as error:
        return str(error)
    return None


def _size(dataset: Dataset, image: int) -> tuple[int, int]:
    """(height, width) of an original, as its header says, before any turning."""
    if dataset.crop != "none":
        return CROP, CROP
    header = picture_header(dataset.paths[image])
    return header.height, header.width


def _row(dataset: Dataset, image: int, fault: str | None, size: int | None) -> dict:
    """A row of the streams table."""
    row = {"image": image, "name": dataset.names[image], "passing": False}
    if fault is not None:
        return row | {"status": "error", "error": fault}
    return row | {"status": "ok", "bytes": size}


# ---- sizes


def _sizes(made: Foreign, dataset: Dataset, files: Mapping[int, Path]) -> dict[int, int]:
    """Bytes of the stream of each picture. Raises UsageError for a size that is missing, unknown or cannot be right."""
    if made.sizes is not None and not made.sizes.exists():
        raise UsageError(f"--bytes {made.sizes}: no such file or folder; give a CSV of sizes or a folder of streams")
    if made.sizes is not None and made.sizes.is_file():
        place, found = str(made.sizes), _listed(made.sizes, dataset)
        if missing := [dataset.names[image] for image in files if image not in found]:
            raise UsageError(
                f"{place}: lacks {len(missing)} of {len(files)} images: {several(missing)}; add their sizes"
            )
    else:
        folder = made.sizes or made.folder
        place = str(folder)
        beside = [path for path in _visible(folder) if folder != made.folder or not image_suffix(path.name)]
        pairs = paired(dataset, beside, "stream")
        if missing := [image for image in files if image not in pairs.files]:
            raise UsageError(
                f"{folder}: {dataset.names[missing[0]]}: {pairs.lonely[missing[0]]} ({len(missing)} of {len(files)} lack "
                "one); state sizes with --bytes FILE.csv, or put the streams into a folder of their own: --bytes FOLDER"
            )
        found = {image: pairs.files[image].stat().st_size for image in files}
    for image in files:
        height, width = _size(dataset, image)
        if not 0 < found[image] <= 3 * height * width:
            raise UsageError(
                f"{place}: {dataset.names[image]}: {found[image]:,} bytes cannot be the rate of {width}x{height} pixels "
                f"(raw: {3 * height * width:,} bytes); correct it, in bytes of the whole stream"
            )
    return {image: found[image] for image in files}


def _listed(path: Path, dataset: Dataset) -> dict[int, int]:
    """Sizes by image from a CSV file with the columns `name`, and `bytes` or `bpp`."""
    frame = read_csv(path)
    unit = next((column for column in ("bytes", "bpp") if column in frame), None)
    if "name" not in frame or unit is None:
        raise UsageError(f'{path}: needs the columns "name", and "bytes" or "bpp"; has {", ".join(frame.columns)}')
    numbers = {path.stem: image for image, path in enumerate(dataset.paths)} | {
        name: image for image, name in enumerate(dataset.names)
    }
    found: dict[int, int] = {}
    for place, (name, text) in enumerate(zip(frame["name"], frame[unit], strict=True), 2):
        image = numbers.get(name, numbers.get(Path(name).stem))
        if image is None:
            raise UsageError(f"{path}, row {place}: {unknown(f'image of {dataset.id}', name, dataset.names)}")
        if image in found:
            raise UsageError(f"{path}, row {place}: {dataset.names[image]} is there twice; remove one")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (unit == "bytes" and not value.is_integer()):
            raise UsageError(
                f'{path}, row {place}: {unit} "{text}" is no {"whole " * (unit == "bytes")}number; correct it'
            )
        height, width = _size(dataset, image)
        found[image] = int(value) if unit == "bytes" else math.ceil(value * height * width / 8)
    return found


# ---- its place among the results


def _trial(made: Foreign, request: Request, dataset: Dataset, card: CodecCard, point: str, given: Given) -> Trial:
    content = [(row["name"], row.get("bytes"), row.get("error")) for row in given.rows]
    digest = hashlib.sha256(repr(content).encode(errors="surrogateescape"))
    for image, path in given.files.items():
        digest.update(f"{image} {file_sha256(path)}\n".encode())
    content_sha256 = digest.hexdigest()
    streams = stream_key({"given": given.badge, "content": content_sha256}, dataset.sha256)
    try:
        if given.streams:
            provide(card, point)
        decodes = identity(card, point) if given.streams else {"pictures": content_sha256}
    except Unavailable as error:
        raise UsageError(f"{made.decoder}: {error}") from None
    seed, device = (request.seed, request.device) if given.streams else (0, "cpu")
    pixels = trial_key(streams, decodes, seed, device.split(":")[0])
    return Trial(card, card, point, dataset, seed, device, streams, pixels, given)


def _refuse_others(made: Foreign, request: Request, trial: Trial) -> None:
    """Refuse a name that something else of these results has."""
    for path in ResultsFolder(request.out).all_points():
        if not path.name.startswith(f"{trial.codec.id}-"):
            continue
        try:
            row, metadata = read_point(path)
        except DamagedFile:
            continue  # the run of its own trial sets it aside
        if row["codec"] != trial.codec.id:
            continue
        if not row["badge"] or row["title"] != made.system:
            what = f'the system "{row["title"]}"' if row["badge"] else "a codec that was measured here"
            raise UsageError(
                f'--system {made.system}: {request.out} has {what} under the same id "{row["codec"]}"; choose another name'
            )
        same = (row["point"], row["dataset"]) == (trial.point, trial.dataset.id)
        other = metadata.get("trial_key") != trial.trial_key
        if same and other and row["status"] == "ok" and not made.replace:
            raise UsageError(
                f"{made.system} {trial.point} on {trial.dataset.id} is measured already, of other files or sizes ({path}); "
                "give another --system or --point, or --replace"
            )


def _report(dataset: Dataset, failed: Mapping[int, str], pairs: Pairs) -> list[str]:
    """What does not fit, before it is measured."""
    notes = []
    if failed:
        names = [dataset.names[image] for image in sorted(failed)]
        missing = Counter(image in pairs.lonely for image in failed)
        notes.append(
            f"{len(failed)} of {len(dataset)} images cannot be measured ({missing[True]} without one file of their own): "
            f"{several(names)}; no FID over some of the images"
        )
    if pairs.strangers:
        notes.append(f"left out: no image of {dataset.id} has their stem: {several([n for n, _ in pairs.strangers])}")
    return notes
