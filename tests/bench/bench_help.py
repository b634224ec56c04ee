"""How fast `hfdbench --help` answers, beside a Python that does nothing: at most 0.3 s.

    python tests/bench/bench_help.py [--rounds 20]

Conventions: whole processes in turn; the fastest counts, because neighbours only slow a process down. Exit code 1 over the limit.
"""

import argparse
import sys

import turns

LIMIT_S = 0.3


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=20)
    options = options.parse_args()
    runs = turns.commands(
        {
            "hfdbench --help": [sys.executable, "-c", "from hfdbench.cli import main; main()", "--help"],
            "python -c pass": [sys.executable, "-c", "pass"],
        },
        options.rounds,
    )
    print(turns.machine())
    for name, run in runs.items():
        print(f"{name}: {run}")
    fastest = min(runs["hfdbench --help"].wall_s)
    print(f"fastest {fastest:.3f} s on the wall, limit {LIMIT_S}")
    return int(fastest > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
