"""What a campaign takes on many hosts: the driver's queue and cost model on a simulated clock, with failures and stragglers.

Simulated: 428 photographs of 2 megapixels (CLIC) and 30,000 crops of 256 x 256 (COCO), ten codecs at eight rates: four classical,
two autoencoders, a GAN, and three diffusion decoders of 100 evaluations. A host is a worker with one GPU. The units, their
order, the barrier of each key, copies and cuts are those of `hfdbench.pipeline.engines`; workers and time are not real.

Assumed: a unit takes what the cost model says, times a log-normal factor (sigma 0.25), plus 5 s of starting; 3 % of units
take three times as long; a host dies once in 200 hours of work and is back after half an hour. Run it:
python tests/bench/simulate_schedule.py [--hosts 8 --hosts 64 ...]. Prints the table of docs/scale.md.
"""

import argparse
import heapq
import random
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future

from hfdbench.pipeline.engines import queue
from hfdbench.pipeline.engines.driver import DESCRIBE_S, GPU_FASTER, Work, cost_s, cut
from hfdbench.pipeline.engines.settings import Engine
from hfdbench.pipeline.engines.worker import Report, Unit

DATASETS = {"clic": (428, 2.0), "coco-30k": (30_000, 0.065536)}  # images, megapixels of each
CODECS = [*["classical"] * 4, *["autoencoder"] * 2, "gan", *["diffusion"] * 3]
EVALUATIONS = {"autoencoder": 0, "gan": 1, "diffusion": 100}
RATES = 8
OVERHEAD_S, SIGMA, SLOW, SLOWER = 5.0, 0.25, 0.03, 3.0
HOURS_TO_FAILURE, REPAIR_S = 200.0, 1800.0
POLL_S = 10.0


def campaign() -> list[Work]:
    """The work, in the order in which the driver begins it."""
    work = []
    for name, (images, megapixels) in DATASETS.items():
        work.append(Work("originals", name, images, images * megapixels * DESCRIBE_S / GPU_FASTER))
    for stage in ("encode", "decode"):
        for number, kind in enumerate(CODECS):
            for rate in range(RATES):
                for name, (images, megapixels) in DATASETS.items():
                    seconds = images * megapixels * cost_s(kind, stage, EVALUATIONS.get(kind, 0), GPU_FASTER)
                    work.append(Work(stage, f"{kind}{number}-q{rate}-{name}", images, seconds))
    return work


class Cluster(queue.Clock):
    """Simulated hosts and their time."""

    def __init__(self, work: list[Work], seed: int):
        self.seconds = {(part.stage, part.key): part.seconds / part.images for part in work}  # of an image
        self.random = random.Random(seed)
        self.busy_s, self.failures, self.done = 0.0, 0, 0
        self._now, self._count = 0.0, 0
        self._back: list[float] = []  # when hosts that died can be used again
        self._events: list[tuple[float, int, Future, object]] = []

    def now(self) -> float:
        return self._now

    def wait(self, running: Iterable[Future]) -> list[Future]:
        """The next future, or none when a while has passed."""
        if self._events[0][0] > self._now + POLL_S:
            self._now += POLL_S
            return []
        self._now, _, future, result = heapq.heappop(self._events)
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
        return [future] if future in running else []

    def replace(self) -> "Host":
        """A worker on a host that is back."""
        if not self._back or min(self._back) > self._now:
            raise queue.Lost("the cluster has no room for another")
        self._back.remove(min(self._back))
        return Host(self, -self.failures)

    def begin(self, host: str, unit: Unit) -> Future:
        """Start a unit on a host."""
        cost = len(unit.part) * self.seconds[unit.stage, unit.key] * self.random.lognormvariate(0, SIGMA)
        taken = OVERHEAD_S + cost * (SLOWER if self.random.random() < SLOW else 1)
        dies = self.random.expovariate(1 / (HOURS_TO_FAILURE * 3600))
        future, self._count = Future(), self._count + 1
        if dies < taken:
            self.failures += 1
            self._back.append(self._now + dies + REPAIR_S)
            heapq.heappush(self._events, (self._now + dies, self._count, future, queue.Lost(f"{host} died")))
        else:
            heapq.heappush(self._events, (self._now + taken, self._count, future, Report(host, taken, (), ())))
        self.busy_s += min(dies, taken)
        return future


class Host:
    """A simulated worker."""

    seal = "sandbox"

    def __init__(self, cluster: Cluster, number: int):
        self.host, self._cluster = f"host {number}", cluster

    def submit(self, unit: Unit) -> Future:
        return self._cluster.begin(self.host, unit)

    def end(self) -> None: ...


def simulate(hosts: int, seed: int = 0) -> dict[str, float]:
    """One campaign: hours, units, failures, and the share of the hosts' time that was work of the cost model."""
    work = campaign()
    units = cut(work, Engine().unit_s, hosts)
    cluster = Cluster(work, seed)

    workers = [Host(cluster, number) for number in range(hosts)]
    notes: list[str] = []
    queue.carry_out(
        units, workers, cluster.replace, losses=3, copies=True, note=notes.append, advance=lambda: None, clock=cluster
    )
    hours, work_hours = cluster.now() / 3600, sum(part.seconds for part in work) / 3600
    return {
        "hours": hours,
        "units": len(units),
        "failures": cluster.failures,
        "work_hours": work_hours,
        "busy": cluster.busy_s / 3600 / (hours * hosts),
        "useful": work_hours / (hours * hosts),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, action="append")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(
        "| hosts | hours | host-hours | units | hosts lost | busy | useful |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for hosts in options.hosts or (8, 64, 1000):
        began = time.process_time()
        found = [simulate(hosts, seed) for seed in range(options.seeds)]
        one = {name: statistics.median(each[name] for each in found) for name in found[0]}
        print(
            f"| {hosts:,} | {one['hours']:.2f} | {one['hours'] * hosts:.0f} | {one['units']:,.0f} | {one['failures']:.0f} | "
            f"{one['busy']:.0%} | {one['useful']:.0%} |",
            flush=True,
        )
        print(f"{time.process_time() - began:.0f} s", file=sys.stderr)
    print(f"\n{one['work_hours']:.0f} hours of work by the cost model", file=sys.stderr)
    for kind in ("classical", "autoencoder", "gan", "diffusion"):
        a_megapixel = sum(cost_s(kind, stage, EVALUATIONS.get(kind, 0), GPU_FASTER) for stage in ("encode", "decode"))
        print(f"{kind}: {3600 / a_megapixel:,.0f} megapixels an hour", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
