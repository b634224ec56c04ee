"""Published points: the bundled file is right, wrong files are refused, and points meet only figures of their own kind."""

import json
import re
import shutil
import subprocess
import sys
import zipfile

import pandas as pd
import pyarrow as pa
import pytest
from helpers_results import write_points
from typer.testing import CliRunner

from hfdbench.analysis.curves import figure_data
from hfdbench.cards.find import bundled_root, find_cards
from hfdbench.cards.schema import DatasetCard, FigureCard, read_card
from hfdbench.cli.app import app
from hfdbench.errors import UsageError
from hfdbench.results import published, schema

GOOD = dict(
    system="Ours", variant="", point="1", dataset="kodak", protocol="rgb-mean", bpp=0.25, metric="psnr_db", value=30.0
) | dict(plus_minus="", bpp_plus_minus="", badge="author-file", source="a/b c.csv", note="")


def write(folder, *rows, name="mine.csv"):
    path = folder / "published" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([GOOD | row for row in rows])
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def points(dataset="clic", label="FID", protocol="fid256", rates=(0.07, 0.3)):
    rows = [
        dict(codec="hfd", point=f"q{i}", dataset=dataset, kind="diffusion", title="HFD", images=428, failed=0, bpp=bpp)
        | dict(bytes=1000 * i, psnr_db=28.0 + 2 * i, ms_ssim=0.95, fid=8.0 / i, kid=0.002, fid_id="id", fid_label=label)
        | dict(fid_patches=28650, fid_protocol=protocol, status="ok", note="", seed=0)
        for i, bpp in enumerate(rates, 1)
    ]
    return pd.DataFrame(rows)


def card(name="rate-fid", **changes):
    return read_card(bundled_root() / "reports" / f"{name}.toml", FigureCard).model_copy(update=changes)


def overlay(data, label):
    return next(overlay for overlay in data.overlays if overlay.label == label)


def test_the_bundled_points_are_valid_and_hold_what_papers_are_compared_with():
    every = published.read()
    assert {"HFD", "HiFiC", "MS-ILLM", "MRIC", "CRDR", "DIRAC", "EGIC", "ELIC", "VTM", "BPG", "JPEG"} <= {
        *every["system"]
    }
    assert set(every["dataset"]) <= set(find_cards(DatasetCard)), "a point of a set that has no card"
    assert set(every["metric"]) >= {"psnr_db", "fid", "kid", "ms_ssim", "lpips"}
    read_off = every[every["badge"] == "digitised"]
    assert (read_off["plus_minus"] > 0).all() and (read_off["source"].str.contains(".png", regex=False)).all()
    hfd = every[every["system"] == "HFD"].set_index("metric")
    assert hfd.loc["fid", ["bpp", "value", "plus_minus", "badge"]].tolist() == [0.0916, 3.8, 0.15, "digitised"]
    assert hfd.loc["psnr_db", "value"] == 29.56 and len(hfd) == 2
    hific = every.query("system == 'HiFiC' and point == 'lo' and dataset == 'clic'").set_index("metric")["value"]
    crdr = every[every["system"].isin(["CRDR", "DC-VIC"]) & (every["metric"] == "fid")]
    assert set(crdr["protocol"]) == {"fid256, pytorch-fid"}, "another resize rule: never laid over ours"
    assert not every["protocol"].str.contains("unstated").any() and (read_off["bpp_plus_minus"] > 0).all()
    stable = every.query("system == 'StableCodec' and dataset == 'clic' and point == '7'").set_index("metric")["value"]
    assert stable["fid"] == 3.73 and stable["psnr_db"] == 24.58483
    vtm = every.query("system == 'VTM' and dataset == 'clic' and badge == 're-run' and metric == 'psnr_db'")["value"]
    assert vtm.iloc[0] == pytest.approx((250 * 29.337472706619277 + 178 * 27.955868976094447) / 428, abs=1e-5)
    assert hific["fid"] == pytest.approx(4.19737) and hific["psnr_db"] == pytest.approx(30.8697)


def test_they_lie_over_a_figure_of_the_same_dataset_and_protocol_only():
    data = figure_data(points(), card(), "clic", published=published.read())
    assert data.not_overlaid == ""
    hfd = overlay(data, "HFD DDPM")
    assert (hfd.x, hfd.y, hfd.y_plus_minus) == ((0.0916,), (3.8,), (0.15,))
    assert "digitised, FID ±0.15" in hfd.origin and "EGIC" in hfd.origin
    assert [curve.codec for curve in data.curves] == ["hfd"], "they never become curves of ours"
    rates = [bpp for overlay in data.overlays for bpp in overlay.x]
    assert min(rates) > 0.07 / 1.26 and max(rates) < 0.3 * 1.26
    assert any("published points, outside the axes" in note for note in data.notes)


