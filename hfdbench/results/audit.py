"""A table of somebody's paper as published points, and what in it cannot be compared with others' numbers, and why.

Conventions: the table is CSV with a row for each point, as papers' repositories keep them: a rate and some metrics, under the
names of NAMES in any case, and perhaps a system and a point. How a number was taken decides what it may be compared with, and
no table says it: the resize rule before Inception, the patches, the network of LPIPS, whether rates were coded or estimated.
What the caller does not state is looked for in the code beside the table (the checkout that it lies in) and in known points of
the same source; what cannot be found must be stated, if only as "unknown". An unknown protocol meets no figure of ours.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hfdbench.cards.schema import DatasetCard
from hfdbench.errors import UsageError, unknown
from hfdbench.metrics.registry import METRICS, PATCHES, small_sample_note
from hfdbench.results import published

# Their names (lower case, without separators) -> our columns.
NAMES = {
    **{name: "bpp" for name in ("bpp", "rate", "bitrate", "bitsperpixel")},
    **{name: "psnr_db" for name in ("psnr", "psnrdb", "psnrrgb")},
    **{name: "ms_ssim" for name in ("msssim", "msssimrgb")},
    **{name: "system" for name in ("system", "method", "codec", "model", "name")},
    **{name: "point" for name in ("point", "quality", "q", "lambda", "lmbda")},
    **{name: name for name in ("lpips", "dists", "fid", "kid", "variant", "dataset", "ssimulacra2", "butteraugli")},
}
MEASURES = ("psnr_db", "ms_ssim", "lpips", "dists", "fid", "kid", "ssimulacra2", "butteraugli")
RESIZES = {  # rule by which 256 pixels become Inception's 299 -> what a reader must know of it
    "torch-fidelity": "TF1's bilinear, as ours",
    "pytorch-fid": "half-pixel bilinear",
    "clean-fid": "bicubic in floating point",
    "unknown": "resize unknown",
}
CUTS = ("fid256", "whole", "unknown")
NETWORKS = ("alex", "vgg", "squeeze", "unknown")
RATES = {"coded": "", "estimated": "rate estimated, not coded", "unknown": "rate coded or estimated: unstated"}
IMPORTS = {  # what code mentions -> resize rule
    "pytorch-fid": re.compile(r"\bpytorch[-_]fid\b"),
    "clean-fid": re.compile(r"\bclean[-_]?fid\b"),
    "torch-fidelity": re.compile(r"\btorch[-_]fidelity\b"),
}
LPIPS_NET = re.compile(r"LPIPS\([^)]*net(?:_type)?\s*=\s*[\"'](alex|vgg|squeeze)")
MOST_FILES, MOST_BYTES = 2000, 500_000  # of a checkout that are read
SAME_RATE = 0.01  # points of one system within this share of the rate are the same point
SAME_VALUE = {"psnr_db": 0.05, "ms_ssim": 0.002, "lpips": 0.002, "dists": 0.002, "fid": 0.05, "kid": 0.0002}


@dataclass(frozen=True)
class Protocol:
    """How the numbers of a table were taken; "" is not stated."""

    resize: str = ""
    patches: str = ""
    network: str = ""
    rate: str = ""


@dataclass(frozen=True)
class Audit:
    """Outcome: the points, ready for `published.keep`, and sentences on what was found and what conflicts."""

    points: pd.DataFrame
    found: tuple[str, ...]
    conflicts: tuple[str, ...]


def audit(
    path: Path,
    dataset: DatasetCard,
    stated: Protocol,
    known: pd.DataFrame,
    *,
    system: str = "",
    variant: str = "",
    by: str = "",
    badge: str = "author-file",
    source: str = "",
) -> Audit:
    """Read a table and name what in it cannot be compared.

    Parameters
    ----------
    path : Path
        The CSV file.
    dataset : DatasetCard
        The set that it was measured on.
    stated : Protocol
        What the caller knows of the protocol.
    known : DataFrame
        Published points to hold it against, as `published.read` gives them.
    system, variant : str
        Of all rows; by default the table's columns of these names, and the name of the file.
    by : str
        A column of the table that tells its curves apart; its values go into the variant.
    badge : {"author-file", "re-run", "digitised"}
    source : str
        Where the table is from, repository and path; the file's name by default.

    Returns
    -------
    Audit

    Raises
    ------
    UsageError
        For a table without rates or metrics, a value that cannot be right, and a protocol that is neither stated nor found.
    """
    table = published.read_csv(path)
    columns = {name: NAMES.get(re.sub(r"[^a-z0-9]", "", name.lower())) for name in table.columns}
    ours = {column: name for name, column in columns.items() if column}
    measures = [column for column in MEASURES if column in ours]
    if "bpp" not in ours or not measures:
        raise UsageError(
            f"{path}: needs a column bpp and one of {', '.join(MEASURES)}; has {', '.join(map(str, table.columns))}"
        )
    if by and by not in table.columns:
        raise UsageError(f"{path}: {unknown('column', by, table.columns)}")
    source = source or path.name
    protocol, found = _completed(path, dataset, stated, known, measures, source)
    conflicts = [
        f'column "{name}": no metric of hfdbench; left out'
        for name, column in columns.items()
        if not column and name != by
    ]
    rows = []
    for place, line in enumerate(table.to_dict("records")):
        cell = {column: line[name] for column, name in ours.items()}
        common = {
            "system": system or cell.get("system") or path.stem,
            "variant": " ".join(filter(None, [variant or cell.get("variant", ""), f"{by} {line[by]}" if by else ""])),
            "point": cell.get("point") or str(place + 1),
            "dataset": dataset.id,
            "bpp": cell["bpp"],
            "badge": badge,
            "source": source,
            "note": RATES[protocol.rate],
            "plus_minus": "",
            "bpp_plus_minus": "",
        }
        rows += [
            common | {"metric": column, "value": cell[column], "protocol": _protocol(column, protocol)}
            for column in measures
            if cell[column] not in ("", "-", "nan", "NaN")
        ]
    points = published.checked(pd.DataFrame(rows, columns=list(published.COLUMNS)), path)
    incomparable, comparable = _compared(points, dataset, protocol, known)
    found += comparable
    conflicts += incomparable + _differing(points, known)
    return Audit(points, tuple(found), tuple(conflicts))


def _completed(
    path: Path, dataset: DatasetCard, stated: Protocol, known: pd.DataFrame, measures: list[str], source: str
) -> tuple[Protocol, list[str]]:
    """The protocol with what can be found about it, and where that was found. Raises UsageError for what must be stated."""
    for option, value, allowed in (
        ("resize", stated.resize, RESIZES),
        ("patches", stated.patches, CUTS),
        ("network", stated.network, NETWORKS),
        ("rate", stated.rate, RATES),
    ):
        if value and value not in allowed:
            raise unknown(f"--{option}", value, allowed)
    resize, network, found = stated.resize, stated.network, []
    seen = _mentions(path)
    same = known.loc[known["source"].map(_repository) == (_repository(source) or "-")]
    if "fid" in measures or "kid" in measures:
        tools = [name for name in IMPORTS if name in seen]
        for name in tools:
            found.append(f"{seen[name]} uses {name}: {RESIZES[name]} resize")
        if stated.resize and tools and stated.resize not in tools and stated.resize != "unknown":
            found.append(f"--resize {stated.resize} is taken all the same")
        if not resize and len(tools) == 1:
            resize = tools[0]
        if not resize:
            taken = set(same[same["metric"].map(_of_patches).astype(bool)]["protocol"])
            if len(taken) == 1:
                resize = taken.pop().partition(", ")[2] or "torch-fidelity"
                found.append(f"known points of {_repository(source)} are by {resize}: {RESIZES.get(resize, resize)}")
    if "lpips" in measures:
        if "lpips" in seen:
            found.append(f"{seen['lpips']} uses LPIPS by {seen['net']}")
            network = network or seen["net"]
        taken = set(same[same["metric"] == "lpips"]["protocol"])
        network = network or (taken.pop() if len(taken) == 1 else "")
    missing = []
    if ("fid" in measures or "kid" in measures) and not resize:
        missing.append(f"--resize ({', '.join(RESIZES)}): by which rule patches were brought to Inception's size")
    if ("fid" in measures or "kid" in measures) and not stated.patches:
        missing.append(f"--patches ({', '.join(CUTS)}): what FID was taken over")
    if "lpips" in measures and not network:
        missing.append(f"--network ({', '.join(NETWORKS)}): of LPIPS")
    if not stated.rate:
        missing.append(f"--rate ({', '.join(RATES)}): whether streams were written and counted")
    if missing:
        found_in_files = f" Found: {'; '.join(found)}." if found else ""
        raise UsageError(f"{path}: how it was measured is not stated: give {'; '.join(missing)}.{found_in_files}")
    return Protocol(resize, stated.patches, network, stated.rate), found


def _mentions(path: Path) -> dict[str, str]:
    """Tools that the code of the checkout around a file mentions, and the first file that does, relative to the checkout."""
    root = next((folder for folder in list(path.resolve().parents)[:4] if (folder / ".git").exists()), None)
    if root is None:
        return {}
    files = sorted(f for pattern in ("*.py", "*.toml", "*requirements*.txt", "*.ipynb") for f in root.rglob(pattern))
    found: dict[str, str] = {}
    for file in files[:MOST_FILES]:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            continue
        code = file.read_text(encoding="utf-8", errors="replace")
        place = file.relative_to(root).as_posix()
        for name, pattern in IMPORTS.items():
            if pattern.search(code):
                found.setdefault(name, place)
        if "lpips" not in found and (net := LPIPS_NET.search(code)):
            found |= {"lpips": place, "net": net[1]}
    return found


def _repository(source: str) -> str:
    """owner/name at the beginning of a source, "" without one."""
    match = re.match(r"(?:https?://github\.com/)?([\w.-]+/[\w.-]+)(?=[\s/:]|$)", source)
    return match[1] if match else ""


def _protocol(column: str, protocol: Protocol) -> str:
    """The protocol of a column, in the words of the published files."""
    if _of_patches(column):
        patches = "patches unknown" if protocol.patches == "unknown" else protocol.patches
        tool = {"torch-fidelity": "", "unknown": "resize unknown"}.get(protocol.resize, protocol.resize)
        return ", ".join(filter(None, [patches, tool]))
    if column == "lpips":
        return "net unstated" if protocol.network == "unknown" else protocol.network
    return METRICS[column].published or "mean"


def _compared(
    points: pd.DataFrame, dataset: DatasetCard, protocol: Protocol, known: pd.DataFrame
) -> tuple[list[str], list[str]]:
    """What may not be compared with what, by its protocol; and what may though hfdbench measures in another way."""
    conflicts, comparable = [], []
    kinds: Any = points.groupby(["metric", "protocol"])
    for (metric, own), _ in kinds:
        of_metric = known.loc[(known["metric"] == metric) & (known["dataset"] == dataset.id)]
        here = {"fid256", "whole"} if _of_patches(metric) else {METRICS[metric].published}
        others = of_metric[of_metric["protocol"] != own]
        if own in here and others.empty:
            continue
        name = METRICS[metric].name
        with_ = _systems(of_metric[of_metric["protocol"] == own])
        for other, some in others.groupby("protocol"):
            conflicts.append(
                f"{name} by {_words(metric, own)} is not comparable with {_systems(some)} ({_words(metric, other)})"
            )
        if own not in here:
            conflicts.append(f"{name} by {_words(metric, own)} is not comparable with what hfdbench measures")
            if with_:
                comparable.append(f"{name} is comparable with {with_}, taken the same way")
    if protocol.rate != "coded":
        conflicts.append(f"{RATES[protocol.rate]}: not comparable with rates of streams; kept as a note on every point")
    for metric in sorted(set(points["metric"])):
        conflicts += filter(None, [small_sample_note(metric, dataset.patches)])
    return conflicts, comparable


def _of_patches(metric: str) -> bool:
    """Whether a metric's protocol says how patches are cut and resized."""
    return METRICS[metric].published == PATCHES


