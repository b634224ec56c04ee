"""Carry out a request: what is stored is not done again, what was killed resumes, what fails is named and the rest kept.

Conventions: every trial passes ENCODE (images -> streams/), DECODE (streams alone, in other processes; no encoder is alive
then and its folders are gone) and SCORE (images/, features/, points/). Images are read and metrics computed in this
process, codecs run in worker processes. Tables do not depend on workers, shards or interruptions, times excepted:
features do not depend on their neighbours in a batch, rows are merged in the order of the images, files have fixed row
groups. A damaged file is set aside (damaged/) and its trial done again.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from hfdbench.codecs.pool import CodecFailed, Pool, find_seal, require_sandbox
from hfdbench.codecs.verify import StoredStream, spread, verify
from hfdbench.datasets.dataset import Dataset
from hfdbench.errors import UsageError
from hfdbench.files import places
from hfdbench.metrics.networks.extractors import Extractor
from hfdbench.pipeline import shards
from hfdbench.pipeline.aggregate import conclude
from hfdbench.pipeline.decode import decode, samples
from hfdbench.pipeline.encode import check_streams, encode
from hfdbench.pipeline.features import describe_originals
from hfdbench.pipeline.instruments import absences, costs, open_instruments
from hfdbench.pipeline.plan import Plan, Request, Trial, make_plan
from hfdbench.pipeline.select import Need, audit, damaged_features, failed_images, select
from hfdbench.pipeline.session import Session
from hfdbench.progress import Progress, Silent
from hfdbench.results import parquet, schema
from hfdbench.results.folder import ResultsFolder
from hfdbench.results.parquet import DamagedFile
from hfdbench.results.stored import read_point
from hfdbench.results.work import discard, prepare

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["run", "score", "merge", "finish"]
Stage = Literal["encode", "decode"]
MERGING = ("merge", "finish")  # modes in which the work was done by others


@dataclass(frozen=True)
class Summary:
    """What became of a request.

    Attributes
    ----------
    done, existing : tuple of str
        Labels of the trials that were done now, and before.
    skipped : tuple of (str, str)
        Label and reason of trials that cannot be done here.
    failed : tuple of (str, tuple of str)
        Label and errors of those that failed, wholly or for some images, now or when they were stored, and of those that
        decoded to other pixels when they were verified.
    points : DataFrame
        Their rows of the points table.
    notes : tuple of str
        What the user must know.
    """

    done: tuple[str, ...]
    existing: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, tuple[str, ...]], ...]
    points: "pd.DataFrame"
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0: all went well; 1: something failed and the rest was kept. (2 is a UsageError, which is raised.)"""
        return 1 if self.failed else 0


def run(request: Request, progress: Progress | None = None) -> Summary:
    """Measure what is not measured yet. Raises UsageError, before the first encode, for what can be known by then."""
    return carry_out(request, make_plan(request), progress or Silent(), "run")


def score(request: Request, progress: Progress | None = None) -> Summary:
    """Complete trials from their stored streams, as when Inception turns up later; never encodes."""
    return carry_out(request, make_plan(request), progress or Silent(), "score")


def merge(request: Request, progress: Progress | None = None) -> Summary:
    """Finish the tables of a run that was done in shards; never encodes or decodes.

    Raises
    ------
    UsageError
        Images are missing: their shard was not run, or with another request.
    """
    return carry_out(request, make_plan(request), progress or Silent(), "merge")


@dataclass
class Outcome:
    """What became of the trials so far: reasons, by label."""

    skipped: dict[str, str]
    failed: dict[str, tuple[str, ...]] = field(default_factory=dict)


def carry_out(
    request: Request, plan: Plan, progress: Progress, mode: Mode = "run", notes: Iterable[str] = ()
) -> Summary:
    """Take the trials of a plan through their stages.

    Parameters
    ----------
    request : Request
        What it was made from.
    plan : Plan
    progress : Progress
    mode : {"run", "score", "merge", "finish"}
        What may be done: everything; nothing that encodes; nothing that encodes or decodes. "merge" refuses a request of
        which images are missing, "finish" fails those trials alone.
    notes : iterable of str
        What the user must know beforehand.
    """
    session = open_session(request, progress)
    for note in notes:
        session.note(note)
    return complete(session, plan, survey(session, plan, retry=mode != "merge"), mode)


