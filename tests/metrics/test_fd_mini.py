"""fd_mini: its network as shipped, its rank agreement with FID, and its place in the pipeline."""

import csv
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers_metrics import patches, random_weights
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import load_codec
from hfdbench.datasets.dataset import open_dataset
from hfdbench.errors import Unavailable, UsageError
from hfdbench.metrics.distribution import fingerprint
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.patches import patches as cut
from hfdbench.metrics.networks import weights
from hfdbench.metrics.networks.extractors import find_extractor, parse_feature
from hfdbench.metrics.networks.fd_mini import Mini
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run, score
from hfdbench.results import parquet, schema
from hfdbench.results.stored import Results
from hfdbench.training import fd_mini as distill

HERE = Path(__file__).parents[1]
MEASURED = HERE.parent / "docs" / "fd_mini.csv"
COLUMNS = {"fd_mini": 1, "psnr_db": -1, "ms_ssim": -1}  # and the sign that makes agreement with FID positive


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No weights but those a test gives: neither from here nor from the network."""
    for name in ("HFDBENCH_INCEPTION", "HFDBENCH_DINOV2", "HFDBENCH_CLIP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def network():
    return find_extractor("mini", None, None).build("cpu")


@pytest.fixture
def request_(tmp_path, monkeypatch) -> Request:
    """One point of JPEG on three pictures, without a data root."""
    monkeypatch.delenv("HFDBENCH_DATA", raising=False)
    (tmp_path / "p").mkdir()
    for k, image in enumerate(patches(3, 256, 300, seed=5)):
        Image.fromarray(image).save(tmp_path / "p" / f"{k}.png")
    return Request(
        codecs=tuple(choose(CodecCard, ["jpeg"], ())),
        points=("q25",),
        datasets=(f"folder:{tmp_path / 'p'}",),
        out=tmp_path / "out",
    )


def test_what_is_shipped():
    mini = find_extractor("mini", None, None)
    assert mini.weights.stat().st_size < 5_800_000
    assert mini.sha256 == weights.MINI.sha256
    with safe_open(mini.weights, "pt") as file:
        described = file.metadata()
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float16"}  # noqa: SIM118
    assert json.loads(described["recipe"]) == tomllib.loads(mini.weights.with_suffix(".toml").read_text())
    assert mini.dimensions == json.loads(described["config"])["components"]


def test_altered_weights_are_refused(tmp_path, monkeypatch):
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(weights.MINI.path.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(weights, "MINI", replace(weights.MINI, path=altered))
    with pytest.raises(UsageError, match=r"altered.*reinstall"):
        find_extractor("mini", None, None)


def test_features_do_not_depend_on_neighbours_nor_order(network):
    images = patches(21)
    whole = network.features(images)
    assert whole.shape == (21, 256) and whole.dtype == np.float32 and np.isfinite(whole).all()
    assert np.array_equal(network.features(images[::-1])[::-1], whole)
    assert np.array_equal(network.features(images[3:5]), whole[3:5])
    assert network.features([]).shape == (0, 256)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (255, 257)])
def test_any_size(network, shape):
    assert np.isfinite(network.features(patches(2, *shape))).all()


def test_more_distortion_is_further(network):
    images = patches(48, seed=3)
    originals = Moments.of(network.features(images))
    random = np.random.default_rng(0)

    def distance(amplitude: float) -> float:
        noisy = [(x + random.normal(0, amplitude, x.shape)).round().clip(0, 255).astype(np.uint8) for x in images]
        return frechet_distance(originals, Moments.of(network.features(noisy)))

    distances = [distance(amplitude) for amplitude in (0, 2, 6, 18)]
    assert distances[0] < 1e-6 * distances[1]
    assert distances == sorted(distances)


def spearman(a: pd.Series, b: pd.Series) -> float:
    return float(a.corr(b, method="spearman"))


def _agreement() -> dict[str, tuple[int, ...]]:
    """Of the committed measurement, by the names that docs/fd_mini.md gives to its parts: points, then the rank
    correlation with FID of fd_mini, PSNR, MS-SSIM."""
    table = pd.read_csv(MEASURED)
    parts = {}
    for dataset, place, rates in (("kodak", "Kodak", ("q1", "q3", "q5")), ("coco-val", "coco-val", ("q1",))):
        rows = table[table["dataset"] == dataset]
        classical = rows["codec"].isin(["jpeg", "webp", "avif", "jp2"])
        parts[f"{place}: JPEG, WebP, AVIF, JPEG 2000"] = rows[classical]
        parts[f"{place}: these and elic-mse"] = rows[classical | (rows["codec"] == "elic-mse")]
        parts[f"{place}: these and other decoders of its streams"] = rows
        for rate in rates:
            parts[f"{place}: decoders of one stream, {rate}"] = rows[~classical & (rows["point"] == rate)]
    parts["Kodak: settings of decoders, eight pictures, q2"] = table[table["dataset"] == "kodak@8"]
    return {
        name: (len(part), *(sign * spearman(part["fid"], part[column]) for column, sign in COLUMNS.items()))
        for name, part in parts.items()
    }


def test_ranks_codecs_as_fid_does():
    """Classical codecs and an autoencoder, on pictures that nothing was trained on; not the decoders of one stream."""
    for place, least in (("Kodak", 40), ("coco-val", 25)):
        points, fd_mini, *_ = _agreement()[f"{place}: these and elic-mse"]
        assert points >= least and fd_mini >= 0.95


def test_the_documentation_tells_what_was_measured():
    lines = MEASURED.with_suffix(".md").read_text().splitlines()
    for name, (points, *correlations) in _agreement().items():
        (line,) = (line for line in lines if line.startswith(f"| {name} |"))
        told = [float(cell.strip(" *")) for cell in line.split("|")[2:-1]]
        assert told[0] == points and told[1:] == pytest.approx(correlations, abs=0.00051)


def test_the_measurement_is_this_network_s(network, data_root):
    dataset = open_dataset("kodak", data_root=data_root)
    images = [dataset.load(index) for index in range(len(dataset.names))]
    (card,) = choose(CodecCard, ["jpeg"], ())
    with open(MEASURED) as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "kodak"]
    measured = {(row["codec"], row["point"]): float(row["fd_mini"]) for row in rows}
    originals = Moments.of(network.features(p for image in images for *_, p in cut(image, "fid256")))
    jpeg = load_codec(card, "q12")
    decoded = (jpeg.decode(jpeg.encode(image), seed=0) for image in images)
    ours = Moments.of(network.features(p for image in decoded for *_, p in cut(image, "fid256")))
    assert ours.count == 192
    assert frechet_distance(originals, ours) == pytest.approx(measured["jpeg", "q12"], rel=1e-3)


def test_measured_without_inception(request_, network):
    (point,) = run(request_).points.to_dict("records")
    dataset, (card,) = open_dataset(request_.datasets[0]), request_.codecs
    codec = load_codec(card, "q25")
    images = [dataset.load(index) for index in range(3)]
    sides = ([p for x in side for *_, p in cut(x, "fid256")] for side in (images, map(_through(codec), images)))
    a, b = (Moments.of(network.features(side)) for side in sides)
    assert point["fd_mini"] == pytest.approx(frechet_distance(a, b), rel=1e-6) and point["fd_mini"] > 0
    parts = fingerprint.parse(point["fd_mini_id"])
    assert (parts.label, parts.patches, parts.rule) == ("fd_mini", 3, "mini")
    assert pd.isna(point["fid"]) and "no FID" in point["note"] and "fd_mini" not in point["note"]
    assert run(request_).existing


def _through(codec):
    return lambda image: codec.decode(codec.encode(image), seed=0)


def test_points_of_an_older_version_are_completed_and_keep_their_fid(request_, tmp_path):
    """As a run before fd_mini left them: with a FID, whose weights are not here any more."""
    inception = random_weights(tmp_path / "random.pth")
    (whole,) = run(replace(request_, inception=inception)).points.to_dict("records")
    (path,) = (request_.out / "points").iterdir()
    added = [name for name in schema.POINTS.names if name.startswith(("fd_mini", "fd_dinov2", "fd_clip"))]
    metadata = parquet.read_metadata(path)
    assert set(metadata.pop("features")) == {"inception", "mini"}
    parquet.write_table(path, parquet.read_table(path).drop_columns(added).replace_schema_metadata(None), metadata)
    for features in (request_.out / "features").iterdir():
        if parquet.read_schema(features).field("features").type.list_size == 256:
            features.unlink()
    assert Results(request_.out).points()["fd_mini"].isna().all()
    for again in (score(request_), run(request_)):
        (point,) = again.points.to_dict("records")
        assert point["fid"] == whole["fid"] and point["fid_id"] == whole["fid_id"] and point["kid"] == whole["kid"]
        assert point["fd_mini"] == pytest.approx(whole["fd_mini"], rel=1e-9)
        assert "no FID:" not in point["note"]
    assert again.existing
    assert run(replace(request_, inception=inception)).existing


def test_absent_feature_is_told_and_no_crash(request_):
    summary = run(replace(request_, features=("dinov2", "clip")))
    (point,) = summary.points.to_dict("records")
    assert pd.isna(point["fd_dinov2"]) and pd.isna(point["fd_clip"]) and not pd.isna(point["fd_mini"])
    notes = "\n".join(summary.notes)
    for name in ("dinov2", "clip"):
        assert f"no fd_{name}: " in notes and f"--feature {name}=" in notes and f"score --feature {name}" in notes
        assert f"no fd_{name}: " in point["note"]


def test_wrong_feature_is_refused(request_, tmp_path):
    with pytest.raises(UsageError, match='"dinov2"'):
        run(replace(request_, features=("dinov",)))
    with pytest.raises(UsageError, match="is computed always"):
        parse_feature("mini")
    with pytest.raises(UsageError, match="no such file"):
        run(replace(request_, features=(f"clip={tmp_path / 'absent.pt'}",)))


def test_find_extractor_without_download():
    with pytest.raises(Unavailable) as caught:
        find_extractor("dinov2", None, None, allow_download=False)
    assert "dinov2_vitb14_pretrain.pth" in caught.value.hint and "HFDBENCH_DINOV2" in caught.value.hint


def test_features_are_stored_by_the_key_of_their_network(request_):
    run(request_)
    key = fingerprint.parse(Results(request_.out).points()["fd_mini_id"][0]).weights[:8]
    (path,) = (request_.out / "features").glob(f"jpeg-*-{key}.parquet")
    assert parquet.read_schema(path).field("features").type == pa.list_(pa.float32(), 256)
    assert parquet.read_table(path, ["image"])["image"].to_pylist() == [0, 1, 2]


def test_a_network_can_be_taught(tmp_path):
    """Two groups at a time, stopped in between: the same shards, and weights that work and say where they come from."""
    (tmp_path / "photos").mkdir()
    for k, image in enumerate(patches(3, 300, 300, seed=7)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{k}.png")
    recipe = {
        "seed": 1,
        "data": {
            "group_patches": 2,
            "shard_groups": 2,
            "parts": [
                {"groups": 4, "map_groups": 2, "kinds": {"jpeg": 1, "blur": 1}},
                {"groups": 2, "map_groups": 2, "kinds": {"noise": 1}},
            ],
        },
        "network": {"widths": [8, 8, 8], "components": 16},
        "training": {"steps": 2, "batch_groups": 2, "learning_rate": 1e-3, "difference": 1.0, "ridge": 10.0},
    }
    out, inception = tmp_path / "out", random_weights(tmp_path / "random.pth")
    distill.prepare(tmp_path / "photos", inception, out, recipe)
    distill.maps(inception, out, recipe)
    shards = {path.name: path.read_bytes() for path in out.glob("[!p]*")} | {
        path.name: path.read_bytes() for path in out.glob("patches*")
    }
    assert sorted(shards) == sorted(
        [f"{kind}-{first:05d}.npy" for kind in ("features", "patches") for first in (0, 2, 4)]
        + ["bases.npz", "maps-00000.npz", "maps-00004.npz"]
    )
    with np.load(out / "maps-00004.npz") as maps:  # of group 5 alone: group 4 is held out
        assert [maps[name].shape for name in maps.files] == [
            (1, 2, level.positions**2, level.components) for level in distill.LEVELS
        ]
    for path in out.glob("*-00004.np?"):
        path.unlink()
    distill.prepare(tmp_path / "photos", inception, out, recipe)
    distill.maps(inception, out, recipe)
    assert {name: (out / name).read_bytes() for name in shards} == shards
    distill.train(out, recipe, 1, tmp_path / "first.safetensors")
    (out / "log.csv").unlink()
    distill.train(out, recipe, 1, tmp_path / "again.safetensors")  # nothing but the fit is left to do
    assert not (out / "log.csv").exists()
    first, again = (load_file(tmp_path / f"{name}.safetensors") for name in ("first", "again"))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    features = Mini(tmp_path / "again.safetensors").features(patches(3))
    assert features.shape == (3, 16) and features.std() > 0
    with safe_open(tmp_path / "again.safetensors", "pt") as file:
        assert json.loads(file.metadata()["recipe"]) == recipe and json.loads(file.metadata()["groups"]) == 6
