"""JPEG and WebP on Kodak: `hfdbench run` against CompressAI's own `python -m compressai.utils.bench`, whole commands in turn.

    python tests/bench/bench_compressai.py [--codec jpeg webp] [--quality 50] [--rounds 3] [--threads 1]

Conventions: the same pictures and qualities, PSNR and MS-SSIM; takes HFDBENCH_DATA. CompressAI comes with hfdbench. Its bench has
no AVIF (its `av1` needs libaom's program). Two commands of hfdbench:

equal    the codec with Pillow's settings, as CompressAI has it, and `--feature none`: bpp and PSNR must be CompressAI's
default  our card (JPEG optimised and progressive, WebP of method 6: smaller files), fd_mini besides; FID is left out

Either seals its decoders, writes streams and tables, and computes MS-SSIM in float64; CompressAI's bench does none of these.
Exit code 1 where `equal` is slower or gives another point.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import turns

MAIN = "from hfdbench.cli import main; main()"
PLAIN = """\
id = "{0}-plain"
kind = "classical"
adapter = "hfdbench.codecs.pillow:{1}"
settings = "Pillow's own"
points = [{2}]
"""
ADAPTERS = {"jpeg": "JPEG", "webp": "WebP"}
PILLOWS = {"jpeg": "optimize = false, progressive = false", "webp": "method = 4"}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--codec", nargs="+", default=list(ADAPTERS), choices=ADAPTERS)
    options.add_argument("--quality", nargs="+", default=["50"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    options = options.parse_args()
    if "HFDBENCH_DATA" not in os.environ:
        print("HFDBENCH_DATA names no folder of images", file=sys.stderr)
        return 2
    print(turns.machine(), flush=True)
    bad = False
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "kodak").symlink_to(Path(os.environ["HFDBENCH_DATA"], "kodak").resolve())  # and no weights of Inception
        (root / "cards" / "codecs").mkdir(parents=True)
        quiet = {"HFDBENCH_DATA": str(root), "XDG_CACHE_HOME": str(root / "cache"), "HTTPS_PROXY": "http://127.0.0.1:9"}
        for codec in options.codec:
            points = (f'{{ id = "q{q}", options = {{ quality = {q}, {PILLOWS[codec]} }} }}' for q in options.quality)
            card = PLAIN.format(codec, ADAPTERS[codec], ", ".join(points))
            (root / "cards" / "codecs" / f"{codec}-plain.toml").write_text(card)
            run = [sys.executable, "-c", MAIN, "run", "--dataset", "kodak"]
            run += [word for quality in options.quality for word in ("--point", f"q{quality}")]
            bench = [sys.executable, "-W", "ignore", "-m", "compressai.utils.bench", codec, str(root / "kodak")]
            runs = {name: turns.Runs() for name in ("equal", "default", "CompressAI")}
            for round_ in range(options.rounds):
                plain = ["--codec", f"{codec}-plain", "--cards", str(root / "cards"), "--feature", "none"]
                commands = {
                    "equal": [*run, *plain, "--out", str(root / f"{codec}-equal-{round_}")],
                    "CompressAI": [*bench, "-q", ",".join(options.quality)],
                    "default": [*run, "--codec", codec, "--out", str(root / f"{codec}-{round_}")],
                }
                for name, one in turns.commands(commands, 1, options.threads, **quiet).items():
                    runs[name].add(one)
            theirs = json.loads(str(runs["CompressAI"].last))["results"]
            ours = points_of(root / f"{codec}-equal-0")
            same = all(
                math.isclose(a, b, rel_tol=1e-5)
                for name in ("bpp", "psnr-rgb")
                for a, b in zip(ours[name], theirs[name], strict=True)
            )
            print(f"{codec} at {', '.join(options.quality)}: {'the same points' if same else 'OTHER POINTS'}")
            print(f"  equal {ours}; CompressAI {theirs}")
            for name in runs:
                print(f"  {name}: {runs[name]}")
            for name in ("equal", "default"):
                value, text = turns.ratio(runs["CompressAI"], runs[name])
                _, wall = turns.ratio(runs["CompressAI"], runs[name], wall=True)
                print(f"  CompressAI over {name}: {text} in CPU seconds, {wall} on the wall", flush=True)
                bad |= name == "equal" and (value < 1 or not same)
    return int(bad)


def points_of(folder: Path) -> dict[str, list[float]]:
    """Of a results folder, by rate, under CompressAI's names; its bpp is the mean over the pictures."""
    import hfdbench

    points = hfdbench.load_results(folder).points().sort_values("bpp")
    return {name: points[column].tolist() for name, column in (("bpp", "bpp_mean"), ("psnr-rgb", "psnr_db"))}


if __name__ == "__main__":
    sys.exit(main())