@pytest.mark.parametrize(
    "measured, theirs, ours",
    [
        (points("clic2025-val"), "fid of clic (fid256)", "fid of clic2025-val (fid256)"),
        (points(label="FID (refitted Inception)"), "fid of clic (fid256)", "fid of clic (fid256, refitted Inception)"),
        (points(protocol="whole"), "fid of clic (fid256)", "fid of clic (whole)"),
        (points("clic@4"), "fid of clic (fid256)", "fid of clic@4 (fid256)"),
    ],
)
def test_another_dataset_or_protocol_is_refused_naming_both(measured, theirs, ours):
    dataset = measured["dataset"][0]
    data = figure_data(measured, card(), dataset, published=published.read())
    assert data.overlays == () and len(data.curves) == 1
    assert theirs in data.not_overlaid and ours in data.not_overlaid and "rate-fid" in data.not_overlaid


def test_a_metric_that_nobody_publishes_and_rates_out_of_reach_are_told():
    measured = points().assign(decode_s_per_mpx=2.0)
    data = figure_data(measured, card("fid-cost"), "clic", published=published.read())
    assert "none has decode_s_per_mpx" in data.not_overlaid
    data = figure_data(points(rates=(3.0, 4.0)), card(), "clic", published=published.read())
    assert data.overlays == () and "outside its axes (bpp 2.4 to 5)" in data.not_overlaid


def test_the_plane_takes_both_metrics_of_the_same_point():
    data = figure_data(points(), card("realism-distortion"), "clic", published=published.read())
    assert (overlay(data, "HFD DDPM").x, overlay(data, "HFD DDPM").y) == ((29.56,), (3.8,))
    ill = overlay(data, "MS-ILLM")
    known = dict(zip(ill.x, ill.y, strict=True))
    assert known[30.8707] == 2.64505


def test_ms_ssim_is_overlaid_as_it_is_averaged():
    measured = points("kodak").assign(ms_ssim=[0.93, 0.97])
    data = figure_data(measured, card("rate-ms-ssim"), "kodak", published=published.read())
    assert pytest.approx(overlay(data, "HiFiC").y[0], abs=1e-6) == 0.93721463
    measured = measured.assign(ms_ssim_db=[11.0, 15.0])
    data = figure_data(measured, card("rate-ms-ssim", y="ms_ssim_db", y_log=False), "kodak", published=published.read())
    assert data.overlays == () and "none has ms_ssim_db" in data.not_overlaid


def test_systems_are_chosen_by_name_in_any_case():
    every = published.read()
    assert set(published.choose(every, ["hific", "MRIC beta 0"])["system"]) == {"HiFiC", "MRIC"}
    assert set(published.choose(every, ["MRIC beta 0"])["variant"]) == {"beta 0"}
    assert len(published.choose(every, [])) == len(every)
    with pytest.raises(UsageError, match='no published system "HiFic2"; did you mean "HiFiC"'):
        published.choose(every, ["HiFic2"])


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_points_of_the_user_are_read_beside_the_bundled_ones(name, tmp_path):
    write(tmp_path, {"value": 31.5}, {"point": "2", "bpp": 0.5}, name=name)
    every = published.read(tmp_path)
    assert len(every) == len(published.read()) + 2
    assert every[every["system"] == "Ours"]["value"].tolist() == [31.5, 30.0]
    data = figure_data(points("kodak"), card("rate-psnr"), "kodak", published=published.choose(every, ["ours"]))
    assert overlay(data, "Ours").y == (31.5,), "0.5 bpp is out of reach"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"badge": "digitized"}, r'row 2: no badge "digitized"; did you mean "digitised"'),
        ({"metric": "psnr"}, r'row 2: no metric "psnr"; did you mean "psnr_db"'),
        ({"value": "3o.0"}, r'row 2: value "3o.0" is not a number'),
        ({"value": ""}, r'row 2: value "" is not a number'),
        ({"value": "inf"}, r'row 2: value "inf" is not a number'),
        ({"bpp": 0}, "row 2: bpp 0 must be above 0"),
        ({"value": -3}, "row 2: psnr_db -3 is out of its range"),
        ({"metric": "ms_ssim", "value": 13.0}, "row 2: ms_ssim 13 is out of its range; is its unit that of ours"),
        ({"plus_minus": -1}, "row 2: plus_minus -1 must not be below 0"),
        ({"source": ""}, "row 2: source is empty"),
        ({"dataset": ""}, "row 2: dataset is empty"),
        ({"sauce": "x"}, 'no column "sauce"; did you mean "source"'),
    ],
)
def test_a_wrong_point_is_refused_with_file_row_and_hint(change, message, tmp_path):
    path = write(tmp_path, change)
    with pytest.raises(UsageError, match=message) as error:
        published.read(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_files_of_spreadsheets_are_read(ends, tmp_path):
    """A byte-order mark, their line ends, empty cells and lines at the end, spaces around names."""
    path = write(tmp_path, {"note": "ünï, code"})
    head, row = path.read_text().splitlines()
    lines = [f" {head.replace(',', ' , ')},,", f"{row},,", ",,,", ""]
    path.write_bytes(("\ufeff" + ends.join(lines)).encode())
    (found,) = published.read(tmp_path).query("system == 'Ours'").to_dict("records")
    assert (found["value"], found["note"], found["bpp"]) == (30.0, "ünï, code", 0.25)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("author-file,", "author-file,x,"), "row 2: has 14 cells, the head line names 13"),
        (lambda text: text.replace(",", ";"), "separated by semicolons"),
        (lambda text: text.replace("variant", "system"), "a column has no name, or the name of another"),
        (lambda text: "", "is empty"),
    ],
)
def test_a_csv_file_that_is_not_right_is_refused(change, message, tmp_path):
    path = write(tmp_path, {"note": "last"})
    path.write_text(change(path.read_text()))
    with pytest.raises(UsageError, match=message):
        published.read(tmp_path)


