"""Carry out a request: what is stored is not done again, what is killed resumes, what fails is told and the rest kept.

Conventions: every trial passes ENCODE (pictures -> streams/), DECODE (streams alone, in other processes; no encoder is
alive then and its folders are gone) and SCORE (crops/, features/, points/). Pictures are read and metrics computed in
this process, codecs run in worker processes. Tables do not depend on the number of workers nor on interruptions,
timings excepted: features do not depend on their neighbours in a batch, and files have fixed row groups.
"""

import hashlib
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from hfdbench.codecs.identity import key
from hfdbench.codecs.pool import SHUFFLED, CodecFailed, Pool, find_seal, in_order, require_sandbox
from hfdbench.datasets.dataset import Dataset
from hfdbench.errors import ImageError, Unavailable, UsageError
from hfdbench.files import places
from hfdbench.metrics.distribution.patches import patches
from hfdbench.metrics.image.measure import BY_NAME, Measure, Place, open_measure
from hfdbench.metrics.networks.extractors import ALWAYS, Extractor, Network, find_extractor, parse_feature
from hfdbench.metrics.registry import frechet_column, network_columns
from hfdbench.pipeline.aggregate import Compared, environment, measured_row, point_row
from hfdbench.pipeline.plan import Request, Trial, make_plan
from hfdbench.results import store

if TYPE_CHECKING:
    import pandas as pd

STREAM_ROWS, CROP_ROWS, FEATURE_ROWS = 16, 4096, 256  # of a row group


class Progress(Protocol):
    """Where the journey is told: `total` steps begin, some are done, something is worth a line."""

    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


