"""The whole way from pictures to points, with codecs that work and codecs that fail, killed and undisturbed."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_codec import Quantiser
from helpers_metrics import random_weights
from PIL import Image

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import load_codec
from hfdbench.datasets.dataset import open_dataset
from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.patches import patches
from hfdbench.pipeline.aggregate import point_row
from hfdbench.pipeline.plan import Request, make_plan
from hfdbench.pipeline.run import merge, run, score
from hfdbench.results import parquet

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No Inception but the one a test gives: neither from here nor from the network."""
    for name in ("HFDBENCH_INCEPTION", "HFDBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture(scope="session")
def inception(tmp_path_factory) -> Path:
    return random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


def pictures(folder: Path, count: int, height: int = 40, width: int = 56, bad: tuple[int, ...] = ()) -> str:
    """A folder of smooth coloured pictures; the first sample of those in `bad` is 0. Returns its spec."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        waves = [128 + 90 * np.sin(x / (5 + i) + c) * np.cos(y / (7 + c) + i) for c in range(3)]
        image = np.stack(waves, axis=2).round().clip(30, 225).astype(np.uint8)
        if i in bad:
            image[0, 0, 0] = 0
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return f"folder:{folder}"


def codec(name: str = "Quantiser", id: str = "mine", points=(("a", {}),), **fields) -> CodecCard:
    made = [{"id": point, "options": options} for point, options in points]
    return CodecCard(id=id, kind="classical", adapter=f"helpers_codec:{name}", points=made, **fields)


def one_file(folder: Path) -> Path:
    (path,) = folder.glob("*.parquet")
    return path


def tables(out: Path) -> dict[str, pa.Table]:
    """Every finished table by file name, without times and memory."""
    found = {}
    for path in sorted(p for p in out.glob("*/*.parquet") if p.parent.name != "damaged"):
        table = parquet.read_table(path).replace_schema_metadata(None)
        measured = ("encode_s", "decode_s", "host_peak_bytes")
        names = [name for name in table.column_names if not name.startswith(measured)]
        found[f"{path.parent.name}/{path.name}"] = table.select(names)
    return found


def assert_equal(a: dict[str, pa.Table], b: dict[str, pa.Table]) -> None:
    assert a.keys() == b.keys()
    for file in a:
        names = [name for name in a[file].column_names if name != "note"]  # says when a download was tried last
        different = [name for name in names if not a[file][name].equals(b[file][name])]
        assert not different and a[file].schema.equals(b[file].schema), (file, different)


def test_numbers_of_a_trial(tmp_path):
    spec = pictures(tmp_path / "p", 3)
    out = tmp_path / "out"
    summary = run(Request(codecs=(codec(title="Mine"),), datasets=(spec,), out=out))
    assert summary.exit_code == 0 and len(summary.done) == 1 and not summary.existing
    (note,) = summary.notes
    assert "no FID" in note and "--inception" in note and "hfdbench score" in note
    dataset, mine = open_dataset(spec), Quantiser(16)
    crops = parquet.read_table(one_file(out / "images")).to_pandas()
    streams = parquet.read_table(one_file(out / "streams")).to_pandas()
    psnr, mses = [], []
    for i in range(3):
        original = dataset.load(i)
        stream = mine.encode(original)
        assert streams["stream"][i] == stream and crops["bytes"][i] == len(stream)
        assert crops["bpp"][i] == len(stream) * 8 / (40 * 56)
        error = original.astype(float) - mine.decode(stream, seed=0)
        mses.append((error**2).mean())
        psnr.append(10 * math.log10(255**2 / mses[-1]))
    assert crops["mse"].tolist() == pytest.approx(mses, rel=1e-12)
    assert crops["ms_ssim"].isna().all()  # under 161 pixels
    assert (crops["encode_s"] > 0).all() and (crops["decode_s"] > 0).all()
    (point,) = summary.points.to_dict("records")
    assert point["bpp"] == streams["bytes"].sum() * 8 / (3 * 40 * 56)
    assert point["psnr_db"] == pytest.approx(np.mean(psnr), rel=1e-12)
    assert point["psnr_pooled_db"] == pytest.approx(10 * math.log10(255**2 / np.mean(mses)), rel=1e-12)
    assert (point["images"], point["failed"], point["status"], point["title"]) == (3, 0, "ok", "Mine")
    assert pd.isna(point["fid"]) and "no FID" in point["note"]
    pd.testing.assert_frame_equal(pd.read_parquet(out / "points"), summary.points)
    metadata = parquet.read_metadata(one_file(out / "points"))
    assert metadata["card"]["id"] == "mine" and metadata["dataset_sha256"] == dataset.sha256
    assert {"hfdbench", "numpy", "pillow", "torch"} <= metadata["versions"].keys()
    assert {"cpu", "threads", "seed", "started_utc", "device", "commit"} <= metadata.keys()


def test_streams_of_pictures_of_one_size_are_decoded_together(tmp_path):
    """In batches of four where the codec asks for it; an image that fails there fails alone; pixels are those of one by one."""
    images = tmp_path / "p"
    pictures(images / "a", 6, bad=(2,))
    for i, path in enumerate(sorted((images / "a").iterdir())):
        path.rename(images / f"{2 * i}.png")
    pictures(images / "b", 5, 24, 30)
    for i, path in enumerate(sorted((images / "b").iterdir())):
        path.rename(images / f"{2 * i + 1}.png")
    for name in "ab":
        (images / name).rmdir()
    request = Request(codecs=(codec("Batched", points=[("a", {"pause_s": 0.2})]),), datasets=(f"folder:{images}",))
    request = replace(request, out=tmp_path / "out", workers=2, verify=11)
    summary = run(request)
    ((_, errors),) = summary.failed
    assert (
        len(errors) == 1 and "foreign stream" in errors[0] and "10 streams decoded again, 0 differ" in summary.notes[-1]
    )
    rows = parquet.read_table(one_file(request.out / "images")).to_pylist()
    assert [row["image"] for row in rows] == list(range(11))
    alone = Quantiser(16)
    for row in rows:
        if row["status"] == "ok":
            stored = parquet.read_table(one_file(request.out / "streams"))["stream"][row["image"]].as_py()
            assert row["pixels_sha256"] == hashlib.sha256(alone.decode(stream=stored, seed=0).data).hexdigest()
            assert row["host_peak_bytes"] > 10 << 20 and row["device_peak_bytes"] is None
    failed = next(row for row in rows if row["status"] != "ok")
    together = [row for row in rows if (row["batch"] or 1) > 1]
    assert failed["batch"] is None and sorted(row["batch"] for row in together)[-4:] == [4] * 4
    assert all(row["batch"] == 4 for row in rows if row["height"] == 24 and row["batch"] > 1)
    fours = [row["decode_s"] for row in together if row["height"] == 24]
    assert len(set(fours)) == 1 and 0.05 <= fours[0] < 0.2, "the call's time is divided over its pictures"
    (point,) = summary.points.to_dict("records")
    assert point["batch"] == 4 and point["host_peak_bytes"] == max(row["host_peak_bytes"] or 0 for row in rows)


def test_networks_give_the_same_pixels_in_a_batch(tmp_path):
    (card,) = choose(CodecCard, ["mse-grain"])
    card = card.model_copy(update={"adapter": "helpers_batched:BatchedHFD", "streams": None, "points": card.points[:1]})
    request = Request(codecs=(card,), datasets=(pictures(tmp_path / "p", 3, 20, 24),), out=tmp_path / "out")
    run(request)
    rows = parquet.read_table(one_file(request.out / "images")).to_pylist()
    streams = parquet.read_table(one_file(request.out / "streams"))["stream"].to_pylist()
    codec = load_codec(card, card.points[0].id)
    assert [row["batch"] for row in rows] == [3] * 3
    assert [row["pixels_sha256"] for row in rows] == [
        hashlib.sha256(codec.decode(stream, seed=0).data).hexdigest() for stream in streams
    ]


def test_times_of_shards_on_several_classes_of_processors_are_not_averaged(tmp_path):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 2),), out=tmp_path / "out")
    run(request)
    (trial,) = make_plan(request).trials
    rows = parquet.read_table(one_file(request.out / "images")).to_pylist()
    assert point_row(trial, rows, [], [])["decode_s"] > 0
    mixed = point_row(trial, [rows[0], rows[1] | {"processor": "another"}], [], [])
    assert "decode_s" not in mixed and "no decode_s: on " in mixed["note"] and mixed["psnr_db"] > 0
    other = point_row(trial, [rows[0], rows[1] | {"device_name": "NVIDIA H100"}], [], [])
    assert "decode_s" not in other and "NVIDIA H100" in other["note"] and "NVIDIA H100" in other["device_name"]
    encoded = point_row(trial, [rows[0], rows[1] | {"encoded_on": "NVIDIA H100"}], [], [])
    assert encoded["decode_s"] > 0 and "encode_s" not in encoded and "no encode_s: on " in encoded["note"]
    older = point_row(
        trial, [row | {"device_name": None, "processor": None, "encoded_on": None} for row in rows], [], []
    )
    assert older["decode_s"] > 0 and older["device_name"] is None


def test_a_required_seal_is_required_of_shards(tmp_path, monkeypatch):
    """Without a sandbox a shard says what could reach what; with --require-seal it does nothing, and leaves no record."""
    monkeypatch.setenv("HFDBENCH_SEAL", "process")
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 2),), out=tmp_path / "out", shard=(0, 2))
    with pytest.raises(UsageError, match="--require-seal: this machine allows neither"):
        run(replace(request, require_seal=True))
    assert not list((tmp_path / "out").rglob("*.*"))
    assert any(note.startswith("no sandbox here") for note in run(request).notes)


def test_again_skips_what_is_done(tmp_path):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 2),), out=tmp_path / "out")
    run(request)
    times = {path: path.stat().st_mtime_ns for path in request.out.glob("*/*.parquet")}
    again = run(request)
    assert again.existing and not again.done and again.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in request.out.glob("*/*.parquet")} == times
    more = run(replace(request, codecs=(codec(points=(("a", {}), ("b", {"step": 32}))),)))
    assert (len(more.existing), len(more.done), len(more.points)) == (1, 1, 2)
    one_file_of_a = next(path for path in times if path.parent.name == "points")
    one_file_of_a.unlink()  # a point alone is computed from its crops
    assert len(run(request).done) == 1 and one_file_of_a.exists()


class Recorded:
    def __init__(self):
        self.total, self.steps, self.notes = 0, 0, []

    def start(self, total, what):
        self.total += total

    def advance(self, n=1):
        self.steps += n

    def note(self, text):
        self.notes.append(text)


def test_dry_run_and_progress(tmp_path):
    request = Request(codecs=(codec(),), datasets=(pictures(tmp_path / "p", 3),), out=tmp_path / "out")
    planned = run(replace(request, dry_run=True))
    assert any("would run mine-a-folder-p" in note and "encode, decode, score" in note for note in planned.notes)
    assert not request.out.exists() and planned.points.empty
    told = Recorded()
    run(request, told)
    assert told.total == told.steps == 9 and told.notes  # streams, pictures, originals for fd_mini


def test_workers_change_nothing(tmp_path):
    request = Request(
        codecs=(codec("Faulty", points=(("a", {"fault": "raise", "stage": "decode"}),)),),
        datasets=(pictures(tmp_path / "p", 9, bad=(4,)),),
        out=tmp_path / "one",
    )
    run(request)
    run(replace(request, out=tmp_path / "three", workers=3))
    assert len(tables(tmp_path / "one")) == 5  # two of them features for fd_mini
    assert_equal(tables(tmp_path / "one"), tables(tmp_path / "three"))


FAULTS = [
    ("raise", "encode", "StreamError: foreign stream"),
    ("raise", "decode", "StreamError: foreign stream"),
    ("segfault", "encode", "encoder died: exit -11; .*last words"),
    ("segfault", "decode", "decoder died: exit -11; .*last words"),
    ("exit", "decode", "decoder died: exit 3"),
    ("sys.exit", "encode", "SystemExit: gave up"),
    ("hang", "decode", r"decoder stopped after 3 s \(--timeout-s\)"),
    ("type", "encode", "TypeError: encode returned str, not bytes"),
    ("type", "decode", "TypeError: decode returned str, not uint8 H x W x 3"),
    ("shape", "decode", "decoded to 7x5 pixels, the original has 56x40"),
]

PASSING = ("segfault", "exit", "hang")  # the process may live another time


def test_faults_are_rows(tmp_path):
    """Every way to fail costs its image, and nothing else."""
    points = [(f"{fault}-{stage}", {"fault": fault, "stage": stage}) for fault, stage, _ in FAULTS]
    spec = pictures(tmp_path / "p", 3, bad=(1,))
    out = tmp_path / "out"
    summary = run(Request(codecs=(codec("Faulty", points=points),), datasets=(spec,), out=out, timeout_s=3))
    assert summary.exit_code == 1 and len(summary.done) == len(summary.failed) == len(FAULTS)
    for (fault, stage, message), row in zip(FAULTS, summary.points.to_dict("records"), strict=True):
        crops = parquet.read_table(next((out / "images").glob(f"mine-{fault}-{stage}-*"))).to_pandas()
        assert crops["status"].tolist() == ["ok", "error", "ok"], (fault, stage)
        assert pd.Series([crops["error"][1]]).str.fullmatch(f"(?s).*{message}.*").all(), crops["error"][1]
        assert (row["images"], row["failed"], row["status"]) == (2, 1, "partial")
        assert row["psnr_db"] == pytest.approx(crops["psnr_db"][[0, 2]].mean())
    assert "01.png: StreamError: foreign stream" in dict(summary.failed)[summary.done[0]]
    passing = [f"mine-{fault}-{stage}-" for fault, stage, _ in FAULTS if fault in PASSING]
    again = run(Request(codecs=(codec("Faulty", points=points),), datasets=(spec,), out=out, timeout_s=3, dry_run=True))
    tried = [note for note in again.notes if note.startswith("would run")]
    assert len(tried) == len(passing) and all(any(name in note for note in tried) for name in passing)
    assert again.exit_code == 1 and len(again.existing) == len(FAULTS) - len(passing)
    assert sum("--retry-failed tries them again" in note for note in again.notes) == len(FAULTS) - len(passing)


def test_damaged_pictures_are_rows(tmp_path):
    spec = pictures(tmp_path / "p", 3)
    whole = (tmp_path / "p" / "01.png").read_bytes()
    (tmp_path / "p" / "01.png").write_bytes(whole[: len(whole) // 2])
    summary = run(Request(codecs=(codec(),), datasets=(spec,), out=tmp_path / "out"))
    assert summary.exit_code == 1
    ((_, (error,)),) = summary.failed
    assert error.startswith("01.png: is cut off")
    assert (summary.points["images"][0], summary.points["failed"][0]) == (2, 1)


def test_absent_program_is_skipped_with_its_reason(tmp_path):
    spec = pictures(tmp_path / "p", 2)
    absent = codec("Absent", id="absent", points=(("a", {"program": "vtm"}),))
    summary = run(Request(codecs=(absent, codec()), datasets=(spec,), out=tmp_path / "out"))
    ((label, reason),) = summary.skipped
    assert label.startswith("absent-a-") and reason == "no program vtm; install vtm"
    assert len(summary.done) == 1 and summary.exit_code == 0


def test_wrong_option_is_told_before_anything_runs(tmp_path):
    wrong = codec(id="wrong", points=(("a", {"stpe": 3}),))
    with pytest.raises(UsageError, match='point "a": options do not fit Quantiser'):
        run(Request(codecs=(codec(), wrong), datasets=(pictures(tmp_path / "p", 2),), out=tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*/*.parquet"))


def test_the_decoder_is_sealed(tmp_path, monkeypatch):
    spec = pictures(tmp_path / "secret-pictures", 2)
    monkeypatch.setenv("HFDBENCH_DATA", str(tmp_path / "secret-pictures"))
    monkeypatch.setenv("HFDBENCH_INCEPTION", str(random_file(tmp_path / "secret-pictures")))
    monkeypatch.chdir(tmp_path / "secret-pictures")
    out = tmp_path / "out"
    (tmp_path / "card").mkdir()
    smuggler = codec("Smuggler", source=tmp_path / "card" / "mine.toml")
    with monkeypatch.context() as patch:
        patch.delenv("HFDBENCH_INCEPTION")
        run(Request(codecs=(smuggler,), datasets=(spec,), out=out, data_root=tmp_path))
    for error in parquet.read_table(one_file(out / "images"))["error"].to_pylist():
        found = json.loads(error.removeprefix("ValueError: found "))
        assert not found["original"] and not found["encoder"] and found["here"] == [] and found["arguments"] == []
        assert found["environment"] == [] and not found["data"]


def random_file(folder: Path) -> Path:
    path = folder / "weights.bin"
    path.write_bytes(b"weights")
    return path


def test_decoders_share_streams(tmp_path):
    point = '[[points]]\nid = "a"\n'
    for name, adapter, extra in (("t-base", "Quantiser", ""), ("t-grey", "Grey", 'streams = "t-base"\n')):
        (tmp_path / "codecs").mkdir(exist_ok=True)
        text = f'id = "{name}"\nkind = "classical"\nadapter = "helpers_codec:{adapter}"\n{extra}{point}'
        (tmp_path / "codecs" / f"{name}.toml").write_text(text)
    spec, out = pictures(tmp_path / "p", 2), tmp_path / "out"
    cards = tuple(choose(CodecCard, ["t-grey", "t-base"], [tmp_path]))
    summary = run(Request(codecs=cards, datasets=(spec,), out=out, cards=(tmp_path,)))
    assert summary.exit_code == 0 and len(list((out / "streams").iterdir())) == 1
    grey, base = summary.points.to_dict("records")
    assert grey["bytes"] == base["bytes"] and grey["psnr_db"] < base["psnr_db"]


def test_verify_names_streams_that_decode_to_other_pixels(tmp_path):
    """And keeps what was measured; a decoder that does as it should passes, when it is measured and later."""
    chance, seed = (codec("Grainy", id=by, points=(("a", {"by": by}),)) for by in ("chance", "seed"))
    spec, out = pictures(tmp_path / "p", 4, bad=(3,)), tmp_path / "out"
    request = Request(codecs=(chance, seed), datasets=(spec,), out=out, verify=2)
    summary = run(request)
    assert summary.exit_code == 1 and len(summary.done) == len(summary.points) == 2
    ((label, (error,)),) = summary.failed
    assert label.startswith("chance-a-") and "03.png decoded again: other pixels (sha256 " in error
    assert "verified: 4 streams decoded again, 1 differ" in summary.notes
    before = tables(out)
    again = run(replace(request, codecs=(seed,), workers=2))
    assert again.exit_code == 0 and again.existing and "verified: 2 streams decoded again, 0 differ" in again.notes
    assert run(replace(request, verify=0)).exit_code == 0
    assert_equal(before, tables(out))
    with pytest.raises(UsageError, match="verify after hfdbench merge"):
        run(replace(request, shard=(0, 2)))


def test_seeds_decode_what_samples_once_each(tmp_path):
    """What the seed does not change is decoded once, in shards, too."""
    grainy, steady = codec("Grainy", id="grainy"), codec(id="steady")
    cards = tuple(card.model_copy(update={"kind": "gan"}) for card in (grainy, steady))
    spec, out = pictures(tmp_path / "p", 3), tmp_path / "out"
    request = Request(codecs=(*cards, codec(id="plain")), datasets=(spec,), out=out, seed=1, seeds=3)
    summary = run(request)
    assert summary.exit_code == 0 and len(summary.done) == 5 and summary.done[0].endswith(" (seed 1)")
    assert sum("the seed makes no difference" in note for note in summary.notes) == 1
    assert summary.points.groupby("codec")["seed"].agg(list).to_dict() == {
        "grainy": [1, 2, 3],
        "steady": [1],
        "plain": [1],
    }
    assert summary.points.loc[summary.points["codec"] == "grainy", "psnr_db"].nunique() == 3
    assert len(list((out / "streams").iterdir())) == 3
    again = run(request)
    assert len(again.existing) == 5 and not again.done and again.exit_code == 0
    for part in range(2):
        run(replace(request, out=tmp_path / "parts", shard=(part, 2)))
    merge(replace(request, out=tmp_path / "parts"))
    assert_equal(tables(out), tables(tmp_path / "parts"))


def test_identical_images_have_no_psnr(tmp_path):
    request = Request(codecs=(codec(points=(("a", {"step": 1}),)),), datasets=(pictures(tmp_path / "p", 2),))
    (point,) = run(replace(request, out=tmp_path / "out")).points.to_dict("records")
    assert point["identical"] == 2 and "identical" in point["note"]
    assert pd.isna(point["psnr_db"]) and pd.isna(point["psnr_pooled_db"])


def test_score_completes_stored_trials(tmp_path, inception):
    """FID is null without weights; with them it comes from the stored streams, equal to the one computed directly."""
    from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
    from hfdbench.metrics.networks.inception import Inception

    spec = pictures(tmp_path / "p", 3, 256, 300)
    request = Request(codecs=(codec(),), datasets=(spec,), out=tmp_path / "out")
    assert score(request).skipped[0][1] == "no stored streams; hfdbench run makes them"
    assert pd.isna(run(request).points["fid"][0])
    crops = one_file(request.out / "images").read_bytes()
    summary = score(replace(request, inception=inception))
    assert summary.done and one_file(request.out / "images").read_bytes() == crops
    (point,) = summary.points.to_dict("records")
    dataset, mine, network = open_dataset(spec), Quantiser(16), Inception(inception)
    originals = [patch for i in range(3) for *_, patch in patches(dataset.load(i), "fid256")]
    decoded = [
        patch for i in range(3) for *_, patch in patches(mine.decode(mine.encode(dataset.load(i)), seed=0), "fid256")
    ]
    both = network.features([*originals, *decoded])
    a, b = Moments.of(both[:3]), Moments.of(both[3:])
    assert point["fid"] == pytest.approx(frechet_distance(a, b), rel=1e-6) and point["fid"] > 0
    assert point["fid_patches"] == 3 and point["fid_id"].startswith("fid256-3p-tf1-") and "no FID:" not in point["note"]
    assert point["fid_label"] == "FID (other Inception)" and not pd.isna(point["kid"])
    # And in one go: the same tables. Later runs, with weights or without, leave them alone.
    run(replace(request, inception=inception, out=tmp_path / "direct"))
    assert_equal(tables(request.out), tables(tmp_path / "direct"))
    assert run(request).existing and run(replace(request, inception=inception)).existing
    # A codec that decodes to something else than before is not scored.
    features = next((request.out / "features").glob("mine-*"))
    features.unlink()
    table = parquet.read_table(one_file(request.out / "images"))
    forged = table.set_column(table.schema.get_field_index("pixels_sha256"), "pixels_sha256", pa.array(["0"] * 3))
    parquet.write_table(one_file(request.out / "images"), forged, {})
    ((_, (error,)),) = score(replace(request, inception=inception)).failed
    assert "decodes to other pixels" in error and not features.exists()


def test_no_fid_over_some_images_nor_of_small_ones(tmp_path, inception):
    faulty = codec("Faulty", points=(("a", {"fault": "raise", "stage": "decode"}),))
    request = Request(
        codecs=(faulty,), datasets=(pictures(tmp_path / "p", 2, 256, 256, bad=(1,)),), inception=inception
    )
    (point,) = run(replace(request, out=tmp_path / "out")).points.to_dict("records")
    assert pd.isna(point["fid"]) and "no FID over some of the images" in point["note"] and point["images"] == 1
    assert run(replace(request, out=tmp_path / "out")).existing
    request = replace(request, datasets=(pictures(tmp_path / "small", 2),), codecs=(codec(),))
    (point,) = run(replace(request, out=tmp_path / "out2")).points.to_dict("records")
    assert pd.isna(point["fid"]) and point["fid_patches"] == 0 and "0 patches" in point["note"]


def test_wrong_patch_count_stops_before_the_first_encode(tmp_path, inception):
    pictures(tmp_path / "root" / "tiny", 2, 256, 256)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "tiny.toml").write_text('id = "tiny"\nfolder = "tiny"\ncount = 2\npatches = 3\n')
    request = Request(codecs=(codec(),), datasets=("tiny",), data_root=tmp_path / "root", cards=(tmp_path,))
    with pytest.raises(UsageError, match="dataset tiny: 2 patches where its card says 3"):
        run(replace(request, out=tmp_path / "out", inception=inception))
    assert not (tmp_path / "out" / "streams").exists()


SCRIPT = """
import json, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background is deaf to it
from hfdbench.cards.schema import CodecCard
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.pipeline import decode
from hfdbench.results import work
work.FLUSH_IMAGES = 2
decode.SHUFFLED = 0  # images are finished in their order, so that a moment of it can be named
given = json.loads(sys.argv[1])
inception = given.pop("inception", None)
cards = tuple(CodecCard(**card) for card in given.pop("codecs"))
request = Request(codecs=cards, datasets=tuple(given.pop("datasets")), out=Path(given.pop("out")),
                  inception=Path(inception) if inception else None, **given)
try:
    print(run(request).exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(out: Path, spec: str, pause_s: float = 0.0, **more) -> subprocess.Popen:
    points = [{"id": name, "options": {"step": step, "pause_s": pause_s}} for name, step in (("a", 8), ("b", 32))]
    card = {"id": "mine", "kind": "classical", "adapter": "helpers_codec:Quantiser", "points": points}
    given = {"codecs": [card], "datasets": [spec], "out": str(out)} | more
    command = [sys.executable, "-c", SCRIPT, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_when(process: subprocess.Popen, seen, signal_number: int) -> str:
    """Send a signal as soon as `seen()`; the standard error."""
    deadline = time.monotonic() + 300
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal_number)
    return process.communicate(timeout=60)[1]


def left_over(marker: str) -> list[int]:
    """Worker processes that still run with this marker in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes() and b"HFDBENCH_WORKER" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_killed_runs_resume(tmp_path):
    spec, pause_s = pictures(tmp_path / "p", 8), 0.03
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(whole, spec, pause_s)
    assert undisturbed.communicate()[0] == "0\n"
    moments = [
        lambda: list(killed.glob("work/*/streams-000002-*")),
        lambda: list(killed.glob("streams/mine-a-*")),
        lambda: list(killed.glob("work/*/images-*")),
        lambda: list(killed.glob("work/*/images-000004-*")),
    ]
    for seen in moments:
        stop_when(start(killed, spec, pause_s, workers=2), seen, signal.SIGKILL)
        for path in killed.glob("*/*.parquet"):
            pq.read_table(path)  # whole, or it would not have its name
    shards = {path: path.stat().st_mtime_ns for path in killed.glob("work/*/*.parquet")}
    assert shards
    last = start(killed, spec, pause_s, workers=2)
    assert last.communicate()[0] == "0\n"
    assert len(tables(whole)) == 9
    assert_equal(tables(whole), tables(killed))
    groups = [[pq.read_metadata(f).row_group(0).num_rows for f in sorted(d.glob("s*/*"))] for d in (whole, killed)]
    assert groups[0] == groups[1]
    assert not list(killed.glob("work/*"))


def test_killed_while_scoring_fid_resumes(tmp_path, inception):
    """Killed between two batches of the network, it goes on with other neighbours in a batch: the same bits."""
    spec = pictures(tmp_path / "p", 17, 256, 256)
    request = Request(
        codecs=(codec(points=(("a", {"step": 8, "pause_s": 0.0}),)),), datasets=(spec,), inception=inception
    )
    run(replace(request, out=tmp_path / "whole"))
    killed = tmp_path / "killed"
    (killed / "features").mkdir(parents=True)
    for reference in (tmp_path / "whole" / "features").glob("reference-*"):
        shutil.copy(reference, killed / "features")
    process = start(killed, spec, inception=str(inception), points=["a"])
    stop_when(process, lambda: list(killed.glob("work/*/features-????????-000000-*")), signal.SIGKILL)
    assert not list(killed.glob("points/*"))
    run(replace(request, out=killed))
    assert_equal(tables(tmp_path / "whole"), tables(killed))
    assert len(list(killed.glob("features/*"))) == 2 * 2  # Inception's and fd_mini's, of the originals and the trial


def test_interrupt_stops_the_workers_and_keeps_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", f"marker-{os.getpid()}-{time.time_ns()}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    spec, out = pictures(tmp_path / "p", 6), tmp_path / "out"
    process = start(out, spec, pause_s=2, workers=2)
    stop_when(process, lambda: list(out.glob("work/*/streams-*")), signal.SIGINT)
    assert process.returncode == 130
    assert left_over(os.environ["MARKER"]) == [] == os.listdir(tmp_path / "tmp")
    assert not list(out.glob("**/*.tmp")) and not list(out.glob("streams/*"))
    for pause_s in (30, 0.05):  # killed while the codec is busy, and between two calls
        killed = start(out, spec, pause_s)
        stop_when(killed, lambda: left_over(os.environ["MARKER"]), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while left_over(os.environ["MARKER"]) or os.listdir(tmp_path / "tmp"):  # an orphan notices within a second
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_two_runs_at_once(tmp_path):
    spec, out = pictures(tmp_path / "p", 6), tmp_path / "out"
    together = [start(out, spec, pause_s=0.02) for _ in range(2)]
    assert [process.communicate()[0] for process in together] == ["0\n", "0\n"]
    run_alone = start(tmp_path / "alone", spec, pause_s=0.02)
    assert run_alone.communicate()[0] == "0\n"
    assert_equal(tables(tmp_path / "alone"), tables(out))


def test_jpeg_on_kodak(tmp_path, data_root):
    """The bundled card, real photographs: the rate is that of the stored file, and the decoder needs nothing more."""
    import io

    (jpeg,) = choose(CodecCard, ["jpeg"])
    request = Request(codecs=(jpeg,), datasets=("kodak",), points=("q50",), limit=2, data_root=data_root)
    hidden = replace(request, out=tmp_path / "out", inception=None, data_root=_without_inception(data_root, tmp_path))
    summary = run(hidden)
    assert summary.exit_code == 0
    streams = parquet.read_table(one_file(tmp_path / "out" / "streams")).to_pylist()
    for row in streams:
        assert Image.open(io.BytesIO(row["stream"])).size == (row["width"], row["height"])
    (point,) = summary.points.to_dict("records")
    assert point["bpp"] == sum(len(row["stream"]) for row in streams) * 8 / (2 * 768 * 512)
    assert 28 < point["psnr_db"] < 40 and 0.9 < point["ms_ssim"] < 1


def _without_inception(data_root: Path, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kodak").symlink_to(data_root / "kodak")
    return tmp_path / "data"
