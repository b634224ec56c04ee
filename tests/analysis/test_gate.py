"""The gate: a codec made worse is caught, an unchanged one is not, and what cannot be compared is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers_results import edited, write_codec
from PIL import Image

from hfdbench.analysis import gate
from hfdbench.cards.find import bundled_root, choose
from hfdbench.cards.schema import CodecCard, GateCard
from hfdbench.datasets import samples
from hfdbench.errors import UsageError
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.report import gate_text
from hfdbench.results import parquet

CARD = choose(GateCard, ["default"])[0]
JPEG = "hfdbench.codecs.pillow:JPEG"


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """No Inception."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HFDBENCH_INCEPTION", "HFDBENCH_DATA"):
            patch.delenv(name, raising=False)
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        for name in ("https_proxy", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        yield


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> str:
    """Crops of the sample photographs, under the size at which MS-SSIM begins to cost time."""
    folder = tmp_path_factory.mktemp("photographs")
    for path in samples.pictures():
        with Image.open(path) as picture:
            picture.convert("RGB").crop((100, 50, 260, 210)).save(folder / f"{path.stem}.png")
    return f"folder:{folder}"


def measured(out: Path, photographs: str, adapter: str = JPEG, **options) -> Path:
    card = CodecCard(id="mine", kind="classical", adapter=adapter, points=[{"id": "p", "options": options}])
    assert run(Request(codecs=(card,), datasets=(photographs,), out=out)).exit_code == 0
    return out


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, photographs) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    gate.accept(measured(folder / "run", photographs, quality=50), folder / "baseline")
    return folder / "baseline"


def test_unchanged_codec_passes_ten_times(baseline, photographs, tmp_path):
    for number in range(10):
        report = gate.check(measured(tmp_path / str(number), photographs, quality=50), baseline, CARD)
        assert report.exit_code == 0, gate_text.markdown(report)
        assert {c.metric for c in report.changes} == {"bpp", "psnr_db", "encode_s", "decode_s"}
        assert [c.change for c in report.changes if c.metric in ("bpp", "psnr_db")] == [0, 0]


@pytest.mark.parametrize(
    ("options", "metric", "least"),
    [
        ({"quality": 53}, "bpp", 0.03),  # about 5 % more bytes, and better pictures: that does not excuse it
        ({"quality": 47}, "psnr_db", 0.1),  # about 5 % fewer
        ({"quality": 50, "optimize": False, "progressive": False}, "bpp", 0.03),  # equal pixels
    ],
)
def test_codec_made_5_percent_worse_is_caught(baseline, photographs, tmp_path, options, metric, least):
    report = gate.check(measured(tmp_path, photographs, **options), baseline, CARD)
    worse = {c.metric: c for c in report.worse}
    assert report.exit_code == 1 and set(worse) == {metric}
    assert least < worse[metric].change < 0.3 and 0 < worse[metric].lo < worse[metric].change < worse[metric].hi
    names = {path.stem for path in samples.pictures()}
    assert len(worse[metric].worst) == 3 and all(Path(name).stem in names for name, _ in worse[metric].worst)


def test_slower_codec_is_caught(photographs, tmp_path):
    quick = measured(tmp_path / "quick", photographs, "helpers_codec:Quantiser", pause_s=0.05)
    slow = measured(tmp_path / "slow", photographs, "helpers_codec:Quantiser", pause_s=0.16)
    report = gate.check(slow, quick, CARD)  # a folder of results is a baseline, too
    assert {c.metric for c in report.worse} == {"encode_s", "decode_s"}
    assert gate.check(quick, slow, CARD).exit_code == 0


# ---- made-up results: what real codecs would take too long for


def made(folder: Path, codec: str = "made", **changes) -> Path:
    write_codec(folder, codec, **changes)
    edited(folder, "points", lambda rows, meta: (rows.assign(fid_id="fid256-48p-tf1-123456780000-f32-00000000"), meta))
    return folder


def test_fid(tmp_path):
    gate.accept(made(tmp_path / "a"), tmp_path / "baseline")
    assert gate.check(tmp_path / "a", tmp_path / "baseline", CARD).exit_code == 0
    report = gate.check(made(tmp_path / "b", noise_gain=1.05), tmp_path / "baseline", CARD)
    assert {c.metric for c in report.worse} == {"fid", "fd_mini"} and len(report.worse) == 8
    assert gate.check(tmp_path / "a", tmp_path / "b", CARD).exit_code == 0
    assert "Better beyond tolerance" in gate_text.markdown(gate.check(tmp_path / "a", tmp_path / "b", CARD))