def test_missing_columns_doubles_and_damaged_files_are_refused(tmp_path):
    path = write(tmp_path, {})
    pd.read_csv(path).drop(columns="protocol").to_csv(path, index=False)
    with pytest.raises(UsageError, match='column "protocol" is missing'):
        published.read(tmp_path)
    write(tmp_path, {}, {"value": 31.0})
    with pytest.raises(UsageError, match="Ours 1 kodak rgb-mean psnr_db is given twice"):
        published.read(tmp_path)
    path.unlink()
    (tmp_path / "published" / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UsageError, match=re.escape("bad.parquet: cannot be read")):
        published.read(tmp_path)


def test_the_summary_counts_points_and_names_sources():
    rows = published.summary(published.read())
    hific = rows[(rows["system"] == "HiFiC") & (rows["dataset"] == "clic")].iloc[0]
    assert hific["points"] == 3 and "fid" in hific["metrics"].split() and hific["badge"] == "author-file"


def test_one_command_after_run_draws_a_pdf_with_overlays(tmp_path):
    frame = points().reindex(columns=schema.POINTS.names)
    frame = frame.fillna({name: 0 for name in frame if pa.types.is_integer(schema.POINTS.field(name).type)})
    write_points(tmp_path, frame.assign(device="cpu"))
    asked = [
        "report",
        "rate-fid",
        "fid-cost",
        "--published",
        "--format",
        "pdf",
        "--width",
        "full",
        "--out",
        str(tmp_path),
        "--to",
    ]
    result = CliRunner().invoke(app, [*asked, str(tmp_path / "figures")])
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'figures' / 'rate-fid-clic.pdf'}" in result.stdout.splitlines()
    assert 'no overlay: figure "fid-cost"' not in result.stderr, "a figure without points is not drawn at all"
    caption = (tmp_path / "figures" / "rate-fid-clic.tex").read_text(encoding="utf-8")
    assert "HFD DDPM" in caption and r"$\pm$0.15" in caption and r"teaser\_clic2020\_v2.png" in caption
    result = CliRunner().invoke(app, [*asked, str(tmp_path / "figures"), "--published-system", "HiFig"])
    assert isinstance(result.exception, UsageError) and 'did you mean "HiFiC"' in str(result.exception)
    result = CliRunner().invoke(app, ["list", "published", "--json", "--out", str(tmp_path)])
    assert "HiFiC" in {row["system"] for row in json.loads(result.stdout)}


@pytest.mark.skipif(not (bundled_root() / "pyproject.toml").is_file(), reason="installed: there is no wheel to build")
def test_the_wheel_carries_them(tmp_path):
    pytest.importorskip("hatchling", reason="needs hatchling to build a wheel without network")
    shutil.copytree(bundled_root() / "results" / "published", tmp_path / "src" / "results" / "published")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(bundled_root() / name, tmp_path / "src" / name)
    (tmp_path / "src" / "hfdbench").mkdir()
    (tmp_path / "src" / "hfdbench" / "__init__.py").write_text('__version__ = "0"\n')
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "src", check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert "hfdbench/_data/results/published/points.csv" in wheel.namelist()
