"""The report: curves hold the values of the table, figures what they must, tables read back, refusals name the hint."""

import csv
import io
import json
import re
import subprocess
import sys
import zlib
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers_results import write_points
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from typer.testing import CliRunner

from hfdbench.analysis.curves import datasets, figure_data, stored_intervals
from hfdbench.analysis.ledger import ledger_data
from hfdbench.cards.find import bundled_root, find_cards
from hfdbench.cards.schema import CodecCard, FigureCard, read_card
from hfdbench.cli.app import app
from hfdbench.errors import Unavailable, UsageError
from hfdbench.metrics.registry import METRICS, small_sample_note
from hfdbench.report import figures, tables
from hfdbench.report import labels as layout
from hfdbench.report.curves_figure import curves_figure
from hfdbench.report.style import inks
from hfdbench.results import parquet, published, schema
from hfdbench.results.stored import Results

CODECS = {  # codec: title, kind, (bpp, psnr_db, fid) of its points, out of order on purpose
    "jpeg": ("JPEG 4:2:0", "classical", [(0.85, 31.9, 15.0), (0.22, 24.6, 118.0), (0.4, 28.1, 55.0)]),
    "webp": ("WebP", "classical", [(0.13, 26.2, 96.0), (0.42, 30.9, 31.0)]),
    "elic-mse": ("ELIC-style, MSE", "autoencoder", [(0.12, 28.1, 86.0), (0.34, 31.2, 40.0)]),
    "hfd": ("HFD", "diffusion", [(0.12, 26.6, 34.0), (0.34, 29.6, 14.0)]),
    "hific": ("HiFiC", "gan", [(0.18, 27.6, 27.0)]),
}


SVG = figures.Options(formats=["svg"])
TITLED = figures.Options(dataset_titles={"kodak": "Kodak"}, commit="0123456789abcdef")


def table(dataset="kodak", images=24, patches=192, label="FID (refitted Inception)"):
    rows = [
        dict(
            codec=codec,
            point=f"q{i}",
            dataset=dataset,
            kind=kind,
            images=images,
            bpp=bpp,
            bpp_mean=bpp,
            psnr_db=psnr_db,
        )
        | dict(psnr_pooled_db=psnr_db - 0.5, ms_ssim=0.95, ms_ssim_db=13.0, fid=fid, fid_id=f"{dataset}-ab12cd34")
        | dict(fid_label=label, fid_patches=patches, fid_protocol="fid256", kid=fid / 2500, kid_std=0.001)
        | dict(encode_s=0.0345678, decode_s=12.345, title=title, status="ok", note="", seed=0, device="cpu", failed=0)
        for codec, (title, kind, points) in CODECS.items()
        for i, (bpp, psnr_db, fid) in enumerate(points, 1)
    ]
    return pd.DataFrame(rows)


def card(name="rate-fid", **changes):
    return read_card(bundled_root() / "reports" / f"{name}.toml", FigureCard).model_copy(update=changes)


def curve(data, codec):
    return next(curve for curve in data.curves if curve.codec == codec)


def test_curves_hold_the_values_of_the_table_sorted_by_rate():
    data = figure_data(table(), card(), "kodak", dataset_titles={"kodak": "Kodak"})
    jpeg = curve(data, "jpeg")
    assert (jpeg.points, jpeg.x, jpeg.y) == (("q2", "q3", "q1"), (0.22, 0.4, 0.85), (118.0, 55.0, 15.0))
    assert (jpeg.title, jpeg.kind) == ("JPEG 4:2:0", "classical")
    assert [curve.codec for curve in data.curves] == sorted(CODECS)
    assert (data.dataset_title, data.x.title) == ("Kodak", METRICS["bpp"].title)
    assert data.y.title == "FID (refitted Inception) ↓"
    assert "24 images" in data.facts and "kodak-ab12cd34" in " ".join(data.facts)


def test_curves_do_not_depend_on_the_order_of_rows():
    assert figure_data(table().sample(frac=1, random_state=1), card(), "kodak") == figure_data(table(), card(), "kodak")


@pytest.mark.parametrize("patches, warned", [(192, True), (2047, True), (2048, False), (28650, False)])
def test_few_patches_are_warned_about_on_fid_only(patches, warned):
    points = table(patches=patches)
    assert ("biased upwards" in " ".join(figure_data(points, card(), "kodak").facts)) == warned
    assert "biased" not in " ".join(figure_data(points, card("rate-psnr"), "kodak").facts)


def test_what_is_left_out_is_named_with_its_reason():
    points = table()
    points.loc[(points.codec == "webp") & (points.point == "q1"), ["status", "note"]] = ["failed", "no libwebp"]
    points.loc[(points.codec == "jpeg") & (points.point == "q1"), "fid"] = None
    points.loc[(points.codec == "hfd") & (points.point == "q2"), "fid"] = 0.0
    points = pd.concat([points, points[points.codec == "hific"].assign(seed=1, fid=99.0)], ignore_index=True)
    data = figure_data(points, card(codecs=("jpeg", "webp", "hfd", "hific", "vtm")), "kodak", known=["vtm"])
    expected = {"vtm: not measured", "webp q1: failed (no libwebp)", "jpeg q1: no fid", "hific q1: means of 2 seeds"}
    assert set(data.notes) == expected | {"hfd q2: fid is 0, the axis logarithmic"}
    assert curve(data, "jpeg").points == ("q2", "q3")
    assert curve(data, "webp").points == ("q2",)
    assert curve(data, "hific").y == ((27.0 + 99.0) / 2,)


