"""Peak memory grows with one image and one batch, not with the dataset: of a run (24 and 240 images), of a driver (100 and 30,000).

Conventions: memory is the resident memory of the run and all its workers, pages they share counted once for each, summed
at 50 samples a second from /proc; the peak of that sum. The pictures are synthetic, 512 x 768, the Inception has random
weights. Run it: python tests/bench/bench_memory.py. Exit 1 over the limit.

`--driver` measures what a driver does when its workers have ended: `hfdbench merge` of pieces with synthetic features, 2048 a
crop, for FID, KID, precision and recall and, from 10,000 crops, FID infinity. Every block of the last three is like the one
before, so a few of each are done (`--whole`: all, some minutes).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import turns

LIMIT = 1.10
IMAGES, CROPS = (24, 240), (100, 30_000)
PIECE = 500  # crops of a piece

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


MERGE = """
import sys
from pathlib import Path
from hfdbench.metrics.distribution import fid_infinity, kid, precision_recall
from hfdbench.metrics.distribution.blocks import spans
from hfdbench.pipeline.run import merge
sys.path.insert(0, sys.argv[1])
from bench_memory import request_of
if sys.argv[5] != "whole":
    kid.kid.__defaults__ = (0, 2, kid.SUBSET_SIZE)  # subsets
    fid_infinity.fid_infinity.__defaults__ = (0, fid_infinity.SMALLEST, fid_infinity.SIZES, 1)  # orders
    share, reach, kept = precision_recall._share_within, precision_recall._reach, {}
    def once(manifold, rows, centre, neighbours):
        if not rows.start:
            kept[id(manifold)] = reach(manifold, rows, centre, neighbours)
        return kept[id(manifold)][: rows.stop - rows.start]
    precision_recall._reach = once
    precision_recall._share_within = lambda points, *more: share(points[:2000], *more)
summary = merge(request_of(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])))
assert summary.exit_code == 0 and summary.points["fid"].notna().all(), summary
row = summary.points.iloc[0]
print({name: row[name] for name in ("fid", "kid", "precision", "fid_infinity") if name in row}, flush=True)
"""


def request_of(folder: Path, out: Path, weights: Path):
    """JPEG of a folder."""
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard
    from hfdbench.pipeline.plan import Request

    cards = tuple(choose(CodecCard, ["jpeg"]))
    return Request(cards, (f"folder:{folder}",), points=("q25",), out=out, inception=weights)


def synthetic_pieces(folder: Path, out: Path, weights: Path, count: int) -> None:
    """Small pictures, and pieces of all tables as workers leave them: rows of images and features without meaning."""
    import numpy as np
    import pyarrow as pa
    from PIL import Image

    from hfdbench.pipeline.plan import make_plan
    from hfdbench.pipeline.run import open_session
    from hfdbench.progress import Silent
    from hfdbench.results import schema

    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = np.full((8, 8, 3), i % 256, np.uint8)
        pixels[0, 0] = i // 256 % 256
        Image.fromarray(pixels).save(folder / f"{i:06d}.png", compress_level=1)
    request = request_of(folder, out, weights)
    session = open_session(request, Silent())
    (trial,) = make_plan(request).trials
    head = {"codec": trial.codec.id, "point": trial.point, "dataset": trial.dataset.id, "status": "ok"}

    def features(dimensions: int, images: range, shift: float) -> pa.Table:
        flat = pa.array(random.random(len(images) * dimensions, np.float32) + np.float32(shift))
        column = pa.FixedSizeListArray.from_arrays(flat, dimensions)
        zeros = pa.array(np.zeros(len(images), np.int64))
        return pa.table([pa.array(images), zeros, zeros, column], schema=schema.features_schema(dimensions))

    streams = session.pieces(trial.stream_key, "streams", schema.STREAMS, "stream")
    images = session.pieces(trial.trial_key, "images", schema.IMAGES, "pixels_sha256")
    tables = []
    for extractor in session.instruments.extractors.values():
        columns = schema.features_schema(extractor.dimensions)
        reference = session.reference(trial.dataset, extractor).stem
        tables.append((session.pieces(reference, "features", columns, "features"), extractor.dimensions, 0.0))
        mine = session.pieces(trial.trial_key, f"features-{extractor.key}", columns, "features")
        tables.append((mine, extractor.dimensions, 0.02))
    quality = [
        (session.pieces(trial.trial_key, f"quality-{name}", schema.QUALITY, "value"), measure.columns)
        for name, measure in session.instruments.measures.items()
    ]
    for first in range(0, count, PIECE):
        part = range(first, min(first + PIECE, count))
        rows = []
        for image in part:
            both = {"image": image, "name": trial.dataset.names[image], "width": 8, "height": 8, "bytes": 640}
            row = head | both | {"pixels": 64, "bpp": 80.0, "mse": 9.5 + image % 7, "psnr_db": 38.0, "encode_s": 0.001}
            row |= {"decode_s": 0.001, "stream_sha256": f"{image:064x}", "pixels_sha256": f"{image:064x}"}
            rows.append(row | {"stream": bytes(640), "identical": False} | session.place)
        streams._commit(part[0], part[-1], pa.Table.from_pylist(rows, schema.STREAMS))
        images._commit(part[0], part[-1], pa.Table.from_pylist(rows, schema.IMAGES))
        for pieces, dimensions, shift in tables:
            pieces._commit(part[0], part[-1], features(dimensions, part, shift))
        for pieces, columns in quality:
            lines = [row | {"metric": column, "value": 0.5} for row in rows for column in columns]
            pieces._commit(part[0], part[-1], pa.Table.from_pylist(lines, schema.QUALITY))


def pictures(folder: Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for i in range(count):
        coarse = np.random.default_rng(i).integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(coarse).resize((768, 512), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")


def resident_bytes(root: int) -> int:
    """Resident memory of a process and its descendants."""
    members = turns.family(root)
    # Between vfork and exec a child's memory is its parent's: the same sizes, virtual and resident.
    own = (f for f in members.values() if f[20:22] != members.get(int(f[1]), [])[20:22])
    return sum(int(fields[21]) for fields in own) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(code: str, *arguments: Path | str) -> int:
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the run failed: exit {process.returncode}")
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", action="store_true")
    parser.add_argument("--whole", action="store_true", help="all blocks of KID, precision and recall, FID infinity")
    parser.add_argument("--crops", type=int, action="append", help="numbers of crops [100, 30,000]")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers_metrics import random_weights

    peaks = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = random_weights(place / "random.pth")
        for count in options.crops or (CROPS if options.driver else IMAGES):
            folder, out = place / str(count), place / f"out-{count}"
            if options.driver:
                synthetic_pieces(folder, out, weights, count)
                how = "whole" if options.whole else "some"
                peaks.append(peak_bytes(MERGE, Path(__file__).parent, folder, out, weights, how))
            else:
                pictures(folder, count)
                peaks.append(peak_bytes(RUN, folder, out, weights))
            print(f"{count:,} images: peak {peaks[-1] / 2**20:.0f} MiB", flush=True)
    ratio = peaks[-1] / peaks[0]
    print(f"memory: ratio {ratio:.3f}, limit {LIMIT:.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
