"""Pictures and streams of others: the row that `run` gives, told apart everywhere, and every way in which they do not fit."""

import csv
import io
import json

import pandas as pd
import pytest
from helpers_metrics import patches as textures
from helpers_metrics import random_weights, save_all
from PIL import Image

from hfdbench.analysis.curves import figure_data
from hfdbench.cards.find import choose, find_cards
from hfdbench.cards.schema import CodecCard, FigureCard
from hfdbench.cli import app as cli
from hfdbench.errors import UsageError
from hfdbench.pipeline.foreign import Foreign, score_foreign
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.report import tables
from hfdbench.report.exchange import codec_compare, compressai, exported_curves
from hfdbench.report.style import inks
from hfdbench.results import parquet
from hfdbench.results.stored import Results

pytestmark = pytest.mark.usefixtures("offline")
COUNT = 4
STATED = "author's pixels, rate stated"
OWN = {
    "codec",
    "title",
    "kind",
    "badge",
    "encode_s",
    "decode_s",
    "encode_s_per_mpx",
    "decode_s_per_mpx",
    "seal",
    "host",
}
OWN |= {"processor", "tolerance", "point", "network_evaluations", "macs_per_pixel", "device_name", "batch"}
OWN |= {"host_peak_bytes", "device_peak_bytes"}


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return save_all(textures(COUNT, 300, 260), folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, originals, inception):
    """A results folder of AVIF at one point, its row, and its streams by name."""
    out = tmp_path_factory.mktemp("ours")
    (card,) = choose(CodecCard, ["avif"], ())
    point = card.points[3].id
    request = Request((card,), (f"folder:{originals}",), out=out, points=(point,), inception=inception)
    (row,) = run(request).points.to_dict("records")
    (path,) = (out / "streams").iterdir()
    return out, row, {row["name"]: row["stream"] for row in parquet.read_table(path).to_pylist()}