def open_session(request: Request, progress: Progress) -> Session:
    """Open the results folder and the instruments of a request. Raises UsageError for a packed folder."""
    session = Session(request, ResultsFolder(request.out), open_instruments(request), progress)
    if session.folder.packed_points.exists():
        raise UsageError(f"{request.out}: is a packed folder of results; choose another folder with --out")
    return session


def survey(session: Session, plan: Plan, *, retry: bool = True) -> dict[Trial, Need]:
    """Look at everything that is stored of a plan, set damaged files aside, and say what each trial lacks.

    Parameters
    ----------
    session : Session
    plan : Plan
    retry : bool
        Whether failed images are tried again.
    """
    for path in session.folder.copied_points() if not session.request.dry_run else ():
        with suppress(FileNotFoundError):  # another run has moved it
            try:
                read_point(path)
            except DamagedFile as error:
                session.note(f"{path}: damaged ({error.cause}); moved to {session.folder.set_aside(path)}")
    return {trial: _need(session, trial, retry and session.request.shard is None) for trial in plan.trials}


def complete(session: Session, plan: Plan, needs: Mapping[Trial, Need], mode: Mode) -> Summary:
    """Take the trials of a plan through the stages that they lack; see `carry_out`."""
    request, outcome = session.request, Outcome(dict(plan.skipped))
    todo = {trial: need for trial, need in needs.items() if need.steps}
    existing = [trial for trial in needs if trial not in todo]
    if mode == "score":
        for trial in [t for t, need in todo.items() if need.decode and not _has_streams(session, t)]:
            outcome.skipped[trial.label] = "no stored streams; hfdbench run makes them"
            del todo[trial]
    for line in absences(session.instruments, bool(todo)):
        session.note(line)
    if mode not in MERGING:
        tell_costs(session, todo)
    done: list[Trial] = []
    if request.dry_run:
        for trial, need in todo.items():
            session.note(f"would run {trial.label}: {', '.join(need.steps)}")
    else:
        if todo and request.require_seal:
            require_sandbox()  # before a shard notes that it ran
        _discard_work(session, needs)
        if request.shard:
            shards.record(session, plan)
            if find_seal() == "process":
                session.note(
                    "no sandbox here: an encoder of one shard could reach a decoder of another; run them one by one"
                )
        if mode in MERGING:
            for trial in [t for t in todo if t.seed != request.seed and not session.folder.work(t.trial_key).exists()]:
                del todo[trial]  # no shard has decoded with this seed: it makes no difference
            absent = _incomplete(session, {t: need for t, need in todo.items() if not need.again})
            if absent and mode == "merge":
                raise shards.explained(session, absent)
            for trial, each in {each.trial: each for each in reversed(absent)}.items():
                _failed(session, outcome, trial, f"{each}; run again")
                del todo[trial]
        if todo:
            done = _do(session, todo, outcome, mode)
        if request.verify and mode in ("run", "finish"):
            _verify(session, [*existing, *done], outcome)
    if not request.dry_run and not request.shard:
        shards.forget(session.folder)
    if request.shard:
        session.note(f"shard {request.shard[0]}/{request.shard[1]} is done; when all are: hfdbench merge")
        existing, done = [], []
    return _summary(session, existing, done, outcome)


def tell_costs(session: Session, needs: Mapping[Trial, Need]) -> None:
    """Note what nobody asked for and takes long."""
    for line in costs(session.instruments, {name for need in needs.values() for name in need.measures}):
        session.note(line)


