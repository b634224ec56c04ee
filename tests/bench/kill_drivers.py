"""A driver that is killed again and again, each time started on another engine, and 200 shards: the tables of one quiet run.

Pictures are synthetic, 256 x 256; codec jpeg at two points; the Inception has random weights. First a quiet run, which is timed;
then drivers that are killed (SIGKILL) at moments drawn evenly from that time, on the local engine and on processes in turn, and
one that ends; then shards, one after the other, and a merge. All rows of all tables must be equal, times excepted, FID to the
last bit. Run it: python tests/bench/kill_drivers.py [--kills 10 --shards 200 --pictures 24]. Exit 1 where a table differs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

for folder in (Path(__file__).parents[1], Path(__file__).parents[1] / "pipeline"):
    sys.path.insert(0, str(folder))

ENGINES = {"local": ["--engine", "local"], "processes": ["--engine", "processes", "--workers", "2"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from helpers_kills import driver, killed, pieces
    from helpers_metrics import random_weights
    from test_pipeline import assert_equal, pictures, tables

    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.pipeline.plan import Request
    from hfdbench.pipeline.run import merge, run
    from hfdbench.results.stored import Results

    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        spec = pictures(place / "p", options.pictures, 256, 256)
        weights = random_weights(place / "random.pth")
        words = ["run", "--codec", "jpeg", "--point", "q25", "--point", "q65", "--dataset", spec, "--device", "cpu"]
        words += ["--inception", str(weights)]

        def ended(engine: str, out: Path) -> float:
            began = time.monotonic()
            process = driver([*words, *ENGINES[engine], "--out", str(out)])
            if process.wait():
                raise SystemExit(f"the run on {engine} failed: exit {process.returncode}")
            return time.monotonic() - began

        whole_s = ended("local", place / "whole")
        whole = tables(place / "whole")
        fid = Results(place / "whole").points()["fid"].tolist()
        print(f"a quiet run: {whole_s:.1f} s, FID {fid}", flush=True)

        turn, out = 0, place / "killed"
        for turn in range(options.kills):
            engine, after_s = list(ENGINES)[turn % 2], chance.uniform(0, whole_s)

            def moment(process: subprocess.Popen, after_s: float = after_s) -> bool:
                try:
                    process.wait(after_s)
                    return False
                except subprocess.TimeoutExpired:
                    return True

            ran = killed([*words, *ENGINES[engine], "--out", str(out)], moment)
            what = "killed" if ran else "had ended"
            print(f"{turn + 1}: {engine} {what} after {after_s:.1f} s, {len(pieces(out))} pieces", flush=True)
        ended(list(ENGINES)[(turn + 1) % 2], out)
        assert_equal(whole, tables(out))
        print(f"killed {options.kills} times: {len(whole)} tables equal, FID {Results(out).points()['fid'].tolist()}")

        cards = tuple(choose(CodecCard, ["jpeg"]))
        request = Request(cards, (spec,), place / "shards", points=("q25", "q65"), inception=weights)
        for index in chance.sample(range(options.shards), options.shards):
            run(replace(request, shard=(index, options.shards)))
        merged = merge(request)
        assert_equal(whole, tables(request.out))
        print(f"{options.shards} shards merged: {len(whole)} tables equal, FID {merged.points['fid'].tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
