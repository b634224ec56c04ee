"""Results for others' tools, and others' results for ours.

Conventions
    codec-compare   webmproject/codec-compare's batches, as its README describes them: constants and fields by ordered
                    lists of {name: description}; here a batch a codec and dataset, a row an image and point. Its viewer
                    pairs rows of similar quality and compares their sizes and times. Distortions are in dB, as it labels
                    them. Rows cannot lack a value: a distortion that no image has (of a lossless codec, say, or of images too
                    small for it) is left out as a field, an image that lacks one of the others as a row; both are named.
                    A time that nobody took (of pixels of a codec's authors) is left out as a field, too.
    CompressAI      the files of its results/: {"name", "description", "results": {metric: [a value a point]}}. As its own
                    programs average: bpp, PSNR, MS-SSIM (not in dB) and seconds are means over images of each image's.
Among several measurements of one point the newest is exported. Numbers are those of the tables, not rounded.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hfdbench import __version__
from hfdbench.errors import UsageError, unknown
from hfdbench.files.atomic import write_text
from hfdbench.metrics.image import pixel as distortion
from hfdbench.metrics.registry import METRICS
from hfdbench.results import published
from hfdbench.results.stored import Results, StoredTrial, newest

FIELDS = {
    "original_name": "Original image file name",
    "width": "Pixel columns in the original image",
    "height": "Pixel rows in the original image",
    "point": "Operating point of the codec",
    "encoded_size": "Size of the encoded image in bytes",
    "bpp": "Encoded bits per pixel",
    "encoding_time": "Encoding duration in seconds",
    "decoding_time": "Decoding duration in seconds",
    "psnr": "Peak signal-to-noise ratio of 8-bit RGB in dB",
    "msssim": "Multi-scale structural similarity of RGB, -10 log10(1 - x)",
}
# Their name -> ours. Older files of theirs lack "-rgb".
NAMES = {"psnr-rgb": "psnr_db", "psnr": "psnr_db", "ms-ssim-rgb": "ms_ssim", "ms-ssim": "ms_ssim"}

SAME_CURVE = ("codec", "dataset", "seed", "device")


@dataclass(frozen=True)
class ExportedCurve:
    """The points of one codec on one dataset, rising in rate: (row of the points table, its images), and their metadata."""

    codec: str
    dataset: str
    title: str
    points: tuple[tuple[dict, pd.DataFrame], ...]
    metadata: dict

    @property
    def stem(self) -> str:
        """Name of its file, without suffix: codec and dataset, and seed and device where they are not 0 and the CPU."""
        row = self.points[0][0]
        seed = f"-seed{row['seed']}" if row["seed"] else ""
        return f"{self.codec}-{self.dataset}{seed}" + ("" if row["device"] == "cpu" else f"-{row['device']}")

    @property
    def description(self) -> str:
        """One line: codec, number of images, device, version of hfdbench."""
        row, device = self.points[0][0], self.points[0][0]["device"]
        return f"{self.title}, {row['images']} images, {device}; hfdbench {__version__}".replace("\n", " ")


def exported_curves(out: Path, codecs: Iterable[str] = (), datasets: Iterable[str] = ()) -> list[ExportedCurve]:
    """List what there is to export: points all of whose images were coded.

    Parameters
    ----------
    out : Path
        Folder of results.
    codecs, datasets : iterable of str
        Only these; all by default.

    Returns
    -------
    list of ExportedCurve
        One for each codec, dataset, seed and device.

    Raises
    ------
    UsageError
        There is none, or a name is unknown.
    """
    results = Results.of(out)
    results.points()  # refuses a folder without any
    found = results.trials()
    for name, wanted in (("codec", codecs), ("dataset", datasets)):
        known = {trial.row[name] for trial in found}
        for each in wanted:
            if each not in known:
                raise unknown(f"result of {name}", each, known)
        found = [trial for trial in found if not wanted or trial.row[name] in wanted]
    complete = newest(trial for trial in found if trial.row["status"] == "ok")
    if not complete:
        raise UsageError(f"{out}: no point whose images were all coded; hfdbench show lists what is there")
    groups: dict[tuple, list[StoredTrial]] = {}
    for trial in sorted(complete, key=lambda trial: (*(trial.row[name] for name in SAME_CURVE), trial.row["bpp"])):
        groups.setdefault(tuple(trial.row[name] for name in SAME_CURVE), []).append(trial)
    return [
        ExportedCurve(
            codec=codec,
            dataset=dataset,
            title=_title(some[0].row),
            points=_on_one_device([(dict(trial.row), trial.read_images().to_pandas()) for trial in some]),
            metadata=some[-1].read_images_metadata(),
        )
        for (codec, dataset, _, _), some in groups.items()
    ]


def _on_one_device(points: list[tuple[dict, pd.DataFrame]]) -> tuple[tuple[dict, pd.DataFrame], ...]:
    """The points of a curve, without times that are of several devices: whoever reads the file averages them."""
    for time, place in (("encode_s", "encoded_on"), ("decode_s", "device_name")):
        if len({name for _, images in points for name in images[place].dropna()}) > 1:
            points = [(row, images.assign(**{time: math.nan})) for row, images in points]
    return tuple(points)


def _title(row: Mapping[str, Any]) -> str:
    """The codec's name, and its badge if its authors coded or decoded it."""
    return f"{row['title']} ({row['badge']})" if row["badge"] else row["title"]


