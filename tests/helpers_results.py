"""A results folder as `hfdbench run` leaves it, with made-up codecs: a strength of distortion takes the place of one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from hfdbench.codecs.identity import key
from hfdbench.metrics.distribution.kid import kid
from hfdbench.results import parquet, schema

PATCHES = 4  # of an image
NETWORKS = {"inception": ("12345678", 2048), "mini": ("87654321", 40)}  # key, dimensions


def write_points(out: Path, frame: pd.DataFrame) -> None:
    """A points file per row, with nothing behind it."""
    for number in range(len(frame)):
        table = pa.Table.from_pandas(frame.iloc[[number]], schema=schema.POINTS, preserve_index=False)
        parquet.write_table(out / "points" / f"{number:02d}.parquet", table, {})


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """The Fréchet distance of few features: the trace of the covariances' root is the nuclear norm of X Y' / (N - 1)."""
    step = x.mean(0, np.float64) - y.mean(0, np.float64)
    x, y = x - x.mean(0, np.float64), y - y.mean(0, np.float64)
    spread = (x**2).sum() + (y**2).sum() - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(float(step @ step + spread / (len(x) - 1)), 0.0)


def write_codec(
    out: Path,
    codec: str,
    bpps=(0.1, 0.2, 0.4, 0.8),
    psnr_gain=0.0,
    noise_gain=1.0,
    images=12,
    seed=0,
    dataset="made",
    streams=None,
    sampled=0,
) -> None:
    """One codec's points: better by `psnr_gain` dB, its features `noise_gain` times as far off, perhaps on others' `streams`.

    sampled: the seed of its decoder, in whose place another may be drawn from the same streams.
    """
    common = np.random.default_rng(1)  # what the images are like, for all codecs
    size = np.exp(common.normal(0, 0.3, images))
    scale = np.arange(1, 2049) ** -0.5
    originals = common.normal(size=(images * PATCHES, 2048)) * scale
    noise = common.normal(size=originals.shape) * scale
    own, streams_own = (np.random.default_rng([seed, *name.encode()]) for name in (codec, streams or codec))
    own = np.random.default_rng([sampled, *codec.encode()]) if sampled else own
    image = np.arange(images)
    networks = {network: its_key for network, (its_key, _) in NETWORKS.items()}
    run = {"inception": networks["inception"], "features": networks, "dataset_sha256": "d", "device": "cpu"}
    places = {
        "image": np.repeat(image, PATCHES),
        "top": np.zeros(images * PATCHES, int),
        "left": 256 * np.tile(range(PATCHES), images),
    }

    def write_features(name: str, features: np.ndarray) -> None:
        """The file of a network; mini sees the first dimensions."""
        for its_key, dimensions in NETWORKS.values():
            flat = pa.array(features[:, :dimensions].astype(np.float32).ravel())
            column = pa.FixedSizeListArray.from_arrays(flat, dimensions)
            columns = schema.features_schema(dimensions)
            table = pa.table([*(pa.array(places[n]) for n in ("image", "top", "left")), column], schema=columns)
            end = key("reference", "d", "fid256", its_key, "cpu") if name.startswith("reference-") else its_key
            parquet.write_table(out / "features" / f"{name}-{end}.parquet", table, {})

    write_features(f"reference-{dataset}", originals)
    for number, bpp in enumerate(bpps):
        point = f"q{number + 1}"
        trial_key = key(codec, point, dataset, seed, *([sampled] if sampled else []))
        keys = {"trial_key": trial_key, "stream_key": key(streams or codec, point)}
        name = f"{codec}-{point}-{dataset}-{trial_key}"
        image_bytes = (bpp * size * 12500 * (1 + 0.02 * streams_own.normal(size=images))).round().astype(int)
        psnr = 30 + 6 * np.log2(bpp / 0.1) / 2 + psnr_gain - 2 * np.log(size) + 0.1 * own.normal(size=images)
        rows = [
            {"codec": codec, "point": point, "dataset": dataset, "image": i, "name": f"{i:02d}.png", "status": "ok"}
            | {"pixels": 100_000, "bytes": int(image_bytes[i]), "bpp": image_bytes[i] * 8 / 100_000}
            | {"psnr_db": psnr[i], "mse": 255**2 / 10 ** (psnr[i] / 10), "identical": False, "ms_ssim": 0.9 + 0.001 * i}
            for i in range(images)
        ]
        parquet.write_table(out / "images" / f"{name}.parquet", pa.Table.from_pylist(rows, schema.IMAGES), run)
        decoded = originals + 0.3 * noise_gain * (0.1 / bpp) ** 0.5 * (noise + 0.1 * own.normal(size=noise.shape))
        write_features(name, decoded)
        row = {"codec": codec, "point": point, "dataset": dataset, "kind": "classical", "title": codec}
        row |= {
            "images": images,
            "failed": 0,
            "identical": 0,
            "pixels": images * 100_000,
            "bytes": int(image_bytes.sum()),
        }
        row |= {
            "bpp": image_bytes.sum() * 8 / (images * 100_000),
            "psnr_db": psnr.mean(),
            "ms_ssim": 0.9 + 0.001 * (images - 1) / 2,
        }
        pair = originals.astype(np.float32), decoded.astype(np.float32)
        row |= {
            "fid": frechet(*pair),
            "kid": kid(*pair)[0],
            "fid_id": "made",
            "fd_mini": frechet(*(side[:, :40] for side in pair)),
            "fd_mini_id": "made",
        }
        row |= {
            "fid_protocol": "fid256",
            "fid_patches": len(decoded),
            "device": "cpu",
            "seed": sampled,
            "status": "ok",
            "note": "",
        }
        table = pa.Table.from_pylist([row], schema.POINTS)
        parquet.write_table(out / "points" / f"{name}.parquet", table, run | keys)


def edited(out: Path, table: str, change) -> None:
    """Change every file of a table: metadata or rows."""
    for path in sorted((out / table).glob("*.parquet")):
        rows, meta = change(parquet.read_table(path).to_pandas(), parquet.read_metadata(path))
        columns = {"points": schema.POINTS, "images": schema.IMAGES}[table]
        if table == "points":  # its name says what it holds
            path.unlink()
            name = [*rows.loc[0, ["codec", "point", "dataset"]], meta["trial_key"]]
            path = path.with_name(f"{'-'.join(name)}.parquet")
        parquet.write_table(path, pa.Table.from_pandas(rows, columns, preserve_index=False), meta)