def test_points_outside_the_axes_are_counted():
    data = figure_data(table(), card(x_range=(0.12, 0.4), y_range=(10, 100)), "kodak")
    assert data.notes == ("3 of 10 points, outside the axes",)  # jpeg at 0.22 (FID 118) and 0.85, webp at 0.42 bpp
    assert len(curve(data, "jpeg").x) == 3, "lines still run to the edge"


def test_mixed_fingerprints_are_refused_for_fid_and_kid_but_not_for_psnr():
    points = table()
    points.loc[points.codec == "hfd", "fid_id"] = "other-99999999"
    for name in ("rate-fid", "rate-kid"):
        with pytest.raises(UsageError, match=r"kodak-ab12cd34: .*jpeg.*other-99999999: hfd.*hfdbench score"):
            figure_data(points, card(name), "kodak")
    assert len(figure_data(points, card("rate-psnr"), "kodak").curves) == len(CODECS)
    assert len(figure_data(points, card(codecs=("jpeg", "webp")), "kodak").curves) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"codecs": ("hdf",)}, r'no codec "hdf"; did you mean "hfd"'),
        ({"y": "psnr_bd"}, r'key "y": no column "psnr_bd"; did you mean "psnr_db"'),
        ({"x": "title"}, r'key "x": title is not a number'),
        ({"dataset": "kodac"}, r'no measured dataset "kodac"; did you mean "kodak"'),
    ],
)
def test_a_wrong_name_in_a_card_is_refused_with_the_nearest(changes, message, tmp_path):
    with pytest.raises(UsageError, match=message) as error:
        figures.draw(table(), card(**changes), tmp_path)
    assert "rate-fid.toml" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_empty_table_says_what_to_run_first():
    with pytest.raises(UsageError, match="hfdbench run"):
        datasets(pd.DataFrame(), card())


