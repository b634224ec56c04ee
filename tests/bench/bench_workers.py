"""Two worker processes are at least 1.8 times as fast as one: JPEG with FID, on two cores.

Conventions: pictures are synthetic, 512 x 768; the Inception has random weights; time is that of the units, without the start of
the workers (their imports take the same whatever there is to do) and without the last step, which is the driver's own:
both are printed. The ratio is of wall time, of a quiet machine only: where fewer cores were free than workers, by the processor
time that the run got, it is named and not judged. Processor time of two workers over that of one is what sharing costs in any case.
The machine's own limit is measured beside it: two runs of one worker that know nothing of each other, each of half the pictures,
against the one worker that did them all. What two workers miss of 2 and these do not is ours.
Run it: python tests/bench/bench_workers.py [--pictures 48]. Exit 1 under the limit.
"""

import argparse
import os
import subprocess
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


def units_of(folder: Path, out: Path, weights: Path, workers: int):
    """Seconds of the units of a run, and its summary."""
    from bench_memory import request_of

    from hfdbench.pipeline.engines.driver import carry_out
    from hfdbench.pipeline.engines.settings import Engine

    watch = Watch()
    summary = carry_out(request_of(folder, out, weights), Engine(engine="processes", workers=workers), watch)
    if summary.exit_code or summary.points["fid"].isna().any():
        raise SystemExit(f"the run failed: {summary}")
    return watch.ended - watch.began, summary


def side_by_side(folders: list[Path], place: Path, weights: Path) -> list[float]:
    """Seconds of the units of runs of one worker each, begun at once."""
    words = [[sys.executable, __file__, "--one", str(f), str(place / f"out-{f.name}"), str(weights)] for f in folders]
    runs = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for line in words]
    said = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise SystemExit("a run side by side failed")
    return [float(text) for text in said]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--one", nargs=3, type=Path, metavar=("FOLDER", "OUT", "WEIGHTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for folder in (Path(__file__).parents[1], Path(__file__).parent):
        sys.path.insert(0, str(folder))
    os.environ["OMP_NUM_THREADS"] = "1"
    if options.one:
        print(units_of(*options.one, workers=1)[0])
        return 0
    import turns
    from bench_memory import pictures
    from helpers_metrics import random_weights

    units_s, used_s, busy = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = random_weights(place / "random.pth")
        pictures(place / "p", options.pictures)
        for workers in (1, 2):
            before, began = time.process_time(), time.monotonic()
            with turns.watched(os.getpid()) as seen:
                units_s[workers], summary = units_of(place / "p", place / f"out-{workers}", weights, workers)
            whole_s, used_s[workers] = time.monotonic() - began, sum(seen.values()) - before
            busy[workers] = used_s[workers] / whole_s
            print(
                f"{workers} workers: units {units_s[workers]:.1f} s, whole run {whole_s:.1f} s, "
                f"processors {used_s[workers]:.1f} s, {busy[workers]:.2f} cores, FID {summary.points['fid'].iloc[0]!r}",
                flush=True,
            )
        halves = [place / "a", place / "b"]
        for half in halves:
            half.mkdir()
        for number, file in enumerate(sorted((place / "p").iterdir())):
            file.rename(halves[number % 2] / file.name)
        apart_s = side_by_side(halves, place, weights)
    ratio, cost, most = units_s[1] / units_s[2], used_s[2] / used_s[1], units_s[1] / max(apart_s)
    print(f"two workers: {ratio:.2f} times as fast, limit {LIMIT:.2f}; processor time {cost:.2f} times that of one")
    print(f"two runs side by side: {most:.2f} times as fast; two workers reach {ratio / most:.2f} of that")
    if busy[1] < FREE:
        print(f"not judged: one worker had {busy[1]:.2f} of a core; the machine is not quiet")
        return 0
    return int(ratio < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