class _Silent:
    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Summary:
    """What became of a request: labels of trials done now and done before; (label, reason) of those skipped;

    (label, errors) of those that failed wholly or for some images, now or when they were stored; their points.
    """

    done: tuple[str, ...]
    existing: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, tuple[str, ...]], ...]
    points: "pd.DataFrame"
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0: all well; 1: something failed and the rest was kept. (2 is a UsageError, which is raised.)"""
        return 1 if self.failed else 0


def run(request: Request, progress: Progress | None = None) -> Summary:
    """Measure what is not measured yet. Raises UsageError, before the first encode, for what can be known by then."""
    return _Run(request, progress or _Silent(), may_encode=True).summary()


def score(request: Request, progress: Progress | None = None) -> Summary:
    """Complete trials from their stored streams, as when Inception turns up later; never encodes."""
    return _Run(request, progress or _Silent(), may_encode=False).summary()


@dataclass(frozen=True)
class _Need:
    """What a trial lacks; `features`: names of extractors.

    `decode`: its streams must be decoded, for the crops table, features or measures of --metric.
    """

    crops: bool
    features: tuple[str, ...]
    measures: tuple[str, ...]
    point: bool

    @property
    def decode(self) -> bool:
        return self.crops or bool(self.features or self.measures)


class _Run:
    def __init__(self, request: Request, progress: Progress, may_encode: bool):
        self.request, self.progress, self.may_encode = request, progress, may_encode
        self.out = Path(request.out)
        self.notes: list[str] = []
        self.failed: dict[str, tuple[str, ...]] = {}
        self.skipped: dict[str, str] = {}
        self.unmeasured: dict[str, Unavailable] = {}
        self.absent: dict[str, Unavailable] = {}
        self._networks: dict[str, Network] = {}

    def summary(self) -> Summary:
        import pandas as pd

        plan = make_plan(self.request)
        _ = self.measures
        self.skipped.update(plan.skipped)
        needs = {trial: self._need(trial) for trial in plan.trials}
        existing = [trial for trial, need in needs.items() if not need.point]
        todo = {trial: need for trial, need in needs.items() if need.point}
        if not self.may_encode:
            for trial in [t for t, need in todo.items() if need.decode and not self._streams(t).exists()]:
                self.skipped[trial.label] = "no stored streams; hfdbench run makes them"
                del todo[trial]
        for name, error in self.absent.items():
            if todo or name not in ALWAYS:
                self._note(f"{_missing(name)}: {error}; then: hfdbench score{_asking(name)}")
        for name, error in self.unmeasured.items():
            self._note(f"no {name}: {error}; then: hfdbench score --metric {name}")
        if self.request.dry_run:
            done = []
            for trial, need in todo.items():
                steps = ["encode"] * (need.decode and not self._streams(trial).exists()) + ["decode"] * need.decode
                self._note(f"would run {trial.label}: {', '.join([*steps, 'score'])}")
        else:
            for trial, need in needs.items():
                for work, finished in (
                    (trial.stream_key, self._streams(trial).exists()),
                    (trial.trial_key, not need.decode),
                ):
                    if finished:
                        store.discard(self.out, work)
            done = self._carry_out(todo) if todo else []
        rows = [store.read_table(self._points(trial)) for trial in [*existing, *done]]
        for trial, row in zip([*existing, *done], rows, strict=True):
            if row["status"][0].as_py() != "ok":
                self.failed[trial.label] = self._image_errors(trial)
        return Summary(
            done=tuple(trial.label for trial in done),
            existing=tuple(trial.label for trial in existing),
            skipped=tuple(self.skipped.items()),
            failed=tuple(self.failed.items()),
            points=pa.concat_tables([store.completed(row, store.POINTS) for row in rows]).to_pandas()
            if rows
            else pd.DataFrame(columns=store.POINTS.names),
            notes=tuple(self.notes),
        )

    # ---- places

    def _streams(self, trial: Trial) -> Path:
        return self.out / "streams" / f"{trial.stream_name}.parquet"

    def _crops(self, trial: Trial) -> Path:
        return self.out / "images" / f"{trial.name}.parquet"

    def _points(self, trial: Trial) -> Path:
        return self.out / "points" / f"{trial.name}.parquet"

    def _features(self, trial: Trial, extractor: Extractor) -> Path:
        return self.out / "features" / f"{trial.name}-{extractor.key}.parquet"

    def _quality(self, trial: Trial, measure: str) -> Path:
        return self.out / "quality" / f"{trial.name}-{measure}.parquet"

    def _reference(self, dataset: Dataset, extractor: Extractor) -> Path:
        reference = key("reference", dataset.sha256, dataset.protocol, extractor.key, self.request.device)
        return self.out / "features" / f"reference-{dataset.id}-{reference}.parquet"

    # ---- extractors of features: their files are found at once, a network is built when features are needed

    @cached_property
    def extractors(self) -> dict[str, Extractor]:
        """Those that are always used and those asked for, if they are here; the others stand in `absent`."""
        request, found = self.request, {}
        root = places.data_root(request.data_root)
        asked = {name: None for name in ALWAYS} | {"inception": request.inception}
        for name, file in (asked | dict(map(parse_feature, request.features))).items():
            try:
                found[name] = find_extractor(name, file, root, allow_download=not request.dry_run)
            except Unavailable as error:
                self.absent[name] = error
        return found

    def _network(self, name: str) -> Network:
        if name not in self._networks:
            self._networks[name] = self.extractors[name].build(self.request.device)
        return self._networks[name]

    # ---- measures of --metric: opened at once, so that what is missing is told before the first encode

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """Those asked for that work here; the others stand in `unmeasured`. Raises UsageError for an unknown name."""
        request, found = self.request, {}
        root, weights = places.data_root(request.data_root), dict(request.weights)
        for name in weights:
            if name not in request.metrics:
                raise UsageError(f"--weights {name}=…: {name} is not asked for; add --metric {name}")
        for name in dict.fromkeys(request.metrics):
            try:
                found[name] = open_measure(name, Place(weights.get(name), root, request.device, not request.dry_run))
            except Unavailable as error:
                self.unmeasured[name] = error
        return found

    def _measured(self, trial: Trial) -> dict[str, Path]:
        """The stored values of a trial, whether asked for now or before."""
        paths = ((name, self._quality(trial, name)) for name in BY_NAME)
        return {name: path for name, path in paths if path.exists()}

    # ---- before the first encode

    def _need(self, trial: Trial) -> _Need:
        crops = not self._crops(trial).exists()
        features = tuple(name for name, e in self.extractors.items() if not self._features(trial, e).exists())
        if not crops and features and self._image_errors(trial):
            features = ()  # a FID over some of the images would be another number: it is null then
        stored = {name: store.read_metadata(path).get("measure") for name, path in self._measured(trial).items()}
        measures = tuple(name for name, measure in self.measures.items() if stored.get(name) != measure.identity)
        point = crops or bool(features or measures) or not self._points(trial).exists()
        if not point:
            metadata = store.read_metadata(self._points(trial))
            used = _used(metadata)
            point = any(used.get(name) != extractor.key for name, extractor in self.extractors.items())
            point |= metadata.get("measures", {}) != stored
        return _Need(crops, features, measures, point)

    def _image_errors(self, trial: Trial) -> tuple[str, ...]:
        rows = store.read_table(self._crops(trial), ["name", "status", "error"]).to_pylist()
        return tuple(f"{row['name']}: {row['error']}" for row in rows if row["status"] != "ok")

    def _carry_out(self, todo: dict[Trial, _Need]) -> list[Trial]:
        """Everything in order; the trials that have a point now."""
        datasets = {trial.dataset.id: trial.dataset for trial in todo}
        patch_bytes = sum(4 * extractor.dimensions + 100 for extractor in self.extractors.values())
        patch_count = sum(t.dataset.expected_patches or len(t.dataset.names) for t in todo)
        store.prepare(self.out, (64 << 20) + patch_count * patch_bytes)
        images = (path for dataset in datasets.values() for path in dataset.paths)
        self._hidden = (self.out, places.data_root(self.request.data_root), *images)
        if self.request.require_seal:
            require_sandbox()
        self._environment = environment(self.request) | {"seal": find_seal()}
        references = [
            (dataset, extractor)
            for dataset in datasets.values()
            for extractor in self.extractors.values()
            if not self._reference(dataset, extractor).exists()
        ]
        for name in {extractor.name for _, extractor in references}.union(*(need.features for need in todo.values())):
            self._network(name)  # a damaged file is told before the first encode
        with self._pool("encoder") as pool:
            self._probe(todo, pool)
            encodes = {self._streams(t): t for t, n in todo.items() if n.decode and not self._streams(t).exists()}
            decodes = [trial for trial, need in todo.items() if need.decode]
            steps = sum(len(d.names) for d, _ in references) + sum(
                len(trial.dataset.names) for trial in [*encodes.values(), *decodes]
            )
            self.progress.start(steps, "images")
            for dataset, extractor in references:
                try:
                    self._refer(dataset, extractor)
                except ValueError as error:  # patches of several sizes
                    raise UsageError(f"dataset {dataset.id}: {error}") from None
            for trial in encodes.values():
                self._guarded(trial, self._encode, trial, pool)
        done = []
        with self._pool("decoder") as pool:
            for trial, need in todo.items():
                if need.decode and not self._streams(trial).exists():
                    continue  # it failed above
                if self._guarded(trial, self._finish, trial, need, pool):
                    done.append(trial)
        return done

    def _pool(self, role: str) -> Pool:
        request = self.request
        return Pool(role, request.workers, request.device, request.timeout_s, hidden=self._hidden)

    def _guarded(self, trial: Trial, step: Callable, *arguments: object) -> bool:
        """Take one step of a trial; what a user can mend there fails this trial alone."""
        try:
            step(*arguments)
        except (UsageError, OSError, ValueError) as error:
            self.failed[trial.label] = (str(error),)
            self._note(f"{trial.label} failed: {error}")
            return False
        return True

    def _probe(self, todo: dict[Trial, _Need], pool: Pool) -> None:
        """Build every codec once, so that a missing program or a wrong option is told now. Drops trials from `todo`."""
        verdict: dict[tuple[str, str], CodecFailed | None] = {}
        for trial in [trial for trial, need in todo.items() if need.decode]:
            cards = [trial.codec] if self._streams(trial).exists() else [trial.encoder, trial.codec]
            for card in cards:
                if (card.id, trial.point) not in verdict:
                    verdict[card.id, trial.point] = _probe_one(pool, card, trial.point)
                error = verdict[card.id, trial.point]
                if error is None:
                    continue
                if error.type == "UsageError":
                    raise UsageError(error.message)
                if error.type == "Unavailable":
                    self.skipped[trial.label] = error.message
                else:
                    self.failed[trial.label] = (f"{card.id} cannot be built: {error}",)
                todo.pop(trial, None)

    def _refer(self, dataset: Dataset, extractor: Extractor) -> None:
        """Features of the originals. Raises UsageError when the whole set does not give the patches its card states."""
        path = self._reference(dataset, extractor)
        unreadable = 0
        with store.working(self.out, path.stem) as folder:
            if path.exists():
                return self.progress.advance(len(dataset.names))
            shards = store.Shards(folder, "features", store.features_schema(extractor.dimensions))
            self.progress.advance(shards.images)
            with shards:
                buffer = _Batches(self._network(extractor.name), extractor.dimensions, shards)
                for index in range(shards.images, len(dataset.names)):
                    try:
                        buffer.add(index, patches(dataset.load(index), dataset.protocol))
                    except ImageError:  # an error row of every trial, none of which has a FID then
                        unreadable += 1
                        buffer.add(index, [])
                    self.progress.advance()
                buffer.finish()
            if not unreadable and dataset.expected_patches not in (None, shards.rows()):
                raise UsageError(
                    f"dataset {dataset.id}: {shards.rows():,} patches where its card says {dataset.expected_patches:,}; "
                    "fetch the pictures again or fix the card"
                )
            shards.merge(path, self._environment | {"dataset_sha256": dataset.sha256}, FEATURE_ROWS)
            shutil.rmtree(folder, ignore_errors=True)

    # ---- the stages

    def _encode(self, trial: Trial, pool: Pool) -> None:
        dataset, path = trial.dataset, self._streams(trial)

        def one(index: int) -> dict:
            row = {"image": index, "name": dataset.names[index], "status": "error"}
            try:
                image = dataset.load(index)
                row |= {"height": image.shape[0], "width": image.shape[1]}
                ask = {"do": "encode", "shape": image.shape}
                answer, stream = pool.ask(trial.encoder, trial.point, ask, image.data.cast("B"))
                row |= {"stream": stream, "bytes": len(stream), "encode_s": answer["encode_s"], "status": "ok"}
            except (ImageError, CodecFailed) as error:
                row["error"] = str(error)
            return row

        with store.working(self.out, trial.stream_key) as folder:
            if path.exists():  # by another run that we waited for
                return self.progress.advance(len(dataset.names))
            shards = store.Shards(folder, "streams", store.STREAMS)
            self.progress.advance(shards.images)
            with shards:
                for row in in_order(pool, range(shards.images, len(dataset.names)), one):
                    shards.add(row["image"], pa.Table.from_pylist([row], store.STREAMS))
                    self.progress.advance()
            shards.merge(path, self._metadata(trial, trial.encoder), STREAM_ROWS)
            shutil.rmtree(folder, ignore_errors=True)

    def _finish(self, trial: Trial, need: _Need, pool: Pool) -> None:
        if need.decode:
            self._decode(trial, need, pool)
        self._conclude(trial, need)

    def _decode(self, trial: Trial, need: _Need, pool: Pool) -> None:
        """Streams -> crops, features and measures, whichever are missing."""
        crops_path = self._crops(trial)
        with store.working(self.out, trial.trial_key) as folder:
            crops = None if crops_path.exists() else store.Shards(folder, "crops", store.CROPS)
            features, buffers = {}, {}
            for name in need.features:
                extractor = self.extractors[name]
                schema = store.features_schema(extractor.dimensions)
                features[name] = store.Shards(folder, f"features-{extractor.key}", schema)
                buffers[name] = _Batches(self._network(name), extractor.dimensions, features[name])
            quality = {name: store.Shards(folder, f"quality-{name}", store.QUALITY) for name in need.measures}
            shards = [s for s in (crops, *features.values(), *quality.values()) if s is not None]
            start = min([s.images for s in shards], default=len(trial.dataset.names))
            stored = self._stored_pixels(trial) if crops is None else {}
            self.progress.advance(start)

            def one(stream: dict) -> tuple[dict, list, dict[str, list[dict]]]:
                crop, image, original = self._measure(trial, stream, pool)
                values = {name: _values(crop, self.measures[name], original, image) for name in quality}
                return crop, patches(image, trial.dataset.protocol) if buffers and image is not None else [], values

            with ExitStack() as stack:
                for s in shards:
                    stack.enter_context(s)
                for crop, cut, values in in_order(pool, self._stored_streams(trial, start), one, shuffled=SHUFFLED):
                    for name, rows in values.items():
                        quality[name].add(crop["image"], pa.Table.from_pylist(rows, store.QUALITY))
                    if crops is not None:
                        crops.add(crop["image"], pa.Table.from_pylist([crop], store.CROPS))
                    elif stored[crop["image"]] != crop.get("pixels_sha256"):
                        raise UsageError(
                            f"{crop['name']} decodes to other pixels than those of {crops_path}; "
                            "the codec or the machine has changed: delete that file and run again"
                        )
                    for buffer in buffers.values():
                        buffer.add(crop["image"], cut)
                    self.progress.advance()
                for buffer in buffers.values():
                    buffer.finish()
            metadata = self._metadata(trial, trial.codec)
            for name, table in features.items():
                table.merge(self._features(trial, self.extractors[name]), metadata, FEATURE_ROWS)
            for name, table in quality.items():
                identity = {"measure": self.measures[name].identity, "remark": self.measures[name].remark}
                table.merge(self._quality(trial, name), metadata | identity, CROP_ROWS)
            if crops is not None:
                crops.merge(crops_path, metadata, CROP_ROWS)
            shutil.rmtree(folder, ignore_errors=True)

    def _stored_pixels(self, trial: Trial) -> dict[int, str | None]:
        rows = store.read_table(self._crops(trial), ["image", "pixels_sha256"]).to_pylist()
        return {row["image"]: row["pixels_sha256"] for row in rows}

    def _stored_streams(self, trial: Trial, start: int) -> Iterator[dict]:
        for batch in store.read_batches(self._streams(trial)):
            for i in range(len(batch)):
                if batch["image"][i].as_py() >= start:
                    yield from batch.slice(i, 1).to_pylist()

    def _measure(self, trial: Trial, stream: dict, pool: Pool) -> tuple[dict, np.ndarray | None, np.ndarray | None]:
        """One row of the crops table, and the decoded image and its original when they can be compared."""
        from hfdbench.metrics.image import pixel as distortion

        row = {"codec": trial.codec.id, "point": trial.point, "dataset": trial.dataset.id, "status": "error"}
        row |= {name: stream[name] for name in ("image", "name", "width", "height", "bytes", "encode_s", "error")}
        if stream["status"] != "ok":
            return row, None, None
        row["pixels"] = pixels = row["width"] * row["height"]
        row["bpp"] = row["bytes"] * 8 / pixels
        row["stream_sha256"] = hashlib.sha256(stream["stream"]).hexdigest()
        try:
            ask = {"do": "decode", "seed": trial.seed}
            answer, body = pool.ask(trial.codec, trial.point, ask, stream["stream"], pixels)
            image = np.frombuffer(bytearray(body), np.uint8).reshape(answer["shape"])
            row["decode_s"] = answer["decode_s"]
            original = trial.dataset.load(stream["image"])
        except (ImageError, CodecFailed) as error:
            return row | {"error": str(error)}, None, None
        if image.shape != original.shape:
            (h, w, _), (height, width, _) = image.shape, original.shape
            return row | {"error": f"decoded to {w}x{h} pixels, the original has {width}x{height}"}, None, None
        mse = distortion.mse(original, image)
        row |= {"mse": mse, "psnr_db": distortion.psnr_db(mse), "identical": mse == 0}
        row |= {"ms_ssim": distortion.ms_ssim(original, image), "status": "ok"}
        row["pixels_sha256"] = hashlib.sha256(body).hexdigest()
        return row, image, original

    def _conclude(self, trial: Trial, need: _Need) -> None:
        """Crops and features -> the row of the points table."""
        compared = [
            Compared(extractor, self._features(trial, extractor), self._reference(trial.dataset, extractor))
            for extractor in self.extractors.values()
            if self._features(trial, extractor).exists()
        ]
        used = {name: extractor.key for name, extractor in self.extractors.items()}
        kept = {}
        if not need.crops and self._points(trial).exists():  # what a network gave that is not at hand now stays
            before, stored = (
                store.read_metadata(self._points(trial)),
                store.read_table(self._points(trial)).to_pylist()[0],
            )
            for name, its_key in _used(before).items():
                if name not in used:
                    used[name] = its_key
                    kept |= {column: stored.get(column) for column in network_columns(name)}
        absent = [f"{_missing(name)}: {error.reason}" for name, error in self.absent.items() if name not in used]
        row = point_row(trial, self._crops(trial), compared, absent) | kept
        measured = self._measured(trial)
        means, remarks = measured_row(measured)
        remarks += [f"no {name}: {error.reason}" for name, error in self.unmeasured.items() if name not in measured]
        row |= means | {"note": "; ".join(note for note in (row["note"], *remarks) if note)}
        measures = {name: store.read_metadata(path).get("measure") for name, path in measured.items()}
        networks = {"inception": used.get("inception", ""), "features": used}
        metadata = self._metadata(trial, trial.codec) | networks | {"measures": measures}
        store.write_table(self._points(trial), pa.Table.from_pylist([row], store.POINTS), metadata)

    def _metadata(self, trial: Trial, card) -> dict:
        return self._environment | {
            "card": card.model_dump(mode="json"),
            "point": trial.point,
            "dataset": trial.dataset.id,
            "dataset_sha256": trial.dataset.sha256,
            "stream_key": trial.stream_key,
            "trial_key": trial.trial_key,
        }

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.progress.note(text)


def _missing(name: str) -> str:
    return "no FID" if name == "inception" else f"no {frechet_column(name) or name}"


def _asking(name: str) -> str:
    return "" if name in ALWAYS else f" --feature {name}"


def _used(metadata: dict) -> dict[str, str]:
    """Extractors that a stored point has seen, and their keys."""
    old = {"inception": metadata["inception"]} if metadata.get("inception") else {}
    return metadata.get("features", old)


def _probe_one(pool: Pool, card, point: str) -> CodecFailed | None:
    try:
        pool.ask(card, point, {})
    except CodecFailed as error:
        return error
    return None


def _values(crop: dict, measure: Measure, original: np.ndarray | None, image: np.ndarray | None) -> list[dict]:
    """Rows of the quality table of one image and one measure: a value, or the reason why there is none."""
    values, error = (None,) * len(measure.columns), crop.get("error")
    if image is not None:
        try:
            values = measure(original, image)
        except Unavailable as reason:
            error = str(reason)
    row = {name: crop[name] for name in ("codec", "point", "dataset", "image", "name")} | {"error": error}
    return [row | {"metric": column, "value": value} for column, value in zip(measure.columns, values, strict=True)]


class _Batches:
    """Patches of consecutive images on their way through the network in full batches, then into a table."""

    def __init__(self, network: Network, dimensions: int, shards: store.Shards):
        self._network, self._dimensions, self._shards = network, dimensions, shards
        self._images: deque[tuple[int, int]] = deque()  # (image, patches) whose features are not complete
        self._places: deque[tuple[int, int, int]] = deque()
        self._pixels: list[np.ndarray] = []
        self._features: list[np.ndarray] = []

    def add(self, image: int, cut: list[tuple[int, int, np.ndarray]]) -> None:
        self._images.append((image, len(cut)))
        self._places.extend((image, top, left) for top, left, _ in cut)
        self._pixels.extend(pixels for *_, pixels in cut)
        batch = self._network.batch
        self._compute(len(self._pixels) // batch * batch)

    def finish(self) -> None:
        self._compute(len(self._pixels))

    def _compute(self, count: int) -> None:
        if count:
            self._features.extend(self._network.features(self._pixels[:count]))
            del self._pixels[:count]
        while self._images and self._images[0][1] <= len(self._features):
            image, patch_count = self._images.popleft()
            places = [self._places.popleft() for _ in range(patch_count)]
            columns = [pa.array([place[i] for place in places], pa.int64()) for i in range(3)]
            flat = pa.array(np.concatenate([np.empty(0, np.float32), *self._features[:patch_count]]))
            del self._features[:patch_count]
            column = pa.FixedSizeListArray.from_arrays(flat, self._dimensions)
            self._shards.add(image, pa.table([*columns, column], schema=store.features_schema(self._dimensions)))
