"""Pack a results folder into three files: its points, its images and what each image does to its distances.

`python -m hfdbench.results.golden FOLDER TO` writes TO/points.parquet, TO/images.parquet and TO/deviations.parquet, which every
verb that reads results takes in place of FOLDER. `--rekey` gives every trial the key that this version of hfdbench computes
from the card, weights and library versions here; numbers are not touched. Streams and features stay behind.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.identity import identity, stream_key, trial_key
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import arrays
from hfdbench.results.parquet import write_table
from hfdbench.results.stored import DEVIATIONS, PACKED_IMAGES, PACKED_POINTS, Results, StoredTrial

NAME = re.compile(r"deviations-(?P<key>[0-9a-f]{16})-(?P<column>\w+)-v(?P<method>\d+)")


def pack(source: Path, to: Path, *, rekey: bool = False) -> list[str]:
    """Pack the results of a folder.

    Parameters
    ----------
    source : Path
        A results folder, packed or not.
    to : Path
        Folder of the three files; it may be `source` itself.
    rekey : bool
        Compute the keys anew.

    Returns
    -------
    list of str
        Why some trials have kept their keys: weights or a card that are not here.
    """
    results = Results(source)
    points, images, keys, notes = [], [], {}, []
    for trial in results.trials():
        metadata, images_metadata = dict(trial.metadata), trial.read_images_metadata()
        if rekey:
            try:
                new = _keys(trial)
                keys.setdefault(trial.key, set()).add(new["trial_key"])
                metadata, images_metadata = metadata | new, images_metadata | new
            except (UsageError, Unavailable) as error:
                notes.append(f"{trial.name} keeps its key: {error}")
        name = "-".join([*(trial.row[column] for column in ("codec", "point", "dataset")), metadata["trial_key"]])
        texts = [json.dumps(entry, sort_keys=True) for entry in (metadata, images_metadata)]
        points.append({"trial": name, "metadata": texts[0], "images_metadata": texts[1], **trial.row})
        table = trial.read_images()
        images.append(table.add_column(0, "trial", pa.array([name] * len(table), pa.string())))
    write_table(to / "points.parquet", pa.Table.from_pylist(points, PACKED_POINTS), {})
    write_table(to / "images.parquet", pa.concat_tables(images).cast(PACKED_IMAGES), {})
    write_table(to / "deviations.parquet", _deviations(results, keys), {})
    return notes


def _keys(trial: StoredTrial) -> dict[str, str]:
    """Stream and trial key of a trial under the identity of its card as it is here."""
    cards = find_cards(CodecCard, ())
    stored = trial.metadata["card"]
    card = cards.get(stored["id"]) or _variant(stored, cards)
    encoder = cards[card.streams] if card.streams else card
    point = trial.row["point"]
    streams = stream_key(identity(encoder, point), trial.metadata["dataset_sha256"])
    device = str(trial.row["device"]).partition(":")[0]
    return {
        "stream_key": streams,
        "trial_key": trial_key(streams, identity(card, point), int(trial.row["seed"]), device),
    }


def _variant(stored: dict, cards: dict[str, CodecCard]) -> CodecCard:
    """The card of a variant, as `hfdbench claims --run` makes it: that of its base with other options."""
    base = cards.get(stored["id"].partition(".")[0])
    if base is None:
        raise UsageError(f"no card of {stored['id']} is here")
    points = [
        point.model_copy(update={"options": entry["options"]})
        for entry in stored["points"]
        for point in base.points
        if point.id == entry["id"]
    ]
    return base.model_copy(update={"id": stored["id"], "points": tuple(points)})


def _deviations(results: Results, keys: dict[str, set[str]]) -> pa.Table:
    """What is kept of what each image does to a distance, under the new keys of its trials."""
    found = dict(results.packed_deviations)
    for path in sorted((results.folder.root / "cache").glob("deviations-*.npy")):
        match, values = NAME.fullmatch(path.stem), arrays.kept(path)
        if match and values is not None:
            found[match["key"], match["column"], int(match["method"])] = values
    rows = [
        {"trial_key": new, "column": column, "method": method, "deviations": values}
        for (key, column, method), values in found.items()
        for new in sorted(keys.get(key, {key}))
    ]
    return pa.Table.from_pylist(rows, DEVIATIONS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m hfdbench.results.golden", description=(pack.__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument("--rekey", action="store_true")
    given = parser.parse_args(arguments)
    for note in pack(given.folder, given.to, rekey=given.rekey):
        print(note, file=sys.stderr)


if __name__ == "__main__":
    main()