def _need(session: Session, trial: Trial, retry: bool) -> Need:
    """What a trial lacks, once its damaged files are set aside."""
    request, folder = session.request, session.folder
    lost_streams = False
    for error in audit(trial, folder, session.instruments):
        if request.dry_run:
            session.note(f"{error.path}: damaged ({error.cause})")
        elif error.path.exists():
            session.note(f"{error.path}: damaged ({error.cause}); moved to {folder.set_aside(error.path)}, done again")
            lost_streams |= error.path == folder.streams(trial.stream_name)
    need = select(trial, folder, session.instruments, request.retry_failed, retry=retry)
    if lost_streams and not need.decode:  # nothing else is missing, but they were stored and are to be stored again
        need = Need(True, False, (), (), need.point, frozenset(range(len(trial.dataset.names))))
    failures = failed_images(folder.images(trial.name))
    if failures and not need.again:
        session.note(f"{trial.label}: {len(failures)} images failed before; --retry-failed tries them again")
    return need


def _has_streams(session: Session, trial: Trial) -> bool:
    return session.folder.streams(trial.stream_name).exists()


def _discard_work(session: Session, needs: Mapping[Trial, Need]) -> None:
    """Remove pieces that a run left that was killed when its tables were finished already."""
    for trial, need in needs.items():
        if _has_streams(session, trial) and not need.encode:
            discard(session.folder, trial.stream_key)
        if not need.decode:
            discard(session.folder, trial.trial_key)


def _incomplete(session: Session, todo: Mapping[Trial, Need]) -> list[shards.Absent]:
    """Images that are neither stored nor in pieces."""
    found = []
    for trial, need in todo.items():
        tables = [(trial.stream_key, "streams", schema.STREAMS, "")] if need.encode else []
        tables += [(trial.trial_key, "images", schema.IMAGES, "")] if need.images else []
        for name in need.features:
            extractor = session.instruments.extractors[name]
            columns = schema.features_schema(extractor.dimensions)
            tables.append((trial.trial_key, f"features-{extractor.key}", columns, name))
        for key, table, columns, network in tables:
            if missing := session.pieces(key, table, columns, "image").missing(range(len(trial.dataset.names))):
                found.append(shards.Absent(trial, table, tuple(missing), network))
    return found


# ---- doing it


def _do(session: Session, todo: dict[Trial, Need], outcome: Outcome, mode: Mode) -> list[Trial]:
    """Take every trial through its stages; the trials that have a point now."""
    prepare_folder(session, todo)
    datasets = {trial.dataset.id: trial.dataset for trial in todo}
    references = missing_references(session, datasets.values())
    if mode not in MERGING:
        for name in {e.name for _, e in references}.union(*(need.features for need in todo.values())):
            session.instruments.network(name)  # damaged weights are found before the first encode
    with _pool(session, "encoder", todo) as pool:
        if mode not in MERGING and not session.request.give_up:
            _probe(session, todo, pool, outcome, {})
        encodes = {t.stream_name: t for t, need in todo.items() if need.encode}
        decodes = [trial for trial, need in todo.items() if need.decode]
        counts = [len(d.names) for d, _ in references] + [len(t.dataset.names) for t in [*encodes.values(), *decodes]]
        session.progress.start(sum(len(session.images(count)) for count in counts), "images")
        for dataset in datasets.values():
            describe_originals(session, dataset, [each for of, each in references if of is dataset])
        _encode_all(session, todo, outcome, pool)
    with _pool(session, "decoder", todo) as pool:
        return _decode_all(session, todo, outcome, pool, {}, merging=mode in MERGING)


def prepare_folder(session: Session, todo: Mapping[Trial, Need]) -> None:
    """Do first what may fail: folder, disk space, seal. Raises UsageError."""
    patch_bytes = sum(4 * extractor.dimensions + 100 for extractor in session.instruments.extractors.values())
    patch_count = sum(t.dataset.expected_patches or len(t.dataset.names) for t in todo)
    prepare(session.folder, (64 << 20) + patch_count * patch_bytes)
    if session.request.require_seal:
        require_sandbox()


@dataclass
class Seen:
    """What one process has found out about codecs: whether they can be built, whether the seed makes no difference."""

    built: dict[tuple[str, str], CodecFailed | None] = field(default_factory=dict)
    once: dict[tuple[str, str, str], bool] = field(default_factory=dict)