@pytest.mark.parametrize("line", ["x_range = [2, 1]", "y_range = [0, 1]", 'width = "wide"', "colour = 1"])
def test_a_card_with_a_wrong_value_is_refused(line, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(f'id = "bad"\nx = "bpp"\ny = "fid"\ny_log = true\n{line}\n')
    with pytest.raises(UsageError, match=re.escape(str(path))):
        read_card(path, FigureCard)


def test_without_fid_the_hint_is_named_and_the_other_figures_are_drawn(tmp_path):
    points = table().assign(fid=None, kid=None, fid_id=None, fid_label=None, fid_patches=None, fid_protocol=None)
    with pytest.raises(Unavailable, match="hfdbench score --inception PATH"):
        figures.draw(points, card(), tmp_path)
    drawn = figures.draw_all(points, [card(), card("rate-psnr")], tmp_path, SVG)
    assert [path.name for path in drawn.files] == [f"rate-psnr-kodak.{form}" for form in ("svg", "md", "tex")]
    assert len(drawn.refused) == 1 and "rate-fid" in str(drawn.refused[0])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    before = dict(rcParams)
    figures.draw(table(), card(), out, TITLED)
    assert dict(rcParams) == before, "drawing changed the settings of Matplotlib"
    return out


def test_every_format_is_written_and_the_same_data_give_the_same_bytes(drawn, tmp_path):
    names = [f"rate-fid-kodak.{name}" for name in (*figures.FORMATS, "md", "tex")]
    again = figures.draw(table(), card(), tmp_path, TITLED).files
    assert [path.name for path in again] == names
    for path in again:
        assert path.read_bytes() == (drawn / path.name).read_bytes(), path.name


def test_png_shows_every_curve_in_its_colour_at_column_width(drawn):
    picture = np.asarray(Image.open(drawn / "rate-fid-kodak.png").convert("RGB")).astype(int)
    assert picture.shape[1] == round(3.35 * 300)
    for codec, ink in figures.inks(table()).items():
        colour = [int(ink.colour[i : i + 2], 16) for i in (1, 3, 5)]
        near = (np.abs(picture - colour).max(axis=2) < 8).sum()
        assert near > 100, f"{codec}: {near} pixels of {ink.colour}"


def test_svg_keeps_text_as_text(drawn):
    svg = (drawn / "rate-fid-kodak.svg").read_text(encoding="utf-8")
    text = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    for title, _, _ in CODECS.values():
        assert title in text
    for words in (
        "Kodak",
        METRICS["bpp"].title,
        "FID (refitted Inception) ↓",
        "192 patches",
        "0123456789ab",
        "hfdbench",
    ):
        assert words in text, words


def test_pdf_embeds_its_fonts_as_type_42_and_bears_no_date(drawn):
    pdf = (drawn / "rate-fid-kodak.pdf").read_bytes()
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"CreationDate" not in pdf
    streams = [
        zlib.decompress(part) for part in re.findall(rb"FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", pdf, re.S)
    ]
    assert any(b" Tf" in stream for stream in streams), "no text is set in the embedded fonts"


def test_caption_says_what_and_by_which_rules(drawn):
    words = (drawn / "rate-fid-kodak.md").read_text(encoding="utf-8")
    assert words.startswith("**Rate against realism on Kodak.**") and small_sample_note("fid", 192) in words


def test_the_table_as_the_store_keeps_it_gives_the_same_curves(tmp_path):
    frame = table().reindex(columns=schema.POINTS.names)
    frame = frame.fillna({name: 0 for name in frame if pa.types.is_integer(schema.POINTS.field(name).type)})
    frame.loc[frame.codec == "webp", ["fid", "kid", "fid_id", "fid_label", "fid_patches", "fid_protocol"]] = None
    write_points(tmp_path, frame)
    data = figure_data(Results(tmp_path).points(), card(), "kodak")
    assert data.curves == figure_data(table()[table().codec != "webp"], card(), "kodak").curves
    assert data.notes == ("webp: no fid",)
    assert small_sample_note("fid", 192) in data.facts


def test_each_dataset_has_its_own_figure(tmp_path):
    points = pd.concat([table(), table("clic", 428, 28650, "FID")], ignore_index=True)
    files = figures.draw_all(points, [card()], tmp_path, SVG).files
    assert [path.name for path in files if path.suffix == ".svg"] == ["rate-fid-clic.svg", "rate-fid-kodak.svg"]
    assert "refitted" not in files[0].read_text(encoding="utf-8")


def decoders(evaluations=(0, 8, 100)):
    """Three decoders of the same three streams, and a codec of its own."""
    rows = [
        row
        | dict(codec=codec, title=codec.upper(), kind=kind, point=f"q{i}", bytes=1000 * i, bpp=0.1 * i)
        | dict(fid=fid / i, psnr_db=psnr + 2 * i, network_evaluations=steps, decode_s_per_mpx=0.5 + steps)
        for (codec, kind, fid, psnr), steps in zip(
            [("elic-mse", "autoencoder", 80, 26), ("hfd-fast", "diffusion", 30, 24), ("hfd", "diffusion", 25, 24.5)],
            evaluations,
            strict=True,
        )
        for i in (1, 2, 3)
        for row in [table().iloc[0].to_dict()]
    ]
    jpeg = table().query("codec == 'jpeg'").assign(bytes=[5, 6, 7], network_evaluations=None, decode_s_per_mpx=0.02)
    return pd.concat([pd.DataFrame(rows), jpeg], ignore_index=True)


def test_ties_join_decoders_of_equal_streams_rate_by_rate():
    data = figure_data(decoders(), card("realism-distortion"), "kodak")
    assert [(tie.bpp, tie.x, tie.y) for tie in data.ties] == [
        (pytest.approx(0.1), (26.0, 26.5, 28.0), (30.0, 25.0, 80.0)),
        (pytest.approx(0.2), (28.0, 28.5, 30.0), (15.0, 12.5, 40.0)),
        (pytest.approx(0.3), (30.0, 30.5, 32.0), (10.0, 25 / 3, 80 / 3)),
    ]
    assert curve(data, "jpeg").joined == ((0, 1, 2),)
    assert figure_data(decoders(), card(), "kodak").ties == ()


def test_evaluations_keep_a_place_for_zero_and_join_sweeps_not_rates(tmp_path):
    points = decoders()
    data = figure_data(points, card("fid-evaluations"), "kodak")
    assert data.x.zero and {c.codec for c in data.curves} == {"elic-mse", "hfd", "hfd-fast"}
    assert data.notes == ("jpeg: no network_evaluations",)
    assert all(curve.joined == () for curve in data.curves), "the rates of a decoder cost the same"
    more = points.query("codec == 'hfd' and point == 'q1'").assign(point="q1-50", network_evaluations=50, fid=26.0)
    data = figure_data(pd.concat([points, more]), card("fid-evaluations"), "kodak")
    hfd = curve(data, "hfd")
    assert (hfd.joined, hfd.x[:2], hfd.y[:2]) == (((0, 1),), (50.0, 100.0), (26.0, 25.0))
    assert [len(tie.x) for tie in data.ties] == [2, 3, 3], "a codec with two points at a rate is on no tie there"
    svg = figures.draw(points, card("fid-evaluations"), tmp_path, SVG).files[0].read_text(encoding="utf-8")
    assert {"0", "1", "10", "100"} <= {*re.findall(r"<text[^>]*>([^<]*)</text>", svg)}


def test_times_of_several_devices_share_no_axis_and_are_told_apart_in_a_table():
    points = decoders().assign(device="cpu", device_name="EPYC")
    assert figure_data(points, card("fid-cost"), "kodak").curves
    points.loc[points.codec == "hfd", "device_name"] = "H100"
    with pytest.raises(Unavailable, match=r"times of kodak are of several devices \(EPYC, H100\)"):
        figure_data(points, card("fid-cost"), "kodak")
    assert figure_data(points, card("fid-evaluations"), "kodak").curves
    printed = tables.render_points(points, columns=["codec", "decode_s_per_mpx"])
    assert "EPYC" in printed and "H100" in printed and "several devices" in printed
    assert "EPYC" not in tables.render_points(points, columns=["codec", "fid"])
    older = points.assign(device_name=[None if codec == "hfd" else "EPYC" for codec in points.codec])
    assert figure_data(older, card("fid-cost"), "kodak").curves


@pytest.mark.parametrize("bytes_, message", [(None, "no points yet"), (b"PAR1 torn", "damaged .*sets it aside")])
def test_report_of_an_empty_or_damaged_folder_is_refused(bytes_, message, tmp_path):
    if bytes_:
        (tmp_path / "points").mkdir()
        (tmp_path / "points" / "torn.parquet").write_bytes(bytes_)
    result = CliRunner().invoke(
        app, ["report", "--published", "--out", str(tmp_path), "--to", str(tmp_path / "figures")]
    )
    assert isinstance(result.exception, UsageError) and re.search(message, str(result.exception))
    assert not (tmp_path / "figures").exists()


def test_a_known_metric_that_was_not_computed_is_unavailable_not_unknown():
    with pytest.raises(
        Unavailable, match=r"no point of kodak has both network_evaluations and fid \(.*: no network_evaluations\)"
    ):
        figure_data(table(), card("fid-evaluations"), "kodak")


def test_fd_mini_has_a_fingerprint_of_its_own():
    points = table().assign(fd_mini=lambda t: t["fid"] * 3, fd_mini_id="mini-1", fid_id=None)
    data = figure_data(points, card("rate-fd-mini"), "kodak")
    assert "fingerprint mini-1" in data.facts and not any("Inception" in text for text in (data.y.title, *data.facts))
    points.loc[points["codec"] == "jpeg", "fd_mini_id"] = "mini-2"
    with pytest.raises(UsageError, match=r"mini-1: .*mini-2: jpeg"):
        figure_data(points, card("rate-fd-mini"), "kodak")
    with pytest.raises(Unavailable, match="scored without it; hfdbench score"):
        figure_data(points.assign(fd_mini=None), card("rate-fd-mini"), "kodak")


def test_bands_are_those_given_and_drawn_in_the_codecs_colour(tmp_path):
    def intervals(points, column):
        assert column in ("fid", "kid")
        bounds = pd.DataFrame({"lo": points[column] * 0.8, "hi": points[column] * 1.25})
        bounds.loc[points["codec"] == "webp"] = np.nan
        return bounds

    data = figure_data(table(), card(), "kodak", intervals=intervals)
    assert curve(data, "hfd").band == ((pytest.approx(27.2), 42.5), (pytest.approx(11.2), 17.5))
    assert curve(data, "webp").band == (None, None)
    options = figures.Options(formats=["svg"], intervals=intervals)
    svg, *captions = (
        path.read_text(encoding="utf-8") for path in figures.draw(table(), card(), tmp_path, options).files
    )
    assert (
        svg.count("FillBetweenPolyCollection") == 6 and svg.count("LineCollection") == 2
    )  # FID and KID; hific has one point
    assert all("95" in text and "bootstrap over images" in text for text in captions)


@pytest.mark.parametrize("low", [0.0, -3.0, 1e-5])
def test_an_interval_that_reaches_zero_does_not_stretch_a_logarithmic_axis(low):
    def intervals(points, column):
        return pd.DataFrame({"lo": low, "hi": points[column] * 1.25})

    data = figure_data(table(), card().model_copy(update={"y_range": None}), "kodak", intervals=intervals)
    assert data.y.log and data.y.range is None
    drawn = curves_figure([data], inks(table()), "column", "", {})
    bottom, top = drawn.axes[0].get_ylim()
    marks = [value for c in data.curves for value in c.y]
    assert min(marks) / 2.5 < bottom < min(marks) and max(marks) < top < max(marks) * 2.5


def test_intervals_come_from_the_store_and_only_where_they_take_seconds(tmp_path):
    points = table()
    assert stored_intervals(tmp_path)(points, "fid")["lo"].isna().all(), "nothing is stored there"
    assert stored_intervals(tmp_path)(points, "decode_s")["lo"].isna().all(), "no bootstrap of times"


def test_published_marks_are_hollow_and_joined_by_nothing(tmp_path):
    over = dict(published=published.read(), systems=["HiFiC", "ELIC"])
    points = table().assign(ms_ssim=lambda t: 1 - 1.2 / t["psnr_db"])
    drawn = figures.draw(points, card("rate-psnr"), tmp_path, figures.Options(formats=["svg"], **over))
    svg = drawn.files[0].read_text(encoding="utf-8")
    group = re.search(r'<g id="published-HiFiC">(.*?)</g>\s*</g>', svg, re.S).group(1)
    assert group.count("<use ") == 3 and "stroke-dasharray" not in group
    assert "fill: #ffffff; stroke: #4a4a4a" in svg
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"HiFiC", "ELIC", "ELIC small"} <= {*texts} and "VTM" not in texts
    drawn = figures.draw(points, card("rate-fid"), tmp_path, figures.Options(formats=["svg"], **over))
    assert len(drawn.not_overlaid) == 1 and "published-" not in drawn.files[0].read_text(encoding="utf-8")


