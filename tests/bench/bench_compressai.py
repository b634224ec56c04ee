"""JPEG and WebP on Kodak: `hfdbench run` against CompressAI's own `python -m compressai.utils.bench`, whole commands in turn.

    python tests/bench/bench_compressai.py [--codec jpeg webp] [--quality 25 50] [--rounds 3] [--threads 1]

Conventions: the same pictures, qualities, PSNR and MS-SSIM; takes HFDBENCH_DATA. CompressAI comes with hfdbench. Its bench has no
AVIF (its `av1` needs libaom's program), writes no stream, seals no decoder and stores no result; hfdbench adds all of these,
slower settings of the encoders (JPEG: optimised, progressive; WebP: method 6; smaller files) and fd_mini with KID, and starts
worker processes. FID is left out: CompressAI has none. Exit code 1 where hfdbench is slower.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import turns

MAIN = "from hfdbench.cli import main; main()"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--codec", nargs="+", default=["jpeg", "webp"])
    options.add_argument("--quality", nargs="+", default=["35", "50"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options = options.parse_args()
    if "HFDBENCH_DATA" not in os.environ:
        print("HFDBENCH_DATA names no folder of images", file=sys.stderr)
        return 2
    print(turns.machine(), flush=True)
    slower = False
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "kodak").symlink_to(Path(os.environ["HFDBENCH_DATA"], "kodak").resolve())  # and no weights of Inception
        quiet = {"HFDBENCH_DATA": str(root), "XDG_CACHE_HOME": str(root / "cache"), "HTTPS_PROXY": "http://127.0.0.1:9"}
        for codec in options.codec:
            ours, theirs = turns.Runs(), turns.Runs()
            for round_ in range(options.rounds):
                points = [word for quality in options.quality for word in ("--point", f"q{quality}")]
                run = [
                    sys.executable,
                    "-c",
                    MAIN,
                    "run",
                    "--codec",
                    codec,
                    "--dataset",
                    "kodak",
                    *points,
                ]
                bench = [sys.executable, "-W", "ignore", "-m", "compressai.utils.bench", codec, str(root / "kodak")]
                both = turns.commands(
                    {
                        "hfdbench": [*run, "--out", str(root / f"{codec}-{round_}")],
                        "compressai": [*bench, "-q", ",".join(options.quality)],
                    },
                    1,
                    options.threads,
                    **quiet,
                )
                ours.add(both["hfdbench"])
                theirs.add(both["compressai"])
            found = json.loads(str(theirs.last))["results"]
            print(f"{codec} at {', '.join(options.quality)}: hfdbench {ours}; CompressAI {theirs}")
            print(f"  CompressAI's PSNR {found['psnr-rgb']}, bpp {found['bpp']}")
            value, text = turns.ratio(theirs, ours)
            _, wall = turns.ratio(theirs, ours, wall=True)
            print(f"  CompressAI over hfdbench: {text} in CPU seconds, {wall} on the wall", flush=True)
            slower |= value < 1
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
