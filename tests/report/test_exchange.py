"""Exports are what the other tools read; imports are what they wrote."""

import json
import math
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest
from PIL import Image

from hfdbench.cards.schema import CodecCard
from hfdbench.datasets import samples
from hfdbench.errors import UsageError
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.report import exchange as interchange
from hfdbench.results import parquet, published, schema
from hfdbench.results.stored import Results

# As CompressAI's results/image/kodak/*.json are built; the numbers are made up.
THEIRS = {
    "name": "somebody2022",
    "description": "official results",
    "meta": {
        "source": "paper",
        "url": "https://example.org/paper",
        "type": "image",
        "dataset": "kodak",
        "device": None,
    },
    "results": {"bpp": [0.11, 0.22, 0.44], "psnr-rgb": [28.5, 30.25, 32.0], "ms-ssim-rgb": [0.93, 0.95, 0.97]},
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two real codecs on crops of four photographs."""
    folder = tmp_path_factory.mktemp("interchange")
    (folder / "crops").mkdir()
    for path in samples.pictures()[:4]:
        with Image.open(path) as picture:
            picture.convert("RGB").crop((100, 50, 280, 220)).save(folder / "crops" / f"{path.stem}.png")
    qualities = {"made": ("JPEG", (20, 50, 80)), "other": ("WebP", (30, 60))}
    cards = tuple(
        CodecCard(
            id=name,
            kind="classical",
            adapter=f"hfdbench.codecs.pillow:{adapter}",
            points=[{"id": f"q{quality}", "options": {"quality": quality}} for quality in some],
        )
        for name, (adapter, some) in qualities.items()
    )
    with pytest.MonkeyPatch.context() as patch:  # no Inception
        for name in ("HFDBENCH_INCEPTION", "HFDBENCH_DATA"):
            patch.delenv(name, raising=False)
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        for name in ("https_proxy", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        done = run(Request(codecs=cards, datasets=(f"folder:{folder / 'crops'}",), out=folder / "results"))
    assert done.exit_code == 0
    return folder / "results"


@pytest.fixture
def results(measured, tmp_path):
    """A copy of them."""
    return shutil.copytree(measured, tmp_path / "results")


def parsed(batch: dict) -> tuple[dict, list[dict]]:
    """What codec-compare's entry_loader.ts makes of a batch: constants and rows by name. It throws where this asserts."""
    names = []
    for key in ("constant_descriptions", "field_descriptions"):
        assert all(len(item) == 1 and isinstance(*item.values(), str) for item in batch[key])
        names.append([name for item in batch[key] for name in item])
    constants, fields = names
    assert len(batch["constant_values"]) == len(constants) and len(fields) >= 1
    assert all(isinstance(value, str) for value in batch["constant_values"])  # it calls their replace()
    for row in batch["field_values"]:
        assert len(row) == len(fields)
        assert all(isinstance(value, str | int | float) and value == value for value in row)
    return dict(zip(constants, batch["constant_values"], strict=True)), [
        dict(zip(fields, row, strict=True)) for row in batch["field_values"]
    ]


def test_codec_compare(results, tmp_path):
    (*batches, index), notes = interchange.export_codec_compare(results, tmp_path / "to")
    assert notes == []
    assert json.loads(index.read_text()) == [[path.name] for path in batches] and len(batches) == 2
    constants, rows = parsed(json.loads(batches[0].read_text()))
    assert constants["codec"] == "made" and "pillow" in constants["version"]
    assert len(rows) == 3 * 4 and {(row["point"], row["quality"]) for row in rows} == {
        ("q20", 20),
        ("q50", 50),
        ("q80", 80),
    }
    trial = next(t for t in Results(results).trials() if t.row["codec"] == "made" and t.row["point"] == "q50")
    first = trial.read_images().to_pylist()[0]
    row = next(row for row in rows if row["point"] == "q50" and row["original_name"] == first["name"])
    assert row["encoded_size"] == first["bytes"] and row["psnr"] == first["psnr_db"] and row["width"] == 180
    assert row["msssim"] == pytest.approx(-10 * math.log10(1 - first["ms_ssim"]))


def changed(out, change) -> None:
    for path in (out / "images").glob("*.parquet"):
        rows = change(parquet.read_table(path).to_pandas())
        parquet.write_table(
            path, pa.Table.from_pandas(rows, schema.IMAGES, preserve_index=False), parquet.read_metadata(path)
        )


def test_codec_compare_has_no_holes(results):
    """Number(null) is 0 there: a missing value must not come."""
    changed(results, lambda rows: rows.assign(psnr_db=rows["psnr_db"].where(rows["image"] > 0), ms_ssim=None))
    batch, notes = interchange.codec_compare(interchange.exported_curves(results)[0])
    _, rows = parsed(batch)
    assert len(rows) == 3 * 3 and "msssim" not in rows[0]
    assert "no image has a finite msssim" in notes[0] and "3 of 12 rows lack a distortion" in notes[1]


def test_codec_compare_of_a_lossless_codec_keeps_sizes_and_times(results):
    changed(results, lambda rows: rows.assign(psnr_db=None, identical=True, ms_ssim=1.0))
    batch, notes = interchange.codec_compare(interchange.exported_curves(results)[0])
    _, rows = parsed(batch)
    assert len(rows) == 3 * 4 and not {"psnr", "msssim"} & set(rows[0]) and rows[0]["encoded_size"] > 0
    assert len(notes) == 2 and all("no image has a finite" in note for note in notes)


def test_times_of_several_devices_are_left_out(results):
    changed(results, lambda rows: rows.assign(device_name=[*"xy"] * (len(rows) // 2)))
    curve = interchange.exported_curves(results)[0]
    (_, rows), times = parsed(interchange.codec_compare(curve)[0]), {"encoding_time", "decoding_time"}
    assert times & rows[0].keys() == times & interchange.compressai(curve)["results"].keys() == {"encoding_time"}


def test_compressai_reads_what_is_exported(results, tmp_path):
    plot = pytest.importorskip("compressai.utils.plot.__main__")
    (path, _), _ = interchange.export_compressai(results, tmp_path / "to")
    points = Results(results).points().query("codec == 'made'").sort_values("bpp")
    read = plot.parse_json_file(path, "psnr")
    assert read["name"] == "made" and list(read["ys"]) == points["psnr_db"].tolist()
    assert list(read["xs"]) == points["bpp_mean"].tolist()
    decibel = plot.parse_json_file(path, "ms-ssim")["ys"]
    assert list(decibel) == pytest.approx([-10 * math.log10(1 - value) for value in points["ms_ssim"]])
    results_of = json.loads(path.read_text())["results"]
    assert len({len(values) for values in results_of.values()}) == 1


def test_import(tmp_path):
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(THEIRS))
    interchange.import_compressai(file, "kodak", tmp_path / "out")
    rows = published.read(tmp_path / "out").query("system == 'somebody2022'")
    assert len(rows) == 6 and set(rows["protocol"]) == {"rgb-mean"} and set(rows["badge"]) == {"re-run"}
    assert rows.query("metric == 'psnr_db'")["value"].tolist() == THEIRS["results"]["psnr-rgb"]
    assert rows.query("metric == 'ms_ssim'")["bpp"].tolist() == THEIRS["results"]["bpp"]
    assert set(rows["source"]) == {"https://example.org/paper"}
    interchange.import_compressai(file, "kodak", tmp_path / "out")  # again: replaces, does not double
    assert len(published.read(tmp_path / "out").query("system == 'somebody2022'")) == 6


def test_two_files_of_one_name_never_replace_each_other(tmp_path):
    """As CompressAI's ..._mse_cuda.json and ..._ms-ssim_cuda.json are: both call themselves the same."""
    first, second = tmp_path / "model_mse.json", tmp_path / "model_ms-ssim.json"
    first.write_text(json.dumps(THEIRS))
    second.write_text(json.dumps(THEIRS | {"results": {"bpp": [0.11, 0.22], "psnr-rgb": [27.0, 28.0]}}))
    kept = interchange.import_compressai(first, "kodak", tmp_path / "out")
    before = kept.read_bytes()
    with pytest.raises(
        UsageError, match=r"model_ms-ssim.json: somebody2022 1 kodak .* known already, as 28.5 .*--variant"
    ):
        interchange.import_compressai(second, "kodak", tmp_path / "out")
    assert kept.read_bytes() == before
    interchange.import_compressai(second, "kodak", tmp_path / "out", variant="MS-SSIM")
    assert published.read(tmp_path / "out").query("system == 'somebody2022'")["variant"].value_counts().to_dict() == {
        "": 6,
        "MS-SSIM": 2,
    }


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    file = tmp_path / "theirs.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(THEIRS).encode())
    interchange.import_compressai(file, "kodak", tmp_path / "out")


def test_import_of_older_and_bare_files(tmp_path):
    """Without "-rgb", without name, without "results"."""
    file = tmp_path / "vtm.json"
    file.write_text(json.dumps({"bpp": [0.1, 0.2], "psnr": [28.0, 30.0], "encoding_time": [1.0, 2.0]}))
    interchange.import_compressai(
        file, "kodak", tmp_path / "out", badge="author-file", source="a repository", system="V"
    )
    rows = published.read(tmp_path / "out").query("system == 'V'")
    assert rows["value"].tolist() == [28.0, 30.0] and set(rows["source"]) == {"a repository"}


def test_what_we_export_can_be_imported(results, tmp_path):
    (path, _), _ = interchange.export_compressai(results, tmp_path / "to")
    interchange.import_compressai(path, "made", tmp_path / "out")
    rows = published.read(tmp_path / "out").query("system == 'made' and metric == 'psnr_db'")
    points = Results(results).points().query("codec == 'made'").sort_values("bpp")
    assert rows["value"].tolist() == pytest.approx(points["psnr_db"].tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not JSON", "cannot be read as JSON"),
        ("[1]", "needs"),
        ('{"results": {"bpp": [1]}}', "needs"),
        ('{"results": {"bpp": [1, 2], "psnr": [30]}}', "one a point"),
        ('{"results": {"bpp": [1], "psnr": ["30"]}}', "list of numbers"),
        ('{"results": {"bpp": [1], "psnr": [30], "psnr-rgb": [30]}}', "two of one kind"),
        ('{"results": {"bpp": [1], "ms-ssim": [15.2]}}', "out of its range"),
        ('{"results": {"bpp": [0], "psnr": [30]}}', "above 0"),
        ('{"results": {"bpp": [NaN], "psnr": [30]}}', "not a number"),
    ],
)
def test_files_that_are_none(tmp_path, content, told):
    file = tmp_path / "bad.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=told):
        interchange.import_compressai(file, "kodak", tmp_path / "out")
    assert not list(tmp_path.glob("out/published/*"))  # nothing that would spoil every figure after


def test_nothing_to_export(tmp_path, results):
    with pytest.raises(UsageError, match="no points yet"):
        interchange.exported_curves(tmp_path / "empty")
    with pytest.raises(UsageError, match='did you mean "made"'):
        interchange.exported_curves(results, ["mad"])


def test_the_verbs(results, tmp_path):
    def hfdbench(*arguments):
        command = [sys.executable, "-c", "from hfdbench.cli import main; main()", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    dataset = Results(results).points()["dataset"][0]
    done = hfdbench("export", "compressai", results, "--codec", "made", "--to", "to")
    assert done.stdout.split() == [f"to/made-{dataset}.json"], done.stderr
    done = hfdbench("import", "compressai", f"to/made-{dataset}.json", "--dataset", "kodak", "--out", "out")
    assert done.stdout.split() == ["out/published/made-kodak.csv"], done.stderr
    wrong = hfdbench("import", "compressai", f"to/made-{dataset}.json", "--dataset", "kodac")
    assert wrong.returncode == 2 and 'did you mean "kodak"' in wrong.stderr