def do_stage(session: Session, todo: dict[Trial, Need], stage: Stage, seen: Seen) -> Outcome:
    """Do one stage of some trials, for the images of the session's shard, by processes of that stage alone.

    Parameters
    ----------
    session : Session
        Of a request with a shard.
    todo : dict of Trial to Need
        Those that cannot be built here are removed.
    stage : {"encode", "decode"}
    seen : Seen
        Kept from one call to the next.

    Returns
    -------
    Outcome
        When it returns, every process that it started is dead, with all that they started.
    """
    outcome = Outcome({})
    with _pool(session, f"{stage}r", todo) as pool:
        if not session.request.give_up:
            _probe(session, todo, pool, outcome, seen.built)
        if stage == "encode":
            _encode_all(session, todo, outcome, pool)
        else:
            _decode_all(session, todo, outcome, pool, seen.once)
    return outcome


def _encode_all(session: Session, todo: Mapping[Trial, Need], outcome: Outcome, pool: Pool) -> None:
    for trial in {t.stream_name: t for t, need in todo.items() if need.encode}.values():
        again = failed_images(session.folder.streams(trial.stream_name)).keys() & todo[trial].again
        _guarded(session, outcome, trial, lambda t=trial, a=again: encode(session, t, a, pool))


def _decode_all(
    session: Session,
    todo: Mapping[Trial, Need],
    outcome: Outcome,
    pool: Pool,
    once: dict[tuple[str, str, str], bool],
    merging: bool = False,
) -> list[Trial]:
    """Decode and conclude; `once`: of which the seed makes no difference. The trials that went well."""
    done = []
    for trial, need in todo.items():
        if trial.label in outcome.failed:
            continue
        if need.images and not need.again and trial.seed != session.request.seed and not merging:
            same = trial.codec.id, trial.point, trial.dataset.id
            if same not in once:
                once[same] = not samples(session, trial, pool)
                if once[same]:
                    session.note(f"{trial.stem}: the seed makes no difference, it is decoded once")
            if once[same]:
                session.progress.advance(len(session.images(len(trial.dataset.names))))
                continue
        if _guarded(session, outcome, trial, lambda t=trial, n=need: _finish(session, t, n, pool)):
            done.append(trial)
    return done


def _finish(session: Session, trial: Trial, need: Need, pool: Pool) -> None:
    if need.encode and not need.decode:
        check_streams(session, trial)
    if need.decode:
        decode(session, trial, need, pool)
    if not session.request.shard:
        conclude(session, trial, need)


def _verify(session: Session, trials: list[Trial], outcome: Outcome) -> None:
    """Decode a sample of every trial's streams again, by fresh processes of another number; what was measured stays."""
    workers = 2 if session.request.workers == 1 else 1
    session.progress.start(sum(min(session.request.verify, len(t.dataset.names)) for t in trials), "streams again")
    decoded, errors = 0, []
    for trial in trials:

        def step(trial: Trial = trial) -> None:
            nonlocal decoded
            streams = _sample(session, trial)
            with _pool(session, "decoder", trials, workers) as pool:
                found = list(verify(pool, trial.codec, trial.point, trial.seed, streams))
            decoded += len(streams)
            errors.extend(f"{each.name} decoded again: {each.reason}" for each in found)
            if found:
                outcome.failed[trial.label] = tuple(errors[-len(found) :])

        _guarded(session, outcome, trial, step)
        session.progress.advance(min(session.request.verify, len(trial.dataset.names)))
    session.note(f"verified: {decoded} streams decoded again, {len(errors)} differ")


def _sample(session: Session, trial: Trial) -> list[StoredStream]:
    """Streams of the request's number of images, spread over those that were measured."""
    if not _has_streams(session, trial):
        session.note(f"{trial.label}: its streams are not stored, nothing to verify")
        return []
    rows = parquet.read_table(session.folder.images(trial.name), schema=schema.IMAGES).to_pylist()
    rows = [row for row in rows if row["status"] == "ok"]
    chosen = {rows[k]["image"]: rows[k] for k in spread(len(rows), session.request.verify)}
    return [
        StoredStream(row["name"], stream, row["pixels"], row["pixels_sha256"])
        for batch in parquet.read_batches(session.folder.streams(trial.stream_name), schema.STREAMS)
        for image, stream in zip(batch["image"].to_pylist(), batch["stream"].to_pylist(), strict=True)
        if (row := chosen.get(image))
    ]


