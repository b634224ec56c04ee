"""What the bytes of a stream are for: header, hyper-latents, latents, as the codec itself tells them.

Conventions: bits per pixel over a dataset: all bits of a part / all pixels, so that the parts of a point add up to its bpp.
A codec takes part when its class has `ledger(stream: bytes) -> dict[str, int]`, bytes by part in the order of the stream;
the parts must add up to the stream. Codecs that decode the streams of another have its ledger and are not repeated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hfdbench.cards.schema import CodecCard, FigureCard
from hfdbench.codecs.protocol import blueprint, find_adapter, load_codec
from hfdbench.errors import Unavailable, UsageError
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import read_table


@dataclass(frozen=True)
class Bar:
    """One point: bits per pixel by part."""

    codec: str
    title: str
    point: str
    parts: Mapping[str, float]

    @property
    def bpp(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class LedgerData:
    """All that a ledger figure says. `parts` in the order of the stream."""

    id: str
    title: str
    dataset: str
    dataset_title: str
    bars: tuple[Bar, ...]
    parts: tuple[str, ...]
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def ledger_data(
    points: pd.DataFrame, card: FigureCard, dataset: str, title: str, codecs: Mapping[str, CodecCard], out: Path
) -> LedgerData:
    """The ledger of every stored stream of a dataset whose codec tells one.

    Raises Unavailable when there is none, UsageError for a damaged stream table or a ledger that does not add up.
    """
    rows = points.loc[(points["dataset"] == dataset) & (points["status"] == "ok")]
    if card.codecs:
        rows = rows[rows["codec"].isin(card.codecs)]
    bars, notes, images = [], [], set()
    for row in rows.drop_duplicates(["codec", "point"]).sort_values(["codec", "bpp"]).itertuples():
        codec = codecs.get(row.codec)
        if codec is None or codec.streams or codec.python or not _has_ledger(codec, row.point):
            continue
        try:
            bars.append(_bar(row, codec, out))
            images.add(int(row.images))
        except Unavailable as error:
            notes.append(f"{row.codec} {row.point}: {error.reason}")
    if not bars:
        why = f" ({'; '.join(notes)})" if notes else ": no codec measured there tells the parts of its streams"
        raise Unavailable(
            f'figure "{card.id}": no ledger for {dataset}{why}', f"hfdbench run --codec elic-mse --dataset {dataset}"
        )
    parts = tuple(dict.fromkeys(part for bar in bars for part in bar.parts))
    facts = (f"{max(images)} images", "rate: all bits / all pixels")
    return LedgerData(card.id, card.title, dataset, title, tuple(bars), parts, facts, tuple(notes))


def _has_ledger(card: CodecCard, point: str) -> bool:
    return hasattr(find_adapter(blueprint(card, point)), "ledger")


def _bar(row, card: CodecCard, out: Path) -> Bar:
    table = _streams(row, out)
    codec: Any = load_codec(card, row.point)  # ledger() is optional
    total: dict[str, int] = {}
    for stream in table["stream"].to_pylist():
        parts = codec.ledger(stream)
        if sum(parts.values()) != len(stream):
            raise UsageError(
                f"{card.id} {row.point}: ledger() accounts for {sum(parts.values())} of {len(stream)} bytes; fix the codec"
            )
        for part, count in parts.items():
            total[part] = total.get(part, 0) + count
    return Bar(row.codec, row.title, row.point, {part: 8 * count / row.pixels for part, count in total.items()})


def _streams(row, out: Path):
    """The stream table of a point: that of its name whose bytes are the point's."""
    for path in ResultsFolder(Path(out)).all_streams(f"{row.codec}-{row.point}-{row.dataset}"):
        table = read_table(path, ["stream", "bytes"])
        if sum(table["bytes"].to_pylist()) == row.bytes:
            return table
    raise Unavailable("its streams are not stored", "hfdbench run")