def test_ms_ssim_is_drawn_on_an_axis_that_ends_at_one(tmp_path):
    points = table().assign(ms_ssim=lambda t: 1 - 10 ** -((t["psnr_db"] - 18) / 10))
    svg = figures.draw(points, card("rate-ms-ssim"), tmp_path, SVG).files[0].read_text(encoding="utf-8")
    ticks = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if re.fullmatch(r"0\.\d+", text)]
    assert {"0.8", "0.9", "0.95"} <= {*ticks} and "0.85" not in ticks


def test_width_of_the_page_can_be_asked_for(tmp_path):
    options = figures.Options(formats=["png"], width="full")
    for name, points in (("rate-fid", table()), ("realism-distortion", decoders())):
        picture = Image.open(figures.draw(points, card(name), tmp_path, options).files[0])
        assert picture.width == round(6.9 * 300)
    with pytest.raises(UsageError, match='no width "ful"; did you mean "full"'):
        figures.draw(table(), card(), tmp_path, figures.Options(width="ful"))


def test_latex_captions_are_escaped_and_name_the_figure(tmp_path):
    text = figures.draw(table(), card(note="50 % & more_less"), tmp_path, SVG).files[-1].read_text(encoding="utf-8")
    assert text.startswith(
        "% \\includegraphics{rate-fid-kodak.pdf}\n\\caption{%\n  \\textbf{Rate against realism on kodak.} 50 \\% "
    )
    assert r"\& more\_less" in text and r"256$\times$256" in text and "kodak-ab12cd34" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