def test_a_distance_of_zero_has_no_ratio(tmp_path):
    """Rounding leaves some 1e-14 where there is nothing."""
    for name, fid in (("a", 0.0), ("b", 2e-14), ("c", 3e-14), ("d", 0.5)):
        made(tmp_path / name, bpps=(0.1,))
        edited(tmp_path / name, "points", lambda rows, meta, fid=fid: (rows.assign(fid=fid, fd_mini=None), meta))
    for name in "abc":
        report = gate.check(tmp_path / name, tmp_path / "b", CARD)
        assert report.exit_code == 0 and any("FID is 0 on both sides" in note for note in report.notes)
    report = gate.check(tmp_path / "d", tmp_path / "b", CARD)
    assert report.exit_code == 1 and "FID was 0" in report.failed[0][1]


def change(p_worse: float, metric: str = "bpp") -> gate.MetricChange:
    return gate.MetricChange("", metric, 1, 1.1, 0.1, 0.01, 0.2, 0.01, "worse", p_worse, 1.0)


def test_many_changes_raise_no_more_alarms_than_one():
    def verdicts(*changes: gate.MetricChange) -> list[str]:
        return [each.verdict for each in gate._together(list(changes))]

    assert verdicts(change(0.004)) == ["worse"]
    assert verdicts(*[change(0.004)] * 20) == ["ok"] * 20  # 0.004 x 20 is more than 5 %
    assert verdicts(change(1e-6), change(0.004)) == ["worse", "worse"]
    assert verdicts(*[change(0.004, "decode_s")] * 20) == ["worse"] * 20


def test_median_by_hand():
    median = gate._Median(np.array([0.5, 0.1, 0.2, 0.3, -0.1, 0.4, 0.6, 0.7, 0.8]))
    assert (
        median.value == 0.4
        and median.p_above() == pytest.approx(10 / 512)
        and median.p_below() == pytest.approx(511 / 512)
    )
    assert median.interval(0.95) == (0.1, 0.7)  # the second and the eighth of nine: 96.1 %


def test_loss_by_chance_passes(tmp_path):
    """Beyond the tolerance on average, but about as many images gained as lost."""
    loss_db = np.array([2.0, -1.5, 1.0, -1.0, 0.5, -0.5, 1.2, -0.4, 0.3, -0.9, 1.5, -0.6])
    assert loss_db.mean() > gate.tolerances(CARD)["psnr_db"]
    for name, each in (("b", loss_db), ("c", abs(loss_db))):
        made(tmp_path / name)
        edited(
            tmp_path / name,
            "images",
            lambda rows, meta, each=each: (rows.assign(mse=rows["mse"] * 10 ** (each / 10)), meta),
        )
    assert gate.check(tmp_path / "b", made(tmp_path / "a"), CARD).exit_code == 0
    assert {c.metric for c in gate.check(tmp_path / "c", tmp_path / "a", CARD).worse} == {"psnr_db"}


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        (
            "points",
            lambda rows, meta: (rows.assign(fid_id="fid256-48p-tf1-123456780001-f32-00000000"), meta),
            "FID of another",
        ),
        ("points", lambda rows, meta: (rows.assign(fid=None, fid_id=None), meta), "the run has none"),
        ("points", lambda rows, meta: (rows.assign(point="new"), meta), "no such point"),
        ("points", lambda rows, meta: (rows.assign(seed=7), meta), "no such point"),
    ],
    ids=["fingerprint", "no FID", "no point", "another seed"],
)
def test_what_cannot_be_compared(tmp_path, table, change, told):
    gate.accept(made(tmp_path / "a"), tmp_path / "baseline")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    edited(tmp_path / "b", table, change)
    report = gate.check(tmp_path / "b", tmp_path / "baseline", CARD)
    assert report.exit_code == 2 and all(told in reason for reason in report.refused), report.refused
    assert "cannot compare" in gate_text.markdown(report)


def test_other_images_of_the_same_name_are_refused(tmp_path):
    for path in gate.accept(made(tmp_path / "a"), tmp_path / "baseline"):
        parquet.write_table(path, parquet.read_table(path), parquet.read_metadata(path) | {"dataset_sha256": "e"})
    report = gate.check(tmp_path / "a", tmp_path / "baseline", CARD)
    assert report.exit_code == 2 and len(report.refused) == 4 and "other images" in report.refused[0]


