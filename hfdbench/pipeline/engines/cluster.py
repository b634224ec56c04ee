"""Workers that are actors of a Ray cluster.

Conventions: an actor is never restarted by Ray: the driver starts another. A call that failed may still be running: an actor
that cannot be reached is not an actor that is dead, so a lost one never counts as gone. Hosts need the same version of
hfdbench, the weights and the images at the same paths, and the results folder; a host whose results would be others is left
out, by name.
"""

import importlib
import socket
from concurrent.futures import Future
from typing import Any

from hfdbench.errors import Unavailable, UsageError
from hfdbench.pipeline.engines.queue import Lost
from hfdbench.pipeline.engines.settings import Engine
from hfdbench.pipeline.engines.worker import Bench, Hello, Report, Unit, Wrong, difference
from hfdbench.pipeline.plan import Request

CONNECT_S = 10.0
START_S, RESTART_S = 180.0, 30.0  # until an actor has a place and has read the images' hashes


class Cluster:
    """A connection to a cluster.

    Parameters
    ----------
    engine : Engine
        Its address and what an actor takes.
    request : Request
        What the units are parts of.
    mine : Hello
        What the driver would do.

    Raises
    ------
    Unavailable
        Ray is not installed.
    UsageError
        No cluster at that address.
    """

    def __init__(self, engine: Engine, request: Request, mine: Hello):
        try:
            ray: Any = importlib.import_module("ray")  # an extra: absent from most installations
        except ImportError:
            raise Unavailable("--engine ray needs Ray", "pip install 'hfdbench[ray]'") from None
        self._ray = ray
        _reach(engine.address)
        try:
            ray.init(address=engine.address, logging_level="ERROR", log_to_driver=False, namespace="hfdbench")
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise UsageError(
                f"--address {engine.address}: no Ray cluster answers ({_first_line(error)}); start one with: ray start --head"
            ) from None
        self._request = ray.put(request)
        self._mine = mine
        self._actor = ray.remote(num_cpus=engine.cpus, num_gpus=engine.gpus, max_restarts=0)(_Host)
        self.notes: list[str] = []
        self._cpus, self._gpus = engine.cpus, engine.gpus
        resources = ray.cluster_resources()
        room = resources.get("CPU", 0) // engine.cpus
        if engine.gpus:
            room = min(room, resources.get("GPU", 0) // engine.gpus)
        if room < 1:
            self.close()
            raise UsageError(
                f"--address {engine.address}: no host has {engine.cpus:g} cores and {engine.gpus:g} GPUs for a worker; "
                "ask for less in the engine file (cpus, gpus)"
            )
        self.room = int(room)

    def restart(self) -> "Actor":
        """Start one actor, where there is room. Raises Lost."""
        free = self._ray.available_resources()
        if free.get("CPU", 0) < self._cpus or free.get("GPU", 0) < self._gpus:
            raise Lost("the cluster has no room for another")
        before = len(self.notes)
        for actor in self.start(1, RESTART_S):
            return actor
        raise Lost("; ".join(self.notes[before:]))

    def start(self, count: int, patience_s: float = START_S) -> "list[Actor]":
        """Start actors; those whose host would give other results are ended again and noted."""
        actors = [Actor(self._ray, self._actor.remote()) for _ in range(count)]
        kept = []
        for actor, said in [(actor, actor.handle.hello.remote(self._request)) for actor in actors]:
            try:
                theirs = self._ray.get(said, timeout=patience_s)
            except self._ray.exceptions.RayError as error:
                self.notes.append(f"an actor was lost before it began: {_first_line(error)}")
                actor.end()
                continue
            why = difference(self._mine, theirs) if isinstance(theirs, Hello) else theirs.message
            if why or not isinstance(theirs, Hello):
                self.notes.append(f"{theirs.host} is left out: {why}")
                actor.end()
                continue
            actor.host, actor.seal = theirs.host, theirs.seal
            kept.append(actor)
        return kept

    def close(self) -> None:
        """End all actors and leave the cluster."""
        self._ray.shutdown()


def _reach(address: str) -> None:
    """Raise UsageError where nobody listens: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        return  # "auto", or a name that Ray knows
    try:
        socket.create_connection((host.removeprefix("ray://").strip("[]"), int(port)), CONNECT_S).close()
    except OSError as error:
        raise UsageError(
            f"--address {address}: no Ray cluster answers ({error}); start one with: ray start --head"
        ) from None


class Actor:
    """A worker on some host."""

    def __init__(self, ray: Any, handle: Any):
        self._ray, self.handle = ray, handle
        self.host, self.seal = "", "process"

    def submit(self, unit: Unit) -> "Future[Report | Wrong]":
        """Give it a unit. The future raises Lost."""
        answer: Future[Report | Wrong] = Future()
        errors = self._ray.exceptions

        def arrived(found: Future) -> None:
            error = found.exception()
            if error is None:
                answer.set_result(found.result())
            elif isinstance(error, errors.RayTaskError):  # an exception of ours: a fault of hfdbench
                answer.set_exception(error)
            else:
                answer.set_exception(Lost(_first_line(error)))

        self.handle.do.remote(unit).future().add_done_callback(arrived)
        return answer

    def end(self) -> None:
        """End it and all that it started."""
        try:
            self._ray.kill(self.handle)
        except Exception as error:  # it is gone, and with it what it started
            if not isinstance(error, (ValueError, self._ray.exceptions.RayError)):
                raise


class _Host:
    """The actor."""

    def hello(self, request: Request) -> Hello | Wrong:
        self._bench = Bench(request)
        return self._bench.hello()

    def do(self, unit: Unit) -> Report | Wrong:
        return self._bench.do(unit)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
