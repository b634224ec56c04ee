"""What a sandbox adds to the start and end of a worker, in milliseconds: at most 50.

python tests/bench/bench_sandbox.py [STARTS]
"""

import os
import statistics
import sys
import time

from hfdbench.codecs.pool import Pool
from hfdbench.errors import UsageError


def start_ms(level: str) -> float:
    """Of one worker that builds nothing, from its start to its end."""
    os.environ["HFDBENCH_SEAL"] = level
    began = time.perf_counter()
    with Pool("codec", 1, "cpu") as pool:
        pool._all[0].probe()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    levels, starts = ["process", "landlock", "namespaces"], int(sys.argv[1]) if len(sys.argv) > 1 else 20
    times: dict[str, list[float]] = {}
    for _ in range(starts):  # in turn, so that other load meets all alike
        for level in levels:
            try:
                times.setdefault(level, []).append(start_ms(level))
            except UsageError as error:
                print(error, file=sys.stderr)
                levels.remove(level)
    for name, of in (("fastest", min), ("median", statistics.median)):  # other load only adds: the fastest tells most
        base = of(times["process"])
        for level, values in times.items():
            print(f"{name:<8} {level:<12} {of(values):7.1f} ms  {of(values) - base:+6.1f} ms")


if __name__ == "__main__":
    main()
