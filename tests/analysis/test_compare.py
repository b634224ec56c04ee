"""hfdbench compare: what is better on purpose is found better, equals are not, and what cannot be compared is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest
from helpers_results import write_codec
from typer.testing import CliRunner

from hfdbench.analysis.bd import RateCurve, bd_rate
from hfdbench.analysis.compare import AMONG_ALL, BY_CHANCE, FEW, SIGN, _judged, _Row, compare_codecs
from hfdbench.analysis.estimate import Estimate
from hfdbench.cli.app import app
from hfdbench.errors import UsageError
from hfdbench.results.parquet import read_metadata, read_table, write_table
from hfdbench.results.schema import POINTS
from hfdbench.results.stored import Results


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_codec(folder, "plain", images=24)
    write_codec(folder, "twin", bpps=(0.12, 0.22, 0.42, 0.7), images=24)
    write_codec(folder, "better", bpps=(0.12, 0.22, 0.42, 0.7), psnr_gain=0.5, noise_gain=0.8, images=24)
    write_codec(folder, "realism", psnr_gain=-0.4, noise_gain=0.8, streams="plain", images=24)
    write_codec(folder, "far", bpps=(3, 4, 6, 9), images=24)
    write_codec(folder, "elsewhere", dataset="other", images=24)
    return folder


def test_a_better_codec_is_found_better_by_what_it_is_better(out):
    found = compare_codecs(out, "better", "plain")
    assert set(found.points["verdict"]) == set(found.deltas["verdict"]) == {"better"}
    assert set(found.points["by"]) == {"interpolated"}
    psnr = found.points[found.points["metric"] == "psnr_db"]
    assert len(psnr) == 4
    assert ((psnr["lo"] < 0.5) & (psnr["hi"] > 0.5)).all()
    assert (psnr["hi"] - psnr["lo"] < 0.4).all()  # pairing: the images themselves differ by several dB
    deltas = found.deltas.set_index(["metric", "delta"])
    rate = deltas.loc[("psnr_db", "bd_rate")]
    assert rate["value"] == pytest.approx(100 * (2 ** (-0.5 / 3) - 1), abs=2)  # 3 dB for every doubling
    assert rate["lo"] < rate["value"] < rate["hi"] < 0
    assert deltas.loc[("fid", "bd_metric"), "value"] < -10


def test_rows_are_those_of_the_stored_points(out):
    found = compare_codecs(out, "better", "plain")
    points = Results(out).points().set_index("codec")
    sides = [points.loc[name].sort_values("bpp") for name in ("plain", "better")]
    expected = bd_rate(*(RateCurve(side["bpp"], side["fid"]) for side in sides), log_value=True)
    row = found.deltas.set_index(["metric", "delta"]).loc[("fid", "bd_rate")]
    assert row["value"] == pytest.approx(100 * expected.value)
    assert (row["overlap_a"], row["overlap_b"]) == (expected.share_of_test, expected.share_of_reference)
    fid = found.points[found.points["metric"] == "fid"]
    np.testing.assert_array_equal(fid["a"], sides[1]["fid"])
    np.testing.assert_allclose(fid["gain"], fid["b"] - fid["a"])


def test_a_twin_is_neither_better_nor_worse(out):
    found = compare_codecs(out, "twin", "plain", metrics=["psnr_db"])
    assert set(found.points["verdict"]) == {"open"} and set(found.points["why"]) <= {BY_CHANCE, AMONG_ALL}
    forth, back = found.deltas, compare_codecs(out, "plain", "twin", metrics=["psnr_db"]).deltas
    np.testing.assert_allclose(forth.loc[1, ["value", "lo", "hi"]], -back.loc[1, ["value", "hi", "lo"]].astype(float))


def test_shared_streams_are_compared_stream_by_stream(out):
    found = compare_codecs(out, "realism", "plain")
    assert set(found.points["by"]) == {"shared streams"}
    verdicts = found.points.groupby("metric")["verdict"].unique()
    assert list(verdicts["psnr_db"]) == ["worse"] and list(verdicts["fid"]) == ["better"]
    assert (found.points["lo"] <= found.points["gain"]).all() and (found.points["gain"] <= found.points["hi"]).all()


def test_what_is_missing_is_said(out):
    with pytest.raises(UsageError, match=r"the other's rates do not reach|cannot be compared"):
        compare_codecs(out, "far", "plain")
    with pytest.raises(UsageError, match='no measured codec "bettter"; did you mean "better"'):
        compare_codecs(out, "bettter", "plain")
    with pytest.raises(UsageError, match="no dataset in common"):
        compare_codecs(out, "elsewhere", "plain")
    with pytest.raises(UsageError, match='"psnr"; did you mean "psnr_db"'):
        compare_codecs(out, "better", "plain", metrics=["psnr"])
    with pytest.raises(UsageError, match="no points yet"):
        compare_codecs(out / "nothing", "better", "plain")


def row(value: float, spread: float = 1.0, images: int = 24, metric: str = "fid", kid_sign: float = 0) -> _Row:
    deviations = np.array([1.0, -1] * (images // 2)) * spread * images**0.5
    return _Row(metric, {"point": "q"}, Estimate(value * spread, deviations), 1, kid_sign, {})


def judged(*rows: _Row) -> list[tuple]:
    return [(each["verdict"], each["why"]) for each in _judged(list(rows), 0.95)]


def test_verdicts_hold_together():
    assert judged(row(2.3)) == [("better", "")] and judged(row(-2.3)) == [("worse", "")]
    assert judged(row(2.3), row(0.5)) == [("open", AMONG_ALL), ("open", BY_CHANCE)]
    assert judged(row(5), row(2.3)) == [("better", ""), ("better", "")]  # the second needs less, once the first holds


def test_no_verdict_from_few_images_or_against_kid():
    assert judged(row(5, images=12)) == [("open", FEW)] and judged(row(5, images=12, metric="psnr_db")) == [
        ("better", "")
    ]
    assert judged(row(5, kid_sign=-1)) == [("open", SIGN)] and judged(row(5, kid_sign=1)) == [("better", "")]


def test_what_is_equal_is_neither_better_nor_worse():
    assert judged(row(0.0, spread=0.0)) == [("equal", "")]


def test_points_left_out_are_named_with_the_reason(tmp_path):
    write_codec(tmp_path, "plain", images=24)
    write_codec(tmp_path, "two", bpps=(0.15, 0.3), images=24)
    with pytest.raises(UsageError, match="psnr_db: q1, q2, q3, q4: a curve needs at least 3 points, this one has 2"):
        compare_codecs(tmp_path, "plain", "two", metrics=["psnr_db"])
    for path in (tmp_path / "points").glob("plain-*.parquet"):
        (line,), metadata = read_table(path).to_pylist(), read_metadata(path)
        if line["point"] == "q1":
            line |= {"status": "partial", "failed": 1, "images": 23}
        elif line["point"] == "q4":
            line |= {"fid": 0.0, "psnr_db": None, "identical": 24}
        write_table(path, pa.Table.from_pylist([line], POINTS), metadata)
    found = compare_codecs(tmp_path, "two", "two")
    assert set(found.points["verdict"]) == {"equal"}
    with pytest.raises(UsageError) as error:
        compare_codecs(tmp_path, "plain", "two")
    notes = str(error.value)
    assert "plain q1 is left out: 1 of 24 images failed" in notes
    assert "psnr_db: plain q4 is left out: every image equals its original" in notes
    assert "fid: plain q4 is left out: a distance of 0 has no logarithm" in notes


def test_two_measurements_of_one_point_are_refused(tmp_path):
    write_codec(tmp_path, "plain")
    write_codec(tmp_path, "twin")
    write_codec(tmp_path, "twin", seed=1)  # the same points under other keys: an older version's
    with pytest.raises(UsageError, match=r"twin q1 on made is stored more than once \(twin-q1-made-"):
        compare_codecs(tmp_path, "plain", "twin")


def test_the_verb_prints_sentences_and_json(out):
    arguments = ["compare", "better", "plain", "--metric", "psnr_db", "--out", str(out)]
    printed = CliRunner().invoke(app, arguments).stdout
    assert "better is better than plain by 0.5" in printed or "better is better than plain by 0.4" in printed
    assert "BD-rate -" in printed
    data = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [row["point"] for row in data["points"]] == ["q1", "q2", "q3", "q4"]
    assert {row["delta"] for row in data["deltas"]} == {"bd_rate", "bd_metric"}