def missing_references(session: Session, datasets: Iterable[Dataset]) -> list[tuple[Dataset, Extractor]]:
    """Datasets and networks whose features of the originals are not stored."""
    found = []
    for dataset in datasets:
        for extractor in session.instruments.extractors.values():
            path = session.reference(dataset, extractor)
            if path.exists() and (error := damaged_features(path, schema.features_schema(extractor.dimensions))):
                place = session.folder.set_aside(path)
                session.note(f"{path}: damaged ({error.cause}); moved to {place}, done again")
            if not path.exists():
                found.append((dataset, extractor))
    return found


def _pool(session: Session, role: str, trials: Iterable[Trial], workers: int | None = None) -> Pool:
    """Processes that see neither images nor results; as many as the request says, unless `workers` does."""
    request = session.request
    images = [path for dataset in {t.dataset.id: t.dataset for t in trials}.values() for path in dataset.paths]
    hidden = (request.out, places.data_root(request.data_root), *images)
    return Pool(role, workers or request.workers, request.device, request.timeout_s, hidden=hidden)


def _guarded(session: Session, outcome: Outcome, trial: Trial, step: Callable[[], None]) -> bool:
    """Take one step of a trial; what a user can repair there fails this trial alone."""
    try:
        step()
    except DamagedFile as error:
        place = session.folder.set_aside(error.path)
        _failed(session, outcome, trial, f"{error.path}: damaged ({error.cause}); moved to {place}: run again")
    except (UsageError, OSError, ValueError) as error:
        _failed(session, outcome, trial, str(error))
    return trial.label not in outcome.failed


def _failed(session: Session, outcome: Outcome, trial: Trial, message: str) -> None:
    outcome.failed[trial.label] = (message,)
    session.note(f"{trial.label} failed: {message}")


def _probe(
    session: Session,
    todo: dict[Trial, Need],
    pool: Pool,
    outcome: Outcome,
    verdict: dict[tuple[str, str], CodecFailed | None],
) -> None:
    """Build every codec once, so that a missing program or a wrong option is found now. Drops trials from `todo`."""
    for trial, need in [(trial, need) for trial, need in todo.items() if need.decode or need.encode]:
        if trial.given and trial.given.pictures:
            continue
        for card in [trial.encoder, trial.codec] if need.encode else [trial.codec]:
            if (card.id, trial.point) not in verdict:
                verdict[card.id, trial.point] = _build(pool, card, trial.point)
            error = verdict[card.id, trial.point]
            if error is None:
                continue
            if error.type == "UsageError":
                raise UsageError(error.message)
            if error.type == "Unavailable":
                outcome.skipped[trial.label] = error.message
            else:
                outcome.failed[trial.label] = (f"{card.id} cannot be built: {error}",)
            todo.pop(trial, None)


def _build(pool: Pool, card, point: str) -> CodecFailed | None:
    try:
        pool.ask(card, point, {})
    except CodecFailed as error:
        return error
    return None


def _summary(session: Session, existing: list[Trial], done: list[Trial], outcome: Outcome) -> Summary:
    import pandas as pd

    rows = {trial: read_point(session.folder.points(trial.name))[0] for trial in [*existing, *done]}
    for trial, row in rows.items():
        if row["status"] != "ok":
            failures = failed_images(session.folder.images(trial.name)).values()
            stored = tuple(f"{failure.name}: {failure.error.removeprefix(f'{failure.name}: ')}" for failure in failures)
            outcome.failed[trial.label] = (*stored, *outcome.failed.get(trial.label, ()))
    points = pa.Table.from_pylist(list(rows.values()), schema.POINTS).to_pandas()
    return Summary(
        done=tuple(trial.label for trial in done),
        existing=tuple(trial.label for trial in existing),
        skipped=tuple(outcome.skipped.items()),
        failed=tuple(outcome.failed.items()),
        points=points if rows else pd.DataFrame(columns=schema.POINTS.names),
        notes=tuple(session.notes),
    )