@pytest.fixture(scope="module")
def decoded(tmp_path_factory, ours):
    """Its streams decoded to PNG by Pillow, and their sizes in a CSV file."""
    folder = tmp_path_factory.mktemp("decoded")
    for name, stream in ours[2].items():
        Image.open(io.BytesIO(stream)).convert("RGB").save(folder / name)
    with open(folder / "sizes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("name", "bytes"), *((name[:-4], len(stream)) for name, stream in ours[2].items())])
    return folder


def asked(originals, out, **more):
    return Request((), (f"folder:{originals}",), out=out, **more)


def copied(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_the_row_that_run_gave_to_the_last_digit(tmp_path, originals, ours, decoded, inception):
    made = Foreign(decoded, "AVIF, elsewhere", point="3", sizes=decoded / "sizes.csv")
    summary = score_foreign(made, asked(originals, tmp_path, inception=inception))
    (row,) = summary.points.to_dict("records")
    theirs = ours[1]
    assert summary.exit_code == 0 and row["status"] == "ok"
    for column in row.keys() - OWN:
        assert row[column] == theirs[column] or (pd.isna(row[column]) and pd.isna(theirs[column])), column
    assert pd.isna(theirs["badge"]) and row["badge"] == STATED
    assert (row["codec"], row["title"], row["kind"]) == ("avif-elsewhere", "AVIF, elsewhere", "other")
    assert pd.isna(row["encode_s"]) and pd.isna(row["seal"]) and pd.isna(row["host"])
    (a,), (b,) = Results(tmp_path).trials(), Results(ours[0]).trials()
    for column in ("bytes", "bpp", "mse", "psnr_db", "ms_ssim", "pixels_sha256"):
        assert a.read_images()[column] == b.read_images()[column], column
    again = score_foreign(made, asked(originals, tmp_path, inception=inception))
    assert again.existing and not again.done


def test_streams_beside_the_pictures_and_in_a_folder(tmp_path, originals, ours, decoded):
    beside = copied(decoded, tmp_path / "beside")
    (beside / "sizes.csv").unlink()
    for name, stream in ours[2].items():
        (beside / name).with_suffix(".bin").write_bytes(stream)
    (row,) = score_foreign(Foreign(beside, "beside"), asked(originals, tmp_path / "out")).points.to_dict("records")
    assert row["bytes"] == ours[1]["bytes"] and row["point"] == "beside"
    streams = tmp_path / "streams"
    streams.mkdir()
    for name, stream in ours[2].items():
        (streams / name).with_suffix(".avif").write_bytes(stream)
    made = Foreign(decoded, "apart", sizes=streams, estimated=True)
    (row,) = score_foreign(made, asked(originals, tmp_path / "out")).points.to_dict("records")
    assert row["bytes"] == ours[1]["bytes"] and row["badge"] == "author's pixels, rate estimated"


def test_streams_with_a_decoder_are_decoded_here(tmp_path, originals, ours):
    streams = tmp_path / "streams"
    streams.mkdir()
    for name, stream in ours[2].items():
        (streams / name).with_suffix(".bin").write_bytes(stream)
    made = Foreign(streams, "AVIF of others", point=ours[1]["point"], decoder="avif")
    (row,) = score_foreign(made, asked(originals, tmp_path / "out")).points.to_dict("records")
    for column in ("bytes", "bpp", "psnr_db", "ms_ssim", "fd_mini", "fd_mini_id", "seal", "kind", "point"):
        assert row[column] == ours[1][column], column
    assert row["badge"] == "author's streams" and row["decode_s"] > 0 and pd.isna(row["encode_s"])
    (streams / "0.bin").write_bytes(b"no stream")
    summary = score_foreign(
        Foreign(streams, "broken", point=ours[1]["point"], decoder="avif"), asked(originals, tmp_path / "out")
    )
    assert summary.exit_code == 1 and summary.points["status"][0] == "partial"
    with pytest.raises(UsageError, match=r"no point of avif \(--point\)"):
        score_foreign(Foreign(streams, "x", point="q1000", decoder="avif"), asked(originals, tmp_path / "out"))


def test_what_does_not_fit_is_named(tmp_path, originals, decoded):
    mine = copied(decoded, tmp_path / "mine")
    (mine / "0.png").unlink()
    Image.open(decoded / "1.png").crop((0, 0, 200, 300)).save(mine / "1.png")
    Image.open(decoded / "2.png").save(mine / "2.jpg", quality=99)
    (mine / "2.png").unlink()
    Image.open(decoded / "3.png").save(mine / "stranger.png")
    summary = score_foreign(
        Foreign(mine, "mine", sizes=decoded / "sizes.csv"), asked(originals, tmp_path / "out", metrics=())
    )
    (row,) = summary.points.to_dict("records")
    ((_, errors),) = summary.failed
    assert (row["status"], row["images"], row["failed"]) == ("partial", 1, 3) and pd.isna(row["fd_mini"])
    assert "0.png: no decoded picture has its stem" in errors
    assert any("200x300 pixels, the original has 260x300" in error for error in errors)
    assert any("2.jpg is a JPEG file" in error for error in errors)
    assert any("stranger.png" in note for note in summary.notes)
    assert any("3 of 4 images cannot be measured (1 without" in note for note in summary.notes)
    translucent = copied(decoded, tmp_path / "translucent")
    for path in translucent.glob("*.png"):
        Image.open(path).convert("RGBA").save(path)
    with pytest.raises(UsageError, match="translucent"):
        score_foreign(Foreign(translucent, "mine", sizes=decoded / "sizes.csv"), asked(originals, tmp_path / "out"))
    with pytest.raises(UsageError, match="no decoded picture is named"):
        score_foreign(Foreign(tmp_path, "mine", sizes=decoded / "sizes.csv"), asked(originals, tmp_path / "out"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("name,bytes\n0,900\n1,900\n2,900", "lacks 1 of 4 images: 3.png"),
        ("name,bytes\n0,900\n1,900\n2,900\n3,0", "3.png: 0 bytes cannot be the rate"),
        ("name,bytes\n0,900\n1,900\n2,900\n3,999999999", "raw: 234,000 bytes"),
        ("name,bytes\n0,900\n1,900\n2,900\n4,900\n3,900", r'row 5: no image of .* "4"'),
        ("name,bytes\n0,900\n0.png,900", "row 3: 0.png is there twice"),
        ("name,bytes\n0,many", 'row 2: bytes "many" is no whole number'),
        ("name,bytes\n0,12.5", 'bytes "12.5" is no whole number'),
        ("name,size\n0,900", 'needs the columns "name", and "bytes" or "bpp"'),
    ],
)
def test_sizes_that_cannot_be_right(tmp_path, originals, decoded, lines, message):
    sizes = tmp_path / "sizes.csv"
    sizes.write_text(lines)
    with pytest.raises(UsageError, match=message):
        score_foreign(Foreign(decoded, "mine", sizes=sizes), asked(originals, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_sizes_that_are_not_there(tmp_path, originals, decoded):
    with pytest.raises(UsageError, match="no such file or folder"):
        score_foreign(Foreign(decoded, "mine", sizes=tmp_path / "no.csv"), asked(originals, tmp_path / "out"))
    with pytest.raises(UsageError, match=r"0\.png: no stream has its stem"):
        score_foreign(Foreign(decoded, "mine"), asked(originals, tmp_path / "out"))


def test_bits_per_pixel_are_rounded_up_to_bytes(tmp_path, originals, decoded):
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("name,bpp\n" + "".join(f"{number},0.1\n" for number in range(COUNT)))
    made = Foreign(decoded, "mine", sizes=sizes, estimated=True)
    (row,) = score_foreign(made, asked(originals, tmp_path / "out")).points.to_dict("records")
    assert row["bytes"] == COUNT * 975 and 300 * 260 * 0.1 / 8 == 975


def test_names_that_are_taken(tmp_path, originals, ours, decoded):
    sizes = decoded / "sizes.csv"

    def score(system, **more):
        return score_foreign(Foreign(decoded, system, sizes=sizes, **more), asked(originals, tmp_path / "out"))

    with pytest.raises(UsageError, match='"avif" is a codec here'):
        score("AVIF")
    with pytest.raises(UsageError, match="neither letter nor digit"):
        score("???")
    score("Mine (1)", point="a")
    with pytest.raises(UsageError, match=r'the system "Mine \(1\)" under the same id "mine-1"'):
        score("mine 1", point="b")
    with pytest.raises(UsageError, match="is measured already, of other files or sizes"):
        score("Mine (1)", point="a", estimated=True)
    score("Mine (1)", point="a", estimated=True, replace=True)
    (newest,) = Results(tmp_path / "out").newest()
    assert newest.row["badge"] == "author's pixels, rate estimated"


@pytest.fixture(scope="module")
def both(tmp_path_factory, originals, ours, decoded):
    """A folder that holds AVIF as we coded it and as somebody else did, the latter cheaper."""
    import shutil

    out = tmp_path_factory.mktemp("both") / "results"
    shutil.copytree(ours[0], out)
    sizes = out.parent / "sizes.csv"
    for point, more in (("3", -9), ("4", 200), ("5", 400)):
        sizes.write_text("name,bytes\n" + "".join(f"{name},{len(s) + more}\n" for name, s in ours[2].items()))
        score_foreign(Foreign(decoded, "EGIC", sizes=sizes, point=point), asked(originals, out))
    return out


def test_told_apart_in_every_table(both, capsys, monkeypatch):
    points = Results(both).points().sort_values("codec")
    text = tables.render_points(points, "table", ["codec", "point", "bpp", "fd_mini"])
    assert "3‡" in text and f"‡ egic: {STATED}." in text and text.count("‡") == 4
    assert r"\textdaggerdbl" in tables.render_points(points, "latex", ["codec", "point"])
    assert STATED in tables.render_points(points, "csv", ["codec"])
    assert json.loads(tables.render_points(points, "json", ["codec"]))[1]["badge"] == STATED
    points = points[~points["point"].isin(["4", "5"])].assign(psnr_db=[20.0, 30.0])
    estimated = points.assign(badge=points["badge"].str.replace("stated", "estimated"))
    assert "**30.00**" in tables.render_points(points, "markdown", ["codec", "psnr_db"])
    assert "**30.00**" not in tables.render_points(estimated, "markdown", ["codec", "psnr_db"])

    def call(*words):
        monkeypatch.setattr("sys.argv", ["hfdbench", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (left.value.code or 0, *capsys.readouterr())

    code, _, err = call("compare", "avif", "egic", "--metric", "psnr_db", "--out", both)
    assert code == 0 and f"egic: {STATED}" in err, err
    _, _, err = call("score", "--dataset", f"folder:{both}", "--out", both)
    assert "left out: egic: by its authors" in err


def test_hollow_in_figures(both):
    points = Results(both).points()
    ink = inks(points)
    assert ink["egic"].hollow and not ink["avif"].hollow
    card = choose(FigureCard, ["rate-psnr"], ())[0]
    data = figure_data(points, card, points["dataset"][0], known=find_cards(CodecCard, ()))
    assert f"hollow: {STATED}: EGIC" in data.facts


def test_told_apart_in_exports(both):
    egic = next(curve for curve in exported_curves(both) if curve.codec == "egic")
    batch, notes = codec_compare(egic)
    assert f"EGIC ({STATED})" in batch["constant_values"][0] and len(batch["field_values"]) == 3 * COUNT
    assert any("decoding_time" in note for note in notes)
    assert compressai(egic)["name"] == f"EGIC ({STATED})" and "encoding_time" not in compressai(egic)["results"]


def test_told_apart_in_the_page(both, originals, tmp_path):
    from hfdbench.report.page import page

    pytest.importorskip("plotly")
    (card,) = choose(FigureCard, ["rate-psnr"], ())
    dataset = f"folder:{originals}"
    page.write_page(both, tmp_path, [card], page.Choice(intervals=False), only_datasets=[dataset])
    text = (tmp_path / "index.html").read_text()
    assert f"EGIC ({STATED})" in text and '"hollow":true' in text
    assert "its pixels are its author's, and not stored here" in text


def test_the_command(tmp_path, originals, decoded, monkeypatch, capsys):
    from hfdbench.report.page import page

    words = ["score-pixels", decoded, "--system", "EGIC", "--dataset", f"folder:{originals}"]
    words += [
        "--bytes",
        decoded / "sizes.csv",
        "--out",
        tmp_path / "out",
        "--source",
        "github.com/x/y",
        "--kind",
        "gan",
    ]
    monkeypatch.setattr("sys.argv", ["hfdbench", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, _ = capsys.readouterr()
    assert not left.value.code and "‡" in out and STATED in out
    (trial,) = Results(tmp_path / "out").trials()
    assert trial.row["kind"] == "gan" and trial.metadata["card"]["settings"] == "github.com/x/y"
    (card,) = choose(FigureCard, ["rate-psnr"], ())
    page.write_page(
        tmp_path / "out", tmp_path, [card], page.Choice(intervals=False), only_datasets=[f"folder:{originals}"]
    )
    assert '"source":"github.com/x/y"' in (tmp_path / "index.html").read_text()
