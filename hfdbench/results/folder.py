"""Where everything lies in a results folder: every path, spelled here alone.

    points/    images/   features/   quality/   streams/    one Parquet file per trial (features: and network, quality: and metric)
    work/<key>/                  pieces of tables that are not finished; work/shard-….json: what a shard was part of
    damaged/                     files that were found damaged, kept to be looked at
    cache/  matched/             what images do to distances, slow pictures, sizes of streams; cards of `hfdbench match`
    points.parquet images.parquet deviations.parquet    a packed folder (`hfdbench.results.golden`): all trials in three files

Conventions: a trial's files bear its name, <codec>-<point>-<dataset>-<trial key>. Folders of schema version 1 have crops/
in place of images/; they are read, and new files go to images/.
"""

from dataclasses import dataclass
from pathlib import Path

from hfdbench.codecs.identity import key

KEY, NETWORK_KEY = "[0-9a-f]" * 16, "[0-9a-f]" * 8


@dataclass(frozen=True)
class ResultsFolder:
    """The paths below `root`; nothing is read or made."""

    root: Path

    # ---- finished tables

    def points(self, trial: str) -> Path:
        """Path of a trial's row of the points table."""
        return self.root / "points" / f"{trial}.parquet"

    def all_points(self) -> list[Path]:
        """Paths of every points file there is, by name."""
        return sorted((self.root / "points").glob("*.parquet"))

    def copied_points(self) -> list[Path]:
        """Paths of points files whose names do not end with a key, as those of trials do."""
        ours = set((self.root / "points").glob(f"*-{KEY}.parquet"))
        return [path for path in self.all_points() if path not in ours]

    def points_of(self, label: str) -> list[Path]:
        """Paths of the points files of <codec>-<point>-<dataset>, under any key."""
        return sorted((self.root / "points").glob(f"{_literal(label)}-{KEY}.parquet"))

    def images(self, trial: str) -> Path:
        """Path of a trial's images table: in crops/ where only an older version wrote it."""
        path, old = (self.root / name / f"{trial}.parquet" for name in ("images", "crops"))
        return old if old.exists() and not path.exists() else path

    def new_images(self, trial: str) -> Path:
        """Path that a trial's images table is written to."""
        return self.root / "images" / f"{trial}.parquet"

    def features(self, trial: str, network: str) -> Path:
        """Path of the features of a trial's decoded patches. `network`: key of the network."""
        return self.root / "features" / f"{trial}-{network}.parquet"

    def all_features(self, trial: str) -> list[Path]:
        """Paths of the features of a trial that are there, by any network."""
        return sorted((self.root / "features").glob(f"{_literal(trial)}-{NETWORK_KEY}.parquet"))

    def reference(self, dataset: str, sha256: str | None, protocol: str, network: str, device: str | None) -> Path:
        """Path of the features of a dataset's originals."""
        number = key("reference", sha256, protocol, network, device)
        return self.root / "features" / f"reference-{dataset}-{number}.parquet"

    def quality(self, trial: str, metric: str) -> Path:
        """Path of a trial's values of a metric of `--metric`."""
        return self.root / "quality" / f"{trial}-{metric}.parquet"

    def streams(self, name: str) -> Path:
        """Path of the streams of a name, <encoder>-<point>-<dataset>-<stream key>."""
        return self.root / "streams" / f"{name}.parquet"

    def all_streams(self, label: str) -> list[Path]:
        """Paths of the streams of <encoder>-<point>-<dataset>, under any key."""
        return sorted((self.root / "streams").glob(f"{_literal(label)}-{KEY}.parquet"))

    def streams_of_key(self, stream_key: str) -> Path | None:
        """Path of the streams of a key, whoever encoded them; None where they are not stored."""
        return next(iter(sorted((self.root / "streams").glob(f"*-{stream_key}.parquet"))), None)

    # ---- a packed folder

    @property
    def packed_points(self) -> Path:
        return self.root / "points.parquet"

    @property
    def packed_images(self) -> Path:
        return self.root / "images.parquet"

    @property
    def packed_deviations(self) -> Path:
        return self.root / "deviations.parquet"

    # ---- work, and what can be made again

    def work(self, number: str) -> Path:
        """Folder of the unfinished tables of a stream key, trial key or reference."""
        return self.root / "work" / number

    def shard(self, index: int, count: int) -> Path:
        """Path of the record of a shard of a run."""
        return self.root / "work" / f"shard-{index:05d}-{count:05d}.json"

    def all_shards(self) -> list[Path]:
        """Paths of the records of shards that are there."""
        return sorted((self.root / "work").glob("shard-*-*.json"))

    @property
    def damaged(self) -> Path:
        return self.root / "damaged"

    def deviations(self, trial_key: str, column: str, method: int) -> Path:
        """Path of what each image does to a distance."""
        return self.root / "cache" / f"deviations-{trial_key}-{column}-v{method}.npy"

    def picture(self, trial_key: str, image: int) -> Path:
        """Path of a decoded picture that took long."""
        return self.root / "cache" / "pictures" / trial_key / f"{image}.png"

    def pull(self, features: Path, reference: Path) -> Path:
        """Path of each patch's pull on the distance between two files of features."""
        return self.root / "cache" / "pull" / f"{features.stem}-{reference.stem.rpartition('-')[2]}.npy"

    def coded_bytes(self, stream_key: str) -> Path:
        """Path of the sizes of streams that `hfdbench match` encoded."""
        return self.root / "cache" / f"bytes-{stream_key}.jsonl"

    def matched_card(self, name: str) -> Path:
        """Path of a card that `hfdbench match` writes."""
        return self.root / "matched" / "codecs" / f"{name}.toml"

    def set_aside(self, path: Path) -> Path:
        """Move a damaged file to damaged/, under its table's name and its own; the new path."""
        self.damaged.mkdir(parents=True, exist_ok=True)
        name, number = f"{path.parent.name}-{path.name}", 0
        while (place := self.damaged / (f"{name}.{number}" if number else name)).exists():
            number += 1
        return path.rename(place)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