# ---- codec-compare


def codec_compare(curve: ExportedCurve) -> tuple[dict, list[str]]:
    """Make a batch of codec-compare.

    Parameters
    ----------
    curve : ExportedCurve

    Returns
    -------
    batch : dict
        Constants and fields, a row per image and point.
    notes : list of str
        What is left out of it, and why.
    """
    versions = curve.metadata.get("versions", {})
    constants = {
        "name": ("Name of this batch", f"{curve.title}, {curve.dataset}"),
        "codec": ("Name of the codec used to generate this data", curve.codec),
        "version": (
            "Version of the codec used to generate this data",
            ", ".join(f"{name} {version}" for name, version in versions.items()) or f"hfdbench {__version__}",
        ),
        "time": ("Timestamp of when this data was generated", curve.metadata.get("started_utc", "")),
        "dataset": ("Images and the sha256 of their names and contents", _dataset(curve)),
        "settings": ("How the codec was run", str(curve.metadata.get("card", {}).get("settings", "")).strip()),
        "device": ("Where it ran", f"{curve.points[0][0]['device']}: {curve.metadata.get('cpu')}"),
        "seed": ("Seed given to the decoder", str(curve.points[0][0]["seed"])),
    }
    quality = _qualities(curve)
    fields = FIELDS | ({"quality": "Compression quality parameter"} if quality else {})
    tables = []
    for row, images in curve.points:
        table = pd.DataFrame(
            {
                "original_name": images["name"],
                "width": images["width"],
                "height": images["height"],
                "point": row["point"],
                "encoded_size": images["bytes"],
                "bpp": images["bpp"],
                "encoding_time": images["encode_s"],
                "decoding_time": images["decode_s"],
                "psnr": images["psnr_db"].astype(float),
                "msssim": images["ms_ssim"].astype(float).map(distortion.ms_ssim_db, na_action="ignore"),
            }
        )
        tables.append(table.assign(quality=quality[row["point"]]) if quality else table)
    every = pd.concat(tables)
    notes = []
    for name in ("psnr", "msssim", "encoding_time", "decoding_time"):
        if every.loc[:, name].isna().all():  # the field goes, not the rows
            every = every.drop(columns=name)
            fields = {key: text for key, text in fields.items() if key != name}
            notes.append(f"{curve.stem}: no image has a finite {name}; the field is left out")
    lacking = every.isna().any(axis=1)
    if lacking.any():
        names = ", ".join(dict.fromkeys(every.loc[lacking, "original_name"]))
        notes.append(f"{curve.stem}: {lacking.sum()} of {len(every)} rows lack a distortion and are left out: {names}")
    return {
        "constant_descriptions": [{name: description} for name, (description, _) in constants.items()],
        "constant_values": [value for _, value in constants.values()],
        "field_descriptions": [{name: description} for name, description in fields.items()],
        "field_values": every.loc[~lacking, list(fields)].astype(object).to_numpy().tolist(),
    }, notes


def _dataset(curve: ExportedCurve) -> str:
    return f"{curve.dataset}, sha256 {curve.metadata.get('dataset_sha256', '')}"


def _qualities(curve: ExportedCurve) -> dict[str, Any]:
    """The option `quality` of each point, when all have a number there."""
    card = curve.metadata.get("card", {})
    options = {point["id"]: point.get("options", {}).get("quality") for point in card.get("points", [])}
    found = {row["point"]: options.get(row["point"]) for row, _ in curve.points}
    return found if all(isinstance(value, int | float) for value in found.values()) else {}


def export_codec_compare(
    out: Path, to: Path, codecs: Iterable[str] = (), datasets: Iterable[str] = ()
) -> tuple[list[Path], list[str]]:
    """Write a batch for each codec and dataset, and batches.json, which lists them: the page's `?load=`.

    Parameters
    ----------
    out : Path
        Folder of results.
    to : Path
        Folder of the files; made where it is missing.
    codecs, datasets : iterable of str
        Only these; all by default.

    Returns
    -------
    paths : list of Path
        The files written.
    notes : list of str
        What is left out of them, and why.

    Raises
    ------
    UsageError
        When there is nothing to export, or a name is unknown.
    """
    paths, notes = [], []
    for curve in exported_curves(out, codecs, datasets):
        batch, left_out = codec_compare(curve)
        paths.append(_write(to, curve.stem, batch))
        notes += left_out
    return [*paths, _write(to, "batches", [[path.name] for path in paths])], notes


