"""The report: curves hold the values of the table, figures what they must, tables read back, refusals name the cure."""

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
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from hfdbench import store
from hfdbench.cards import FigureCard, bundled_root, read_card
from hfdbench.errors import BadRequest, Unavailable
from hfdbench.metrics import METRICS
from hfdbench.report import figures, layout, tables
from hfdbench.report.curves import datasets, figure_data

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
    expected = {"vtm: not measured", "webp q1: failed (no libwebp)", "jpeg q1: no fid", "seeds 1 are not drawn"}
    assert set(data.notes) == expected | {"hfd q2: fid is 0, the axis logarithmic"}
    assert curve(data, "jpeg").points == ("q2", "q3")
    assert curve(data, "webp").points == ("q2",)
    assert curve(data, "hific").y == (27.0,)


def test_points_outside_the_axes_are_counted():
    data = figure_data(table(), card(x_range=(0.12, 0.4), y_range=(10, 100)), "kodak")
    assert data.notes == ("3 of 10 points, outside the axes",)  # jpeg at 0.22 (FID 118) and 0.85, webp at 0.42 bpp
    assert len(curve(data, "jpeg").x) == 3, "lines still run to the edge"


def test_mixed_fingerprints_are_refused_for_fid_and_kid_but_not_for_psnr():
    points = table()
    points.loc[points.codec == "hfd", "fid_id"] = "other-99999999"
    for name in ("rate-fid", "rate-kid"):
        with pytest.raises(BadRequest, match=r"kodak-ab12cd34: .*jpeg.*other-99999999: hfd.*hfdbench score"):
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
    with pytest.raises(BadRequest, match=message) as error:
        figures.draw(table(), card(**changes), tmp_path)
    assert "rate-fid.toml" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_empty_table_says_what_to_run_first():
    with pytest.raises(BadRequest, match="hfdbench run"):
        datasets(pd.DataFrame(), card())


@pytest.mark.parametrize("line", ["x_range = [2, 1]", "y_range = [0, 1]", 'width = "wide"', "colour = 1"])
def test_a_card_with_a_wrong_value_is_refused(line, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(f'id = "bad"\nx = "bpp"\ny = "fid"\ny_log = true\n{line}\n')
    with pytest.raises(BadRequest, match=re.escape(str(path))):
        read_card(path, FigureCard)


def test_without_fid_the_cure_is_named_and_the_other_figures_are_drawn(tmp_path):
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
    assert words.startswith("**Rate against realism on Kodak.**") and "192 patches: FID biased upwards" in words


def test_the_table_as_the_store_keeps_it_gives_the_same_curves(tmp_path):
    frame = table().reindex(columns=store.POINTS.names)
    frame = frame.fillna({name: 0 for name in frame if pa.types.is_integer(store.POINTS.field(name).type)})
    frame.loc[frame.codec == "webp", ["fid", "kid", "fid_id", "fid_label", "fid_patches", "fid_protocol"]] = None
    kept = pa.Table.from_pandas(frame, schema=store.POINTS, preserve_index=False)
    store.write_table(tmp_path / "points" / "one.parquet", kept, {})
    data = figure_data(store.points(tmp_path), card(), "kodak")
    assert data.curves == figure_data(table()[table().codec != "webp"], card(), "kodak").curves
    assert data.notes == ("webp: no fid",)
    assert "192 patches: FID biased upwards, compare only within this figure" in data.facts


def test_each_dataset_has_its_own_figure(tmp_path):
    points = pd.concat([table(), table("clic", 428, 28650, "FID")], ignore_index=True)
    files = figures.draw_all(points, [card()], tmp_path, SVG).files
    assert [path.name for path in files if path.suffix == ".svg"] == ["rate-fid-clic.svg", "rate-fid-kodak.svg"]
    assert "refitted" not in files[0].read_text(encoding="utf-8")


def test_labels_of_many_codecs_do_not_overlap():
    points = pd.concat(
        [table().query("codec == 'jpeg'").assign(codec=f"codec-{i:02}", title=f"Codec {i:02}") for i in range(24)]
    )
    data = figure_data(points, card(), "kodak")
    with figures.rc_context(figures.RC):
        figure = figures._figure(data, figures.inks(points), "column", "hfdbench")
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


def printed():
    points = table().head(3)
    points["fid"] = [118.123456, float("nan"), None]
    points["note"] = ["", "a|b_50% & {c}", "x, y"]
    return points


def test_terminal_table_is_aligned_and_rounded():
    lines = tables.render(printed(), columns=[*tables.POINT_COLUMNS, "note"]).splitlines()
    assert lines[0].split() == [*tables.POINT_COLUMNS, "note"]
    assert " ".join(lines[2].split()) == "jpeg q1 kodak 24 0.8500 31.90 0.9500 118.12 0.00600 0.0346 12.3 -"
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
    assert r"jpeg & 24.60 & a|b\_50\% \& \{c\} \\" in latex


def test_unknown_format_or_column_is_refused_with_the_nearest():
    with pytest.raises(BadRequest, match='did you mean "markdown"'):
        tables.render(table(), "markdwn")
    with pytest.raises(BadRequest, match='did you mean "psnr_db"'):
        tables.render(table(), columns=["psnr_bd"])
    with pytest.raises(BadRequest, match="figure format"):
        figures.draw(table(), card(), options=figures.Options(formats=["gif"]))


def test_an_empty_table_prints_its_head():
    assert tables.render(table().head(0), columns=["codec", "bpp"]).splitlines()[0].split() == ["codec", "bpp"]
    assert json.loads(tables.render(table().head(0), "json")) == []


def test_tables_and_curves_import_neither_matplotlib_nor_torch():
    code = "import sys, hfdbench.report.tables, hfdbench.report.curves; print({'matplotlib', 'torch'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
