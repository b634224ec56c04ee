"""Engines: the same tables whoever does the work, however many of them die."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_kills import killed, pieces
from test_pipeline import assert_equal, codec, offline, pictures, tables  # noqa: F401  (offline is a fixture)
from typer.testing import CliRunner

import hfdbench
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.cli.app import app
from hfdbench.errors import Unavailable, UsageError
from hfdbench.pipeline import run as pipeline
from hfdbench.pipeline.engines import queue, worker
from hfdbench.pipeline.engines.driver import Work, carry_out, cut, work_of
from hfdbench.pipeline.engines.processes import Process
from hfdbench.pipeline.engines.settings import Engine, chosen
from hfdbench.pipeline.engines.worker import Hello, Report, Unit, difference, introduced
from hfdbench.pipeline.plan import Request, make_plan
from hfdbench.pipeline.run import run
from hfdbench.progress import Silent
from hfdbench.results.stored import Results

PROCESSES = Engine(engine="processes", workers=2)
DATA = os.environ.get("HFDBENCH_DATA")  # before tests hide it


def request_of(tmp_path, images: int = 4, **more) -> Request:
    points = [("a", {"fault": "raise", "stage": "decode"}), ("b", {"fault": "none", "stage": ""})]
    card = codec("Faulty", points=points)
    return Request((card,), (pictures(tmp_path / "p", images, 256, 256, bad=(1,)),), tmp_path / "out", **more)


def test_processes_give_the_tables_of_one_process(tmp_path):
    request = request_of(tmp_path)
    notes = []
    found = carry_out(request, PROCESSES, Noted(notes))
    whole = run(replace(request, out=tmp_path / "whole"))
    assert len(found.done) == 2 and found.exit_code == whole.exit_code == 1  # one image is damaged
    assert_equal(tables(tmp_path / "whole"), tables(request.out))
    assert found.points["fd_mini"].dropna().tolist() == whole.points["fd_mini"].dropna().tolist()
    assert not list(request.out.glob("work/*"))
    assert carry_out(request, PROCESSES).existing == found.done


class Noted:
    """Progress that keeps the notes."""

    def __init__(self, notes: list[str]):
        self._notes = notes

    def start(self, total: int, what: str) -> None: ...
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None:
        self._notes.append(text)


def workers_of_this_process() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent, command = (
                int(path.read_text().rpartition(")")[2].split()[1]),
                (path.parent / "cmdline").read_bytes(),
            )
        except OSError:
            continue
        if parent == os.getpid() and b"engines.processes" in command:
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_a_killed_worker_costs_nothing_but_time(tmp_path):
    request, notes = request_of(tmp_path), []

    def kill() -> None:
        wait_for(lambda: list(request.out.glob("work/*/*")))
        os.kill(workers_of_this_process()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = carry_out(request, PROCESSES, Noted(notes))
    killer.join()
    assert len(found.done) == 2 and any("exit code -9; its work is done again" in note for note in notes), notes
    run(replace(request, out=tmp_path / "whole"))
    assert_equal(tables(tmp_path / "whole"), tables(request.out))
    assert not workers_of_this_process()


def test_a_killed_driver_is_followed_by_another_engine(tmp_path):
    """tests/bench/kill_drivers.py does it ten times, with FID."""
    spec, out = pictures(tmp_path / "p", 4, 256, 256), tmp_path / "out"
    words = ["run", "--codec", "jpeg", "--point", "q25", "--dataset", spec, "--device", "cpu", "--out", str(out)]

    def half_way(process: subprocess.Popen) -> bool:
        wait_for(lambda: len(pieces(out)) >= 2 or process.poll() is not None)
        return True

    assert killed([*words, "--engine", "processes", "--workers", "2"], half_way) and pieces(out)
    request = Request(tuple(choose(CodecCard, ["jpeg"])), (spec,), out, points=("q25",))
    run(request)
    run(replace(request, out=tmp_path / "whole"))
    assert_equal(tables(tmp_path / "whole"), tables(out))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_a_worker_sees_its_gpu_alone_and_is_asked_who_it_is(tmp_path):
    request = request_of(tmp_path, 1)
    process, mine = Process(request, "3"), introduced(make_plan(request))
    try:
        environment = Path(f"/proc/{process.host.split()[1]}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=3" in environment and b"OMP_NUM_THREADS=1" in environment
        assert process.greet(mine) == "" and process.seal == mine.seal
        assert "weights or images differ" in process.greet(replace(mine, keys=((mine.keys[0][0], "k2"),)))
    finally:
        process.end()


def test_workers_of_another_version_are_refused_by_name(tmp_path, monkeypatch):
    """Before they touch anything."""
    monkeypatch.setattr(worker, "__version__", "0.1")  # here, not in the worker
    request = request_of(tmp_path, 1)
    with pytest.raises(
        UsageError, match=rf"process \d+ is refused: hfdbench {hfdbench.__version__} is installed there, 0.1 here"
    ):
        carry_out(request, Engine(engine="processes", workers=1))
    assert not pieces(request.out) and not workers_of_this_process()


def test_images_that_are_given_up_become_error_rows(tmp_path):
    request = request_of(tmp_path, 3)
    run(replace(request, shard=(0, 3), give_up="it cost 3 workers: exit code -9"))
    found = run(request)
    ((_, errors),) = found.failed[:1]
    assert "it cost 3 workers: exit code -9" in errors[0] and len(errors) == 2  # and the damaged one
    again = run(request)  # what cost workers may pass another time
    assert len(again.failed[0][1]) == 1


class Worker:
    """A worker that dies of an image; `order`: stages and keys of the units that it was given."""

    def __init__(self, deadly: int | None = None, seal: str = "sandbox", order: list | None = None):
        self.host, self.seal, self._deadly = "mortal", seal, deadly
        self.order: list[Unit] = [] if order is None else order

    def submit(self, unit: Unit) -> Future:
        future = Future()
        if self._deadly is not None and self._deadly in unit.part and not unit.give_up:
            future.set_exception(queue.Lost("exit code -9"))
        else:
            self.order.append(unit)
            future.set_result(Report(self.host, 1.0, (), ()))
        return future

    def end(self) -> None: ...


def units_of(stage: str, key: str, count: int, images: int) -> list[Unit]:
    return [Unit(stage, key, i, count, images) for i in range(count)]


def do(units: list[Unit], start, count: int = 2, note=str) -> None:
    workers = [start() for _ in range(count)]
    queue.carry_out(units, workers, start, losses=3, copies=False, note=note, advance=lambda: None)


@pytest.mark.parametrize("count", [3, 5, 12])
def test_the_image_that_kills_workers_is_found_and_given_up(count):
    done = []
    do(units_of("encode", "k", count, 12), lambda: Worker(7, order=done))
    assert sorted(i for unit in done for i in unit.part) == list(range(12))
    (given_up,) = [unit for unit in done if unit.give_up]
    assert list(given_up.part) == [7] and "exit code -9" in given_up.give_up


def test_an_original_that_kills_workers_ends_the_run():
    with pytest.raises(UsageError, match=r"dataset d: image 7 of 12 cost 4 workers .*exit code -9"):
        do(units_of("originals", "d", 3, 12), lambda: Worker(7))


def test_workers_that_die_one_after_the_other_end_the_run():
    class Cursed(Worker):
        def submit(self, unit: Unit) -> Future:
            future = Future()
            future.set_exception(queue.Lost("no memory"))
            return future

    with pytest.raises(UsageError, match="workers were lost one after the other, the last: no memory"):
        do(units_of("encode", "k", 1, 1), Cursed, 1)


class Late(Worker):
    """Workers whose units end when the test says so; the newest copy of a unit first."""

    running: list[tuple[Unit, Future]]

    def __init__(self, running: list, seal: str):
        super().__init__(seal=seal)
        self.running = running

    def submit(self, unit: Unit) -> Future:
        future = Future()
        self.running.append((unit, future))
        return future


class Script(queue.Clock):
    """A clock that ends one unit after the other, by a rule."""

    def __init__(self, running: list, choose):
        self._running, self._choose, self._now = running, choose, 0.0
        self.log: list[tuple[str, str, int]] = []

    def now(self) -> float:
        return self._now

    def wait(self, running) -> list[Future]:
        self._now += 10
        unit, future = self._running.pop(self._choose(self._running))
        self.log.append((unit.stage, unit.key, unit.index))
        future.set_result(Report("late", 10.0, (), ()))
        return [future]


PLAN = [u for key in "ab" for stage in ("encode", "decode") for u in units_of(stage, key, 2, 4)]


@pytest.mark.parametrize("seal", ["sandbox", "process"])
@pytest.mark.parametrize("choose", [lambda running: 0, lambda running: -1, lambda running: len(running) // 2])
def test_a_key_is_decoded_when_its_encoders_are_dead(choose, seal):
    """Not before, and without waiting for the other key."""
    running = []
    clock = Script(running, choose)
    encoded_before = []

    class Watched(Late):
        def submit(self, unit: Unit) -> Future:
            encoded = [u for u in clock.log if u[0] == "encode" and u[1] == unit.key]
            alive = [u for u, _ in running if u.stage == "encode" and u.key == unit.key]
            assert unit.stage == "encode" or (len(encoded) == 2 and not alive)
            if unit.stage == "decode":
                encoded_before.append(sum(stage == "encode" for stage, *_ in clock.log))
            return super().submit(unit)

    def start() -> Watched:
        return Watched(running, seal)

    queue.carry_out(
        PLAN, [start(), start(), start()], start, losses=3, copies=False, note=str, advance=lambda: None, clock=clock
    )
    assert len(clock.log) == 8
    assert encoded_before[0] < 4  # while the other key is still being encoded


@pytest.mark.parametrize("seal", ["sandbox", "process"])
def test_a_copy_that_still_encodes_is_waited_for_without_a_sandbox(seal):
    """The first copy ends, the slow one does not: it must be dead before a decoder starts, or kept apart by the sandbox."""
    running, started = [], []
    clock = Script(running, lambda running: -1)  # the newest first: the unit that began first is slow

    class Watched(Late):
        def submit(self, unit: Unit) -> Future:
            if unit.stage == "decode":
                started.append([u.stage for u, _ in running])
            return super().submit(unit)

    units = [*units_of("encode", "a", 4, 4), *units_of("decode", "a", 1, 4)]
    workers = [Watched(running, seal) for _ in range(2)]
    queue.carry_out(
        units,
        workers,
        lambda: Watched(running, seal),
        losses=3,
        copies=True,
        note=str,
        advance=lambda: None,
        clock=clock,
    )
    assert started == ([["encode"]] if seal == "sandbox" else [[]])


@pytest.mark.parametrize(("seal", "gone"), [("sandbox", False), ("process", True), ("process", False)])
def test_an_encoder_that_cannot_be_reached_and_no_sandbox(seal, gone):
    order, notes, lost = [], [], []

    class Once(Worker):
        def submit(self, unit: Unit) -> Future:
            if lost:
                return super().submit(unit)
            lost.append(unit)
            future = Future()
            future.set_exception(queue.Lost("cannot be reached", gone))
            return future

    do(PLAN, lambda: Once(seal=seal, order=order), note=notes.append)
    decoded = {unit.key for unit in order if unit.stage == "decode"}
    apart = seal == "sandbox" or gone
    assert decoded == ({"a", "b"} if apart else {"b"})
    assert apart or any("a is not decoded: there is no sandbox" in note for note in notes)


def test_units_are_as_long_as_asked_and_enough_for_all_workers(tmp_path):
    request = request_of(tmp_path, 9)
    plan, session = make_plan(request), pipeline.open_session(request, Silent())
    work = list(work_of(session, pipeline.survey(session, plan)))
    assert [part.stage for part in work] == ["originals", *["encode"] * 2, *["decode"] * 2]
    counts = [[u.stage for u in cut(work, unit_s, 2)].count("decode") for unit_s in (1e9, 1e-6)]
    assert counts == [2, 18]
    hour = Work("decode", "k", 10_000, 3600.0)
    assert [len(cut([hour], 90, workers)) for workers in (1, 8, 100)] == [40, 40, 300]


def test_a_host_with_other_keys_is_refused_by_what_differs():
    mine = Hello("a", "1.0", (("jpeg-q1-kodak", "k1"),), ())
    assert not difference(mine, replace(mine, host="b"))
    assert "hfdbench 0.9 is installed there" in difference(mine, replace(mine, version="0.9"))
    assert "weights or images differ" in difference(mine, replace(mine, keys=(("jpeg-q1-kodak", "k2"),)))
    without = replace(mine, keys=(), skipped=(("jpeg-q1-kodak", "no cjpeg"),))
    assert "cannot do jpeg-q1-kodak: no cjpeg" in difference(mine, without)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(devices=""), "names no GPU"),
        (dict(devices="0"), "at least one GPU"),
        (dict(devices="1,1"), "names a device twice"),
        (dict(devices="2", engine="ray"), "--devices are for --engine processes"),
        (dict(address="10.0.0.1:6379"), "give --engine ray"),
    ],
)
def test_engines_that_cannot_be_meant(options, message):
    with pytest.raises(UsageError, match=message):
        chosen(None, *(options.get(name) for name in ("engine", "devices", "address")))


def test_devices_by_number_and_by_name_and_an_engine_file(tmp_path):
    assert chosen(None, None, "3", None).devices == ("0", "1", "2")
    assert chosen(None, None, "2,5", None).devices == ("2", "5")
    file = tmp_path / "engine.toml"
    file.write_text('engine = "ray"\naddress = "head:6379"\ncpus = 4\ngpus = 0.5\n')
    assert chosen(file, None, None, None).gpus == 0.5
    file.write_text('engine = "rey"\n')
    with pytest.raises(UsageError, match=r"engine\.toml.*engine"):
        chosen(file, None, None, None)


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="there is no GPU here"):
        carry_out(request_of(tmp_path, 1), Engine(engine="processes", devices=("0",)))


def test_a_run_from_a_file_and_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codecs = ["--codec", "jpeg", "--codec", "webp", "--dataset", "samples", "--point", "q50"]
    words = ["run", *codecs, "--workers", "2", "--out", "x", "--device", "cpu"]
    printed = CliRunner().invoke(app, [*words, "--print-config"])
    assert printed.exit_code == 0 and 'codec = [\n    "jpeg",\n    "webp",\n]' in printed.output
    Path("run.toml").write_text(printed.output)
    again = CliRunner().invoke(app, ["run", "--config", "run.toml", "--print-config"])
    assert again.output == printed.output
    changed = CliRunner().invoke(app, ["run", "--config", "run.toml", "--workers", "3", "--print-config"])
    assert changed.output == printed.output.replace("workers = 2", "workers = 3")
    merged = CliRunner().invoke(app, ["merge", "--config", "run.toml"])
    assert isinstance(merged.exception, UsageError) and "no shard of it was run" in str(merged.exception)
    Path("run.toml").write_text("wrokers = 2\n")
    wrong = CliRunner().invoke(app, ["run", "--config", "run.toml"])
    assert isinstance(wrong.exception, UsageError) and 'did you mean "workers"' in str(wrong.exception)


# ---- Ray

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # no pipe: the daemons would hold it open


@pytest.fixture
def cluster(request, tmp_path):
    """A cluster of two nodes on loopback: its address, and a function that kills the second.

    With the parameter "old" the second node has another version of hfdbench.
    """
    pytest.importorskip("ray", reason="needs the extra ray")
    ray = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    command = [ray] if ray else [sys.executable, "-m", "ray.scripts.scripts"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}
    environment |= {"RAY_worker_niceness": "0"}  # they are nice to others, and the tests of others are not
    environment |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
    common = ["--num-cpus=1", "--disable-usage-stats", "--object-store-memory=80000000"]
    before = pids("raylet")
    head = ["start", "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false", *common]
    nodes = [head, ["start", f"--address={address}", *common]]
    try:
        for node in nodes:
            subprocess.run([*command, *node], env=environment, check=True, timeout=120, **QUIET)
            if getattr(request, "param", "") == "old":
                environment["PYTHONPATH"] = f"{older(tmp_path)}{os.pathsep}{environment['PYTHONPATH']}"
        second = max(pids("raylet") - before)

        yield address, lambda: os.kill(second, signal.SIGKILL)
    finally:
        subprocess.run([*command, "stop", "--force"], env=environment, timeout=60, **QUIET)


def older(folder: Path) -> Path:
    """A copy of hfdbench that says it is version 0.1."""
    place = folder / "older"
    if not place.exists():
        shutil.copytree(
            Path(hfdbench.__file__).parent, place / "hfdbench", ignore=shutil.ignore_patterns("__pycache__")
        )
        file = place / "hfdbench" / "__init__.py"
        file.write_text(file.read_text().replace(f'"{hfdbench.__version__}"', '"0.1"'))
    return place


def pids(name: str) -> set[int]:
    found = subprocess.run(["pgrep", "-f", f"/{name}/{name}"], capture_output=True, text=True).stdout
    return set(map(int, found.split()))


class Counted(Noted):
    """Progress that counts: of each kind of thing how many there are, and how many are done."""

    def __init__(self, notes: list[str]):
        super().__init__(notes)
        self.counts: dict[str, list[int]] = {}

    def start(self, total: int, what: str) -> None:
        self.now = self.counts[what] = [total, 0]

    def advance(self, n: int = 1) -> None:
        self.now[1] += n


def lose_a_node(request: Request, cluster) -> Counted:
    """Do a request on a cluster whose second node is killed half-way, then by one process: the same tables."""
    (address, kill), progress, left = cluster, Counted([]), []

    def half_way() -> None:
        wait_for(lambda: progress.counts.get("units", [0, 0])[1])  # one is over, not only a first file of it there
        total, done = progress.counts["units"]
        kill()
        left.append(total - done)

    killer = threading.Thread(target=half_way)
    killer.start()
    found = carry_out(request, Engine(engine="ray", address=address), progress)
    killer.join()
    whole = run(replace(request, out=request.out.with_name("whole")))
    assert found.done == whole.done and found.done, (found.failed, progress._notes)
    assert_equal(tables(request.out.with_name("whole")), tables(request.out))  # distances too, to the bit
    total, done = progress.counts["units"]
    assert total == done and 0 < left[0] < total  # every unit landed once
    return progress


@pytest.mark.ray
def test_a_cluster_that_loses_a_node_gives_the_same_tables(tmp_path, cluster):
    lose_a_node(request_of(tmp_path, 8), cluster)


@pytest.mark.ray
@pytest.mark.skipif(not DATA, reason="needs HFDBENCH_DATA with kodak and inception/")
def test_kodak_on_a_cluster_that_loses_a_node(tmp_path, cluster):
    cards = tuple(choose(CodecCard, ["jpeg", "elic-mse", "hfd-fast"]))
    data = Path(str(DATA))
    request = Request(cards, ("kodak",), tmp_path / "out", points=("q25", "q1"), limit=4, data_root=data)
    lose_a_node(request, cluster)
    points = Results(request.out).points()
    assert len(points) == 3 and points["fid"].notna().all()


def wait_for(something) -> None:
    deadline = time.monotonic() + 240
    while not something() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.parametrize("cluster", ["old"], indirect=True)
def test_a_node_with_another_version_is_left_out_and_a_killed_driver_followed(tmp_path, cluster, monkeypatch):
    address, _ = cluster
    monkeypatch.chdir(tmp_path)  # Ray's workers look for modules where the driver is, too
    spec, out, notes = pictures(tmp_path / "p", 4, 256, 256), tmp_path / "out", []
    words = ["run", "--codec", "jpeg", "--point", "q25", "--dataset", spec, "--device", "cpu", "--out", str(out)]

    def half_way(process: subprocess.Popen) -> bool:
        wait_for(lambda: len(pieces(out)) >= 2 or process.poll() is not None)
        return True

    assert killed([*words, "--engine", "ray", "--address", address], half_way) and pieces(out)
    request = Request(tuple(choose(CodecCard, ["jpeg"])), (spec,), out, points=("q25",))
    carry_out(request, Engine(engine="processes", workers=1))
    run(replace(request, out=tmp_path / "whole"))
    assert_equal(tables(tmp_path / "whole"), tables(out))
    found = carry_out(replace(request, out=tmp_path / "again"), Engine(engine="ray", address=address), Noted(notes))
    assert len(found.done) == 1 and any("hfdbench 0.1 is installed there" in note for note in notes), notes


@pytest.mark.ray
def test_an_address_where_nobody_is(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(UsageError, match=r"no Ray cluster answers .*ray start --head"):
        carry_out(request_of(tmp_path, 1), Engine(engine="ray", address="127.0.0.1:9"))


def test_without_ray_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match=r"pip install 'hfdbench\[ray\]'"):
        carry_out(request_of(tmp_path, 1), Engine(engine="ray"))
