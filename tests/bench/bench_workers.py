"""Two worker processes are at least 1.8 times as fast as one: JPEG with FID, on two cores.

Conventions: pictures are synthetic, 512 x 768; the Inception has random weights; time is that of the units, without the start of
the workers (their imports take the same whatever there is to do) and without the last step, which is the driver's own:
both are printed. The ratio is of wall time, of a quiet machine only: where fewer cores were free than workers, by the processor
time that the run got, it is named and not judged. Processor time of two workers over that of one is what sharing costs in any case.
Run it: python tests/bench/bench_workers.py [--pictures 48]. Exit 1 under the limit.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.8
FREE = 0.95  # cores that each worker had, at least, where the ratio is judged


class Watch:
    """Progress that notes when the units began and ended."""

    def __init__(self):
        self.began = self.ended = 0.0

    def start(self, total: int, what: str) -> None:
        if what == "units":
            self.began = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self.ended = time.monotonic()

    def note(self, text: str) -> None: ...


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48)
    options = parser.parse_args()
    for folder in (Path(__file__).parents[1], Path(__file__).parent):
        sys.path.insert(0, str(folder))
    import turns
    from bench_memory import pictures, request_of
    from helpers_metrics import random_weights

    from hfdbench.pipeline.engines.driver import carry_out
    from hfdbench.pipeline.engines.settings import Engine

    os.environ["OMP_NUM_THREADS"] = "1"
    units_s, used_s, busy = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = random_weights(place / "random.pth")
        pictures(place / "p", options.pictures)
        for workers in (1, 2):
            watch, before, began = Watch(), time.process_time(), time.monotonic()
            request = request_of(place / "p", place / f"out-{workers}", weights)
            with turns.watched(os.getpid()) as seen:
                summary = carry_out(request, Engine(engine="processes", workers=workers), watch)
            if summary.exit_code or summary.points["fid"].isna().any():
                raise SystemExit(f"the run failed: {summary}")
            whole_s, used_s[workers] = time.monotonic() - began, sum(seen.values()) - before
            units_s[workers], busy[workers] = watch.ended - watch.began, used_s[workers] / whole_s
            print(
                f"{workers} workers: units {units_s[workers]:.1f} s, whole run {whole_s:.1f} s, "
                f"processors {used_s[workers]:.1f} s, {busy[workers]:.2f} cores, FID {summary.points['fid'].iloc[0]!r}",
                flush=True,
            )
    ratio, cost = units_s[1] / units_s[2], used_s[2] / used_s[1]
    print(f"two workers: {ratio:.2f} times as fast, limit {LIMIT:.2f}; processor time {cost:.2f} times that of one")
    if busy[1] < FREE:
        print(f"not judged: one worker had {busy[1]:.2f} of a core; the machine is not quiet")
        return 0
    return int(ratio < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
