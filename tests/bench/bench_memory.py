"""Peak memory of a run grows with one image and one batch, not with the dataset: 24 and 240 images within 10 %.

Conventions: memory is the resident memory of the run and all its workers, pages they share counted once for each, summed
at 50 samples a second from /proc; the peak of that sum. The pictures are synthetic, 512 x 768, the Inception has random
weights. Run it: python tests/bench/bench_memory.py. Exit 1 over the limit.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.10
IMAGES = (24, 240)

RUN = """
import sys
from pathlib import Path
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.pipeline.run import run
from hfdbench.pipeline.plan import Request
cards = tuple(choose(CodecCard, ["jpeg"]))
request = Request(codecs=cards, datasets=(f"folder:{sys.argv[1]}",), points=("q25",), out=Path(sys.argv[2]),
                  inception=Path(sys.argv[3]))
summary = run(request)
assert summary.exit_code == 0 and summary.points["fid"].notna().all(), summary
"""


def pictures(folder: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(coarse).resize((768, 512), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")


def resident_bytes(root: int) -> int:
    """Resident memory of a process and its descendants."""
    parents, pages = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            pages[int(folder.name)] = int(fields[21])
        except (OSError, IndexError):
            continue
    family = {root}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return sum(pages.get(pid, 0) for pid in family) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(folder: Path, out: Path, weights: Path) -> int:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(out), str(weights)])
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the run failed: exit {process.returncode}")
    return peak


def main() -> int:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers_metrics import random_weights

    peaks = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = random_weights(place / "random.pth")
        for count in IMAGES:
            pictures(place / str(count), count)
            peaks.append(peak_bytes(place / str(count), place / f"out-{count}", weights))
            print(f"{count} images: peak {peaks[-1] / 2**20:.0f} MiB", flush=True)
    ratio = peaks[1] / peaks[0]
    print(f"memory: ratio {ratio:.3f}, limit {LIMIT:.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