# ---- CompressAI


def compressai(curve: ExportedCurve) -> dict:
    """Make a results file of CompressAI.

    Parameters
    ----------
    curve : ExportedCurve

    Returns
    -------
    dict
        Name, description and a list of values for each metric that no point lacks.
    """
    columns = {
        "bpp": [row["bpp_mean"] for row, _ in curve.points],
        "psnr-rgb": [row["psnr_db"] for row, _ in curve.points],
        "ms-ssim-rgb": [row["ms_ssim"] for row, _ in curve.points],
        "encoding_time": [float(images.loc[:, "encode_s"].mean()) for _, images in curve.points],
        "decoding_time": [float(images.loc[:, "decode_s"].mean()) for _, images in curve.points],
    }
    if len({row["fid_id"] for row, _ in curve.points}) == 1 and curve.points[0][0]["fid_label"] == "FID":
        columns["fid"] = [row["fid"] for row, _ in curve.points]
    return {
        "name": curve.title,
        "description": curve.description,
        "meta": {"dataset": curve.dataset, "device": curve.points[0][0]["device"], "type": "image"},
        "results": {
            name: values
            for name, values in columns.items()
            if all(value is not None and math.isfinite(value) for value in values)
        },
    }


def export_compressai(
    out: Path, to: Path, codecs: Iterable[str] = (), datasets: Iterable[str] = ()
) -> tuple[list[Path], list[str]]:
    """Write a results file for each codec and dataset, as compressai.utils.plot reads them.

    Parameters
    ----------
    out : Path
        Folder of results.
    to : Path
        Folder of the files; made where it is missing.
    codecs, datasets : iterable of str
        Only these; all by default.

    Returns
    -------
    paths : list of Path
        The files written.
    notes : list of str
        Which metrics are left out of them.

    Raises
    ------
    UsageError
        When there is nothing to export, or a name is unknown.
    """
    paths, notes = [], []
    for curve in exported_curves(out, codecs, datasets):
        document = compressai(curve)
        paths.append(_write(to, curve.stem, document))
        lacking = [name for name in ("psnr-rgb", "ms-ssim-rgb") if name not in document["results"]]
        notes += [f"{curve.stem}: a point lacks {name}; it is left out" for name in lacking]
    return paths, notes


def import_compressai(
    path: Path, dataset: str, out: Path, *, badge: str = "re-run", source: str = "", system: str = "", variant: str = ""
) -> Path:
    """Keep CompressAI's results as published points.

    Parameters
    ----------
    path : Path
        One of its results files (JSON).
    dataset : str
        Id of the dataset card.
    out : Path
        Folder of results; the points go to its `published/`.
    badge : {"author-file", "re-run", "digitised"}
    source, system, variant : str
        Instead of what the file says.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    UsageError
        For a file that is none of these, and for a curve of a name that is known already with other values.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error}); give one of CompressAI's results files") from None
    results = data.get("results", data) if isinstance(data, dict) else {}
    metrics = {name: ours for name, ours in NAMES.items() if name in results}
    if not isinstance(results, dict) or "bpp" not in results or not metrics:
        known = ", ".join(results) if isinstance(results, dict) else type(results).__name__
        raise UsageError(f'{path}: needs "bpp" and one of {", ".join(NAMES)}; has {known or "neither"}')
    if len(set(metrics.values())) < len(metrics):
        raise UsageError(f"{path}: gives {' and '.join(metrics)}, two of one kind; remove one")
    for name in ("bpp", *metrics):
        values = results[name]
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise UsageError(f'{path}: "{name}" must be a list of numbers')
        if len(values) != len(results["bpp"]):
            raise UsageError(f'{path}: "{name}" has {len(values)} values, "bpp" {len(results["bpp"])}; one a point')
    system = system or str(data.get("name") or Path(path).stem)
    url = data.get("meta", {}).get("url") if isinstance(data.get("meta"), dict) else None
    common = {
        "system": system,
        "variant": variant,
        "dataset": dataset,
        "badge": badge,
        "plus_minus": "",
        "bpp_plus_minus": "",
    }
    common |= {"source": source or url or f"CompressAI results file {Path(path).name}"}
    common |= {"note": str(data.get("description") or "")}
    rows = [
        common
        | {"point": str(number + 1), "bpp": bpp, "metric": ours, "value": results[name][number]}
        | {"protocol": METRICS[ours].published}
        for name, ours in metrics.items()
        for number, bpp in enumerate(results["bpp"])
    ]
    return published.keep(pd.DataFrame(rows, columns=list(published.COLUMNS)), out, path)


def _write(folder: Path, stem: str, content: object) -> Path:
    path = Path(folder) / f"{stem}.json"
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path