LEDGERED = """
class Parts:
    def __init__(self, short=False):
        self.short = short

    def encode(self, image): ...
    def decode(self, stream, *, seed): ...

    def ledger(self, stream):
        return {"header": 4, "hyper-latents": 10, "latents": len(stream) - 14 - self.short}
"""


@pytest.fixture
def ledgered(tmp_path):
    """Codec cards and stored streams: "parts" tells what its streams consist of, "user" decodes them, jpeg does neither."""
    (tmp_path / "codecs").mkdir()
    (tmp_path / "ledgered_codec.py").write_text(LEDGERED)
    heads = {"parts": 'kind = "autoencoder"', "user": 'kind = "diffusion"\nstreams = "parts"'}
    for codec, head in heads.items():
        (tmp_path / "codecs" / f"{codec}.toml").write_text(
            f'id = "{codec}"\nadapter = "ledgered_codec:Parts"\n{head}\n'
            '[[points]]\nid = "q1"\n[[points]]\nid = "q2"\n[[points]]\nid = "bad"\noptions = { short = true }\n'
        )
    rows = []
    for codec, point, length in (("parts", "q1", 20), ("parts", "q2", 50), ("user", "q1", 20), ("jpeg", "q4", 9)):
        row = table().iloc[0].to_dict() | dict(codec=codec, title=codec.title(), point=point, images=2, pixels=1000)
        rows.append(row | dict(bytes=2 * length, bpp=16 * length / 1000, kind="autoencoder"))
    for key, (point, length) in enumerate((("q1", 20), ("q2", 50), ("q2", 51)), 10):
        image = dict(image=0, name="a", width=10, height=10, bytes=length, encode_s=0.1, status="ok", error=None)
        streams = pa.Table.from_pylist([image | dict(stream=b"s" * length)] * 2, schema=schema.STREAMS)
        parquet.write_table(tmp_path / "streams" / f"parts-{point}-kodak-{key:016x}.parquet", streams, {})
    return pd.DataFrame(rows), figures.Options(
        formats=["svg"], known=find_cards(CodecCard, [tmp_path]), results=tmp_path
    )


def test_ledger_shows_what_the_codec_tells_of_its_stored_streams(ledgered, tmp_path):
    points, options = ledgered
    data = ledger_data(points, card("ledger"), "kodak", "Kodak", options.known, tmp_path)
    assert [(bar.codec, bar.point) for bar in data.bars] == [("parts", "q1"), ("parts", "q2")]
    assert data.parts == ("header", "hyper-latents", "latents") and data.facts[0] == "2 images"
    for bar, bytes_ in zip(data.bars, (40, 100), strict=True):
        assert bar.bpp == pytest.approx(8 * bytes_ / 1000)
        assert bar.parts == pytest.approx({"header": 0.064, "hyper-latents": 0.16, "latents": 8 * (bytes_ - 28) / 1000})
    svg = figures.draw(points, card("ledger"), tmp_path / "drawn", options).files[0].read_text(encoding="utf-8")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"header", "hyper-latents", "latents", " Parts"} <= {*texts}
    assert any("20 / 50 / 30" in text for text in texts) and any("8.0 / 20 / 72" in text for text in texts)


def test_a_ledger_that_does_not_add_up_or_has_no_streams_is_refused(ledgered, tmp_path):
    points, options = ledgered
    (tmp_path / "streams" / f"parts-q1-kodak-{10:016x}.parquet").rename(
        tmp_path / "streams" / f"parts-bad-kodak-{10:016x}.parquet"
    )
    with pytest.raises(UsageError, match=r"parts bad: ledger\(\) accounts for 19 of 20 bytes; fix the codec"):
        ledger_data(points.replace("q1", "bad"), card("ledger"), "kodak", "Kodak", options.known, tmp_path)
    data = ledger_data(points, card("ledger"), "kodak", "Kodak", options.known, tmp_path)
    assert [bar.point for bar in data.bars] == ["q2"] and data.notes == ("parts q1: its streams are not stored",)
    with pytest.raises(Unavailable, match="no codec measured there tells the parts"):
        figures.draw(points[points["codec"] != "parts"], card("ledger"), tmp_path, options)