def _words(metric: str, protocol: str) -> str:
    patches, _, tool = protocol.partition(", ")
    if not _of_patches(metric):
        return protocol
    return f"{patches}, {tool}'s resize: {RESIZES[tool]}" if tool in RESIZES else protocol


def _systems(rows: pd.DataFrame) -> str:
    return ", ".join(sorted(set(rows["system"])))


def _differing(points: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """Points of systems that are known at the same rate, by the same protocol, with another value."""
    conflicts = []
    for row in points.to_dict("records"):
        same = known.loc[
            (known["system"].str.lower() == row["system"].lower())
            & (known[["dataset", "metric", "protocol"]] == [row["dataset"], row["metric"], row["protocol"]]).all(axis=1)
            & ((known["bpp"] / row["bpp"] - 1).abs() <= SAME_RATE)
        ]
        slack = SAME_VALUE.get(row["metric"], 0.0)
        gaps = (same["value"] - row["value"]).abs() - same["plus_minus"].fillna(0) - slack
        if len(same) and (gaps > 0).all():
            other = same.loc[gaps.idxmin()]
            conflicts.append(
                f"{row['system']} at {row['bpp']:.4g} bpp: {METRICS[row['metric']].name} {row['value']:.4g} here, "
                f"{other['value']:.4g} in {other['source']}; one of them was taken in another way"
            )
    return conflicts


def keep(result: Audit, out: Path, name: Path | str) -> list[Path]:
    """Write the audited points below `out`, one file for each curve; see `published.keep`."""
    curves: Iterable[tuple] = result.points.groupby(["system", "variant"], sort=False)
    return [published.keep(some, out, name) for _, some in curves]