def test_times_of_another_device_are_refused_and_of_another_processor_left_out(tmp_path):
    write_codec(tmp_path / "a", "made")
    for out, device, cpu in (("b", "cuda", "x"), ("c", "cpu", "y")):
        shutil.copytree(tmp_path / "a", tmp_path / out)
        edited(
            tmp_path / out, "images", lambda rows, meta, cpu=cpu: (rows.assign(device_name=cpu), meta | {"cpu": cpu})
        )
        edited(tmp_path / out, "points", lambda rows, meta, device=device: (rows.assign(device=device, fid=None), meta))
    edited(tmp_path / "a", "points", lambda rows, meta: (rows.assign(fid=None), meta))
    assert "times on cuda" in gate.check(tmp_path / "b", tmp_path / "a", CARD).refused[0]
    report = gate.check(tmp_path / "c", tmp_path / "a", CARD)
    assert report.exit_code == 0 and "times are not compared: y" in report.notes[0]
    edited(tmp_path / "c", "images", lambda rows, meta: (rows.assign(device_name=[*"yz"] * (len(rows) // 2)), meta))
    assert "times are not compared: y; z" in gate.check(tmp_path / "c", tmp_path / "a", CARD).notes[0]
    untimed = CARD.model_copy(
        update={"tolerance": {name: value for name, value in gate.tolerances(CARD).items() if not name.endswith("_s")}}
    )
    assert gate.check(tmp_path / "b", tmp_path / "a", untimed).exit_code == 0


def test_image_that_fails_now_is_a_failure(tmp_path):
    gate.accept(made(tmp_path / "a"), tmp_path / "baseline")
    edited(tmp_path / "a", "images", lambda rows, meta: (rows.assign(status=["error", *["ok"] * 11]), meta))
    edited(tmp_path / "a", "points", lambda rows, meta: (rows.assign(fid=None, fid_id=None), meta))
    report = gate.check(tmp_path / "a", tmp_path / "baseline", CARD)
    assert report.exit_code == 1 and "00.png" in report.failed[0][1]
    with pytest.raises(UsageError, match="images failed"):
        gate.accept(tmp_path / "a", tmp_path / "worse")


def test_missing_baseline_is_an_error_and_never_made(tmp_path):
    out = made(tmp_path / "a")
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError, match="--accept"):
            gate.check(out, missing, CARD)
    assert not (tmp_path / "none").exists()
    with pytest.raises(UsageError, match="no points yet"):
        gate.check(tmp_path / "empty", out, CARD)
    with pytest.raises(UsageError, match="folder of results"):
        gate.accept(out, out)
    with pytest.raises(UsageError, match='did you mean "made"'):
        gate.check(out, out, CARD, ["mad"])


def test_damaged_or_foreign_baseline(tmp_path):
    out = made(tmp_path / "a")
    (path, *_) = gate.accept(out, tmp_path / "baseline")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UsageError, match="damaged"):
        gate.check(out, tmp_path / "baseline", CARD)
    parquet.write_table(path, pa.table({"image": [1]}), {})
    with pytest.raises(UsageError, match="not a baseline"):
        gate.check(out, tmp_path / "baseline", CARD)


def test_accept_replaces_its_own_points_only(tmp_path):
    first = gate.accept(made(tmp_path / "a"), tmp_path / "baseline")
    made(tmp_path / "b", "other", bpps=(0.1,))
    second = gate.accept(tmp_path / "b", tmp_path / "baseline")
    assert len(first) == 4 and len(second) == 1 and len(list((tmp_path / "baseline").iterdir())) == 5
    assert sum(path.stat().st_size for path in first) < 4 * 12_000  # small enough to commit


def test_the_verb(tmp_path, photographs):
    def hfdbench(*arguments, **environment):
        command = [sys.executable, "-c", "from hfdbench.cli import main; main()", "gate", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)

    made(tmp_path / "a"), made(tmp_path / "b", psnr_gain=-1.0)
    assert "made-q1" in hfdbench("a", "--accept", "baseline").stdout
    good = hfdbench("a", "--against", "baseline", "--junit", "out/junit.xml")
    assert good.returncode == 0 and "passed" in good.stdout and (tmp_path / "out/junit.xml").exists()
    bad = hfdbench("b", "--against", "baseline", GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(tmp_path / "summary"))
    assert bad.returncode == 1 and "::error title=made-q1-made" in bad.stdout
    assert (tmp_path / "summary").read_text().startswith("## hfdbench gate: **failed**")
    missing = hfdbench("a", "--against", "none")
    assert missing.returncode == 2 and "--accept" in missing.stderr
    assert hfdbench("a").returncode == 2


def test_golden_baseline_is_whole():
    """What CI holds every commit against."""
    points = gate._baseline(bundled_root() / "results" / "golden" / "samples")
    assert {point.codec for point in points} >= {"jpeg", "webp"} and all(len(point.images) == 9 for point in points)