def overlaps(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 0 and min(a[3], b[3]) - max(a[1], b[1]) > 0


def test_free_labels_avoid_marks_each_other_and_the_edge():
    rng = np.random.default_rng(3)
    marks = rng.uniform(20, 480, (40, 2))
    anchors = [[tuple(mark) for mark in marks[4 * i : 4 * i + 4]] for i in range(10)]
    room = (0, 0, 500, 500)
    placed = layout.place([(60, 12)] * 10, anchors, marks, room, 4)
    boxes = [box for box, _ in placed]
    assert not any(overlaps(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 500 and box[3] <= 500 for box in boxes)
    assert not any((box[0] < x < box[2]) and (box[1] < y < box[3]) for box in boxes for x, y in marks)
    assert all(anchor in own for (_, anchor), own in zip(placed, anchors, strict=True))
    assert placed == layout.place([(60, 12)] * 10, anchors, marks, room, 4)


def test_labels_of_a_crowded_plane_do_not_overlap():
    points = decoders()
    over = published.choose(published.read(), ["HiFiC", "MS-ILLM", "MRIC", "DIRAC", "HFD"])
    points = points.assign(dataset="clic", fid_label="FID", fid=points["fid"] / 4, psnr_db=points["psnr_db"] + 3)
    data = figure_data(points, card("realism-distortion"), "clic", published=over)
    assert len(data.overlays) > 5
    with figures.rc_context(figures.RC):
        figure = figures.curves_figure(
            [data], figures.inks(points), "column", "hfdbench", figures.hollow_marks(over["system"])
        )
        renderer = FigureCanvasAgg(figure).get_renderer()
        labels = [text for text in figure.texts if (text.get_gid() or "").startswith("label-")]
        boxes = [text.get_window_extent(renderer).extents for text in labels]
    assert len(boxes) == len(data.overlays) + len(data.curves) + len(data.ties)
    assert not any(overlaps(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box[0] >= 0 and box[2] <= figure.bbox.x1 for box in boxes)


def test_no_label_of_a_published_curve_lies_on_the_hair_line_of_a_codec():
    points, over = Results(bundled_root() / "results" / "golden" / "kodak").points(), published.read()
    points = points[
        ~points["codec"].str.contains("-jpeg|-avif|-grain|jpeg-|avif-")
    ]  # 13 codecs: there is no room for 20
    data = figure_data(points, card("rate-psnr"), "kodak", published=over)
    with figures.rc_context(figures.RC):
        marks = figures.hollow_marks(over["system"])
        figure = figures.curves_figure([data], figures.inks(points), "column", "hfdbench", marks)
        renderer, axes = FigureCanvasAgg(figure).get_renderer(), figure.axes[0]
        labels = [text for text in figure.texts if (text.get_gid() or "").startswith("label-")]
        boxes = {text.get_text(): text.get_window_extent(renderer).extents for text in labels}
        ends = [line.get_transform().transform(np.column_stack(line.get_data(orig=False))) for line in axes.lines]
        hairs = [end for line, end in zip(axes.lines, ends, strict=True) if line.get_transform() is axes.transAxes]
    assert "HM" in boxes and len(hairs) >= 13
    for start, *_, end in hairs:
        x, y = (start + np.linspace(0, 1, 200)[:, None] * (end - start)).T
        for name, (left, bottom, right, top) in boxes.items():
            assert not ((left < x) & (x < right) & (bottom < y) & (y < top)).any(), f"a hair-line crosses {name}"


def test_labels_of_many_codecs_do_not_overlap():
    points = pd.concat(
        [table().query("codec == 'jpeg'").assign(codec=f"codec-{i:02}", title=f"Codec {i:02}") for i in range(24)]
    )
    data = figure_data(points, card(), "kodak")
    with figures.rc_context(figures.RC):
        figure = figures.curves_figure([data], figures.inks(points), "column", "hfdbench", {})
        renderer = FigureCanvasAgg(figure).get_renderer()
        labels = [text for text in figure.axes[0].texts if (text.get_gid() or "").startswith("label-")]
        boxes = sorted((text.get_window_extent(renderer) for text in labels), key=lambda box: box.y0)
    assert len(boxes) == 24
    # Extents include the line's leading; letters themselves are at most 85 % of it.
    assert all(above.y0 - below.y0 > 0.85 * below.height for below, above in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


@pytest.mark.parametrize(
    "wanted, placed",
    [
        ([0.5], [0.5]),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.1, 0.5, 0.5], [0.4, 0.1, 0.5, 0.6]),
        ([1.0, 1.0], [0.9, 1.0]),
        ([0.0, -5.0], [0.1, 0.0]),
    ],
)
def test_spread_moves_labels_apart_as_little_as_can_be(wanted, placed):
    assert layout.spread(wanted, 0.1, 0, 1) == pytest.approx(placed)


def test_spread_keeps_gap_and_bounds_for_any_input():
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 11, 40):
        placed = np.sort(layout.spread(list(rng.normal(0.8, 0.3, count)), 0.1, 0, 1))
        assert placed[0] >= -1e-12 and placed[-1] <= 1 + 1e-12
        assert count == 1 or np.diff(placed).min() >= min(0.1, 1 / (count - 1)) - 1e-12


def test_a_codec_keeps_its_colour_when_others_are_measured():
    known = {"avif": "classical", "jpeg": "classical", "webp": "classical", "hfd": "diffusion", "zhfd": "diffusion"}
    few, more = (figures.inks(table().query(which), known) for which in ("codec == 'webp'", "codec != 'hific'"))
    assert few["webp"] == more["webp"]
    assert len({ink.colour for ink in more.values()}) == len(more)
    many = pd.DataFrame({"codec": [f"c{i:02}" for i in range(30)], "kind": "classical"})
    assert len({(ink.colour, ink.marker) for ink in figures.inks(many).values()}) == 30


def test_a_card_that_nobody_tried_recolours_no_other():
    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import CodecCard
    from hfdbench.report.style import kinds_of

    cards = list(find_cards(CodecCard, ()).values())
    untried = cards[0].model_copy(update={"id": "a", "kind": "diffusion", "untried": "its weights could not be had"})
    points = table().assign(codec="hfd", kind="diffusion")
    ink = figures.inks(points, kinds_of(cards))["hfd"]
    assert figures.inks(points, kinds_of([untried, *cards]))["hfd"] == ink
    assert figures.inks(points, kinds_of([untried.model_copy(update={"untried": ""}), *cards]))["hfd"] != ink


def printed():
    points = table().head(3)
    points["fid"] = [118.123456, float("nan"), None]
    points["fd_mini"] = [1.5, 0.25, None]
    points["note"] = ["", "a|b_50% & {c}", "x, y"]
    return points


def test_metrics_on_request_are_shown_where_a_point_has_them():
    points = printed().assign(lpips=[None] * 3, dists=[None, 0.1, None])
    assert tables.shown_columns(points) == [*tables.POINT_COLUMNS[:7], "dists", *tables.POINT_COLUMNS[7:]]


def test_terminal_table_is_aligned_and_rounded():
    lines = tables.render(printed(), columns=[*tables.POINT_COLUMNS, "note"]).splitlines()
    assert lines[0].split() == [*tables.POINT_COLUMNS, "note"]
    assert " ".join(lines[2].split()) == "jpeg q1 kodak 24 0.8500 31.90 0.9500 118.12 0.00600 1.500 0.0346 12.3 -"
    assert lines[3].split()[7] == "-"
    ends = [re.search(r"\bkodak\s+24\b", line).end() for line in lines[2:]]
    assert set(ends) == {lines[0].index("images") + len("images")}


def test_json_and_csv_read_back_exactly():
    columns = [*tables.POINT_COLUMNS, "note"]
    records = json.loads(tables.render(printed(), "json", columns))
    assert [record["fid"] for record in records] == [118.123456, None, None]
    assert records[0]["encode_s"] == 0.0345678 and records[0]["images"] == 24 and list(records[0]) == columns
    rows = list(csv.DictReader(io.StringIO(tables.render(printed(), "csv", columns))))
    assert [row["fid"] for row in rows] == ["118.123456", "", ""]
    assert [row["note"] for row in rows] == ["", "a|b_50% & {c}", "x, y"]
    assert float(rows[0]["bpp"]) == 0.85


def test_markdown_and_latex_escape_what_would_break_them():
    markdown = tables.render(printed(), "markdown", ["codec", "bpp", "note"]).splitlines()
    assert markdown[1] == "| --- | ---: | --- |" and markdown[3] == r"| jpeg | 0.2200 | a\|b_50% & {c} |"
    latex = tables.render(printed(), "latex", ["codec", "psnr_db", "note"])
    assert r"\begin{tabular}{lrl}" in latex and r"psnr\_db" in latex and r"\toprule" in latex
    assert r"jpeg & 24.60 & a\textbar{}b\_50\% \& \{c\} \\" in latex


def at_one_rate():
    return pd.DataFrame(
        [
            dict(codec="a", point="1", dataset="kodak", bpp=0.100, psnr_db=30.0, fid=9.0, fid_id="i", decode_s=1.0),
            dict(codec="b", point="1", dataset="kodak", bpp=0.104, psnr_db=29.0, fid=4.0, fid_id="i", decode_s=2.0),
            dict(codec="a", point="2", dataset="kodak", bpp=0.106, psnr_db=31.0, fid=8.0, fid_id="i", decode_s=1.0),
            dict(codec="c", point="1", dataset="kodak", bpp=0.200, psnr_db=33.001, fid=3.0, fid_id="i", decode_s=1.0),
            dict(codec="b", point="2", dataset="kodak", bpp=0.200, psnr_db=33.002, fid=2.0, fid_id="j", decode_s=3.0),
        ]
    )


def test_the_best_value_at_each_rate_is_bold():
    columns = ["codec", "point", "bpp", "psnr_db", "fid", "decode_s"]
    lines = tables.render_points(at_one_rate(), "markdown", columns).splitlines()
    assert lines[2:7] == [
        "| a | 1 | 0.1000 | **30.00** | 9.00 | 1.00 |",
        "| b | 1 | 0.1040 | 29.00 | **4.00** | 2.00 |",
        "| a | 2 | 0.1060 | 31.00 | 8.00 | 1.00 |",  # 6 % above the lowest: another rate, and alone there
        "| b | 2 | 0.2000 | **33.00** | 2.00 | 3.00 |",  # equal as printed; of two fingerprints no FID is best
        "| c | 1 | 0.2000 | **33.00** | 3.00 | 1.00 |",
    ]
    assert "within 5 %" in lines[-1]
    latex = tables.render_points(at_one_rate(), "latex", columns)
    assert r"a & 1 & 0.1000 & \textbf{30.00} & 9.00 & 1.00 \\" in latex and latex.count(r"\addlinespace") == 2
    assert "**" not in tables.render_points(at_one_rate(), "table", columns)


def test_a_point_that_lacks_images_is_marked_and_never_bold():
    points = at_one_rate().assign(status="ok", note="")
    points.loc[0, ["status", "note"]] = ["partial", "2 of 4 images failed"]  # a's psnr_db would be the best of its rate
    columns = ["codec", "point", "bpp", "psnr_db"]
    forms = {form: tables.render_points(points, form, columns) for form in tables.FORMATS}
    note = "a 1 on kodak: partial (2 of 4 images failed); not comparable."
    assert (
        "| a | 1† | 0.1000 | 30.00 |" in forms["markdown"] and "| b | 1 | 0.1040 | **29.00** |" not in forms["markdown"]
    )
    assert f"† {note}" in forms["markdown"] and f"† {note}" in forms["table"] and "1†" in forms["table"]
    assert r"a & 1\textsuperscript{\textdagger} & 0.1000 & 30.00 \\" in forms["latex"] and note in forms["latex"]
    assert [row["status"] for row in json.loads(forms["json"])] == ["partial", "ok", "ok", "ok", "ok"]
    assert forms["csv"].splitlines()[:2] == ["codec,point,bpp,psnr_db,status", "a,1,0.1,30.0,partial"]
    whole = tables.render_points(points.assign(status="ok"), "csv", columns)
    assert whole.splitlines()[0] == ",".join(columns), "nothing is added where there is nothing to say"


def test_few_patches_and_other_weights_are_named_in_every_form():
    columns = ["codec", "point", "fid", "kid"]
    for form in ("table", "markdown", "latex"):
        shown = tables.render_points(table(), form, columns)
        assert "FID, KID: by refitted Inception" in shown and "FID over 192 patches (fewer than 2,048)" in shown, form
    for form in ("json", "csv"):
        shown = tables.render_points(table(), form, columns)
        assert "FID (refitted Inception)" in shown and "192" in shown, form
    published_weights = table(patches=28650, label="FID")
    assert "patches" not in tables.render_points(published_weights, "table", columns)
    assert tables.render_points(published_weights, "csv", columns).splitlines()[0] == ",".join(columns)
    assert "patches" not in tables.render_points(table(), "table", ["codec", "psnr_db"])


def test_intervals_stand_beside_their_values_and_read_back():
    def intervals(points, column):
        known = column in ("psnr_db", "fid")
        return pd.DataFrame({"lo": points[column] - 1, "hi": points[column] + 2}) * (1 if known else np.nan)

    columns = ["codec", "point", "psnr_db", "fid", "decode_s"]
    shuffled = at_one_rate().iloc[::-1]
    text = tables.render_points(shuffled, "table", columns, intervals)
    assert "30.00 [29.00, 32.00]  9.00 [8.00, 11.00]      1.00" in text
    assert "**30.00** [29.00, 32.00]" in tables.render_points(shuffled, "markdown", columns, intervals)
    assert r"\textbf{4.00} {\scriptsize [3.00, 6.00]}" in tables.render_points(shuffled, "latex", columns, intervals)
    records = json.loads(tables.render_points(shuffled, "json", columns, intervals))
    assert list(records[0]) == [
        "codec",
        "point",
        "psnr_db",
        "psnr_db_lo",
        "psnr_db_hi",
        "fid",
        "fid_lo",
        "fid_hi",
        "decode_s",
    ]
    assert records[-1]["fid_lo"] == 8.0 and records[-1]["codec"] == "a"


def test_unknown_format_or_column_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match='did you mean "markdown"'):
        tables.render(table(), "markdwn")
    with pytest.raises(UsageError, match='did you mean "psnr_db"'):
        tables.render(table(), columns=["psnr_bd"])
    with pytest.raises(UsageError, match="figure format"):
        figures.draw(table(), card(), options=figures.Options(formats=["gif"]))


