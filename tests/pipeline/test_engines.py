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
from test_pipeline import assert_equal, codec, offline, pictures, tables  # noqa: F401  (offline is a fixture)
from typer.testing import CliRunner

from hfdbench.cli.app import app
from hfdbench.errors import Unavailable, UsageError
from hfdbench.pipeline.engines import queue
from hfdbench.pipeline.engines.driver import carry_out, unit_count
from hfdbench.pipeline.engines.processes import Process
from hfdbench.pipeline.engines.settings import Engine, chosen
from hfdbench.pipeline.engines.worker import Hello, Report, Unit, difference
from hfdbench.pipeline.plan import Request, make_plan
from hfdbench.pipeline.run import run

PROCESSES = Engine(engine="processes", workers=2)


def request_of(tmp_path, images: int = 5, **more) -> Request:
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
        while not (found := workers_of_this_process()):
            time.sleep(0.01)
        time.sleep(1)
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = carry_out(request, PROCESSES, Noted(notes))
    killer.join()
    assert len(found.done) == 2 and any("exit code -9; its work is done again" in note for note in notes), notes
    run(replace(request, out=tmp_path / "whole"))
    assert_equal(tables(tmp_path / "whole"), tables(request.out))
    assert not workers_of_this_process()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment in /proc")
def test_a_worker_sees_its_gpu_alone(tmp_path):
    process = Process(request_of(tmp_path, 1), "3")
    try:
        environment = Path(f"/proc/{process.host.split()[1]}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=3" in environment and b"OMP_NUM_THREADS=1" in environment
        assert isinstance(process.hello().result(), Hello)
    finally:
        process.end()


def test_images_that_are_given_up_become_error_rows(tmp_path):
    request = request_of(tmp_path, 3)
    run(replace(request, shard=(0, 3), give_up="it cost 3 workers: exit code -9"))
    found = run(request)
    ((_, errors),) = found.failed[:1]
    assert "it cost 3 workers: exit code -9" in errors[0] and len(errors) == 2  # and the damaged one
    again = run(request)  # what cost workers may pass another time
    assert len(again.failed[0][1]) == 1


class Mortal:
    """A worker that dies of an image."""

    host = "mortal"

    def __init__(self, deadly: int, images: int, done: list[Unit]):
        self._deadly, self._images, self._done = deadly, images, done

    def submit(self, unit: Unit) -> Future:
        future = Future()
        first, end = (self._images * i // unit.count for i in (unit.index, unit.index + 1))
        if first <= self._deadly < end and not unit.give_up:
            future.set_exception(queue.Lost("exit code -9"))
        else:
            self._done.append(unit)
            future.set_result(Report("mortal", 1.0, (), ()))
        return future

    def end(self) -> None: ...


@pytest.mark.parametrize("count", [3, 5, 12])
def test_the_image_that_kills_workers_is_found_and_given_up(count):
    images, done, notes = 12, [], []

    def start() -> Mortal:
        return Mortal(7, images, done)

    queue.carry_out(
        [Unit(i, count) for i in range(count)],
        [start(), start()],
        start,
        images=images,
        losses=3,
        copies=False,
        note=notes.append,
        advance=lambda: None,
    )
    covered = [i for u in done for i in range(images * u.index // u.count, images * (u.index + 1) // u.count)]
    assert sorted(covered) == list(range(images))
    (given_up,) = [unit for unit in done if unit.give_up]
    assert images * given_up.index // given_up.count == 7 and "exit code -9" in given_up.give_up


def test_workers_that_die_one_after_the_other_end_the_run():
    def start() -> Mortal:
        return Mortal(0, 1, [])

    class Cursed(Mortal):
        def submit(self, unit: Unit) -> Future:
            future = Future()
            future.set_exception(queue.Lost("no memory"))
            return future

    def cursed() -> Cursed:
        return Cursed(0, 1, [])

    with pytest.raises(UsageError, match="workers were lost one after the other, the last: no memory"):
        queue.carry_out(
            [Unit(0, 1)], [cursed()], cursed, images=1, losses=3, copies=False, note=str, advance=lambda: None
        )


def test_units_are_as_long_as_asked_and_enough_for_all_workers(tmp_path):
    plan = make_plan(request_of(tmp_path, 9))
    assert unit_count(plan, 1e9, 2, "cpu") == 6 and unit_count(plan, 1e-6, 2, "cpu") == 9


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
    assert isinstance(merged.exception, UsageError) and "run the shard" in str(merged.exception)
    Path("run.toml").write_text("wrokers = 2\n")
    wrong = CliRunner().invoke(app, ["run", "--config", "run.toml"])
    assert isinstance(wrong.exception, UsageError) and 'did you mean "workers"' in str(wrong.exception)


# ---- Ray

QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # no pipe: the daemons would hold it open


@pytest.fixture
def cluster():
    """A cluster of two nodes on loopback: its address, and a function that kills the second."""
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
        second = max(pids("raylet") - before)

        yield address, lambda: os.kill(second, signal.SIGKILL)
    finally:
        subprocess.run([*command, "stop", "--force"], env=environment, timeout=60, **QUIET)


def pids(name: str) -> set[int]:
    found = subprocess.run(["pgrep", "-f", f"/{name}/{name}"], capture_output=True, text=True).stdout
    return set(map(int, found.split()))


@pytest.mark.ray
def test_a_cluster_that_loses_a_node_gives_the_same_tables(tmp_path, cluster):
    address, kill = cluster
    request, notes = request_of(tmp_path, 8), []
    killer = threading.Thread(target=lambda: (wait_for(lambda: list(request.out.glob("work/*/*"))), kill()))
    killer.start()
    found = carry_out(request, Engine(engine="ray", address=address), Noted(notes))
    killer.join()
    assert len(found.done) == 2, (found.failed, notes)
    whole = run(replace(request, out=tmp_path / "whole"))
    assert_equal(tables(tmp_path / "whole"), tables(request.out))
    assert found.points["fd_mini"].dropna().tolist() == whole.points["fd_mini"].dropna().tolist()


def wait_for(something) -> None:
    deadline = time.monotonic() + 240
    while not something() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.ray
def test_an_address_where_nobody_is(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(UsageError, match=r"no Ray cluster answers .*ray start --head"):
        carry_out(request_of(tmp_path, 1), Engine(engine="ray", address="127.0.0.1:9"))


def test_without_ray_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match=r"pip install 'hfdbench\[ray\]'"):
        carry_out(request_of(tmp_path, 1), Engine(engine="ray"))