def test_an_empty_table_prints_its_head():
    assert tables.render(table().head(0), columns=["codec", "bpp"]).splitlines()[0].split() == ["codec", "bpp"]
    assert json.loads(tables.render(table().head(0), "json")) == []


def test_tables_and_curves_import_neither_matplotlib_nor_torch():
    code = (
        "import sys, hfdbench.report.tables, hfdbench.analysis.curves; print({'matplotlib', 'torch'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_tables_say_where_points_were_decoded_when_it_matters():
    points = table()[["codec", "point", "dataset", "bpp", "status", "device"]].assign(
        seal="sandbox", processor="x86_64 avx2"
    )
    points["tolerance"] = points["codec"].map({"hfd": 1}).fillna(0)
    columns = ["codec", "point", "bpp"]
    assert "\n\n" not in tables.render_points(points, "table", columns)
    points.loc[points["codec"] == "jpeg", ["seal", "processor"]] = ["process", "aarch64 asimd"]  # exact everywhere
    said = tables.render_points(points, "table", columns).split("\n\n")[1]
    assert said == "Decoded without a sandbox (seal: process): jpeg.\n"
    points.loc[points[points["codec"] == "hfd"].index[0], "processor"] = "x86_64 avx512f"
    said = tables.render_points(points, "table", columns)
    assert (
        "Decoded on x86_64 avx2 and on x86_64 avx512f: between them the pixels of learned codecs may differ by 1 grey level."
        in said
    )
    row = json.loads(tables.render_points(points, "json", columns))[0]
    assert row.keys() == {*columns, "seal", "processor", "tolerance"}
