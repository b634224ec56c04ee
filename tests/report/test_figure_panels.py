"""Panels below a figure, codecs in focus, arrows at matched rates, and titles of any characters."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from hfdbench.analysis.curves import figure_data
from hfdbench.analysis.matched import at_rates, base_of
from hfdbench.analysis.relative import relative
from hfdbench.cards.find import bundled_root
from hfdbench.cards.schema import CodecCard, FigureCard, read_card
from hfdbench.errors import Unavailable, UsageError
from hfdbench.report import figures, fonts
from hfdbench.report.page.document import SYMBOLS
from hfdbench.report.style import QUIET, STYLES, focused, inks

SVG = figures.Options(formats=["svg"])
POINTS = {  # (point, bpp, bytes, psnr_db, fid, kid)
    "base": [
        ("q1", 0.1, 100, 28.0, 80.0, 0.08),
        ("q2", 0.2, 200, 30.0, 40.0, 0.04),
        ("q3", 0.4, 400, 32.0, 20.0, 0.02),
    ],
    "sampler": [
        ("q1", 0.1, 100, 26.0, 40.0, 0.05),
        ("q2", 0.2, 200, 28.0, 10.0, 0.01),
        ("q3", 0.4, 400, 30.0, 5.0, 0.0),
    ],
    "classic": [
        ("a", 0.05, 50, 24.0, 160.0, 0.2),
        ("b", 0.205, 205, 29.0, 60.0, 0.06),
        ("c", 0.3, 300, 31.0, 45.0, 0.05),
    ],
}
KINDS = {"base": "autoencoder", "sampler": "diffusion", "classic": "classical"}


def table(patches=192, titles=None, **columns):
    common = dict(dataset="kodak", images=24, failed=0, status="ok", note="", seed=0, device="cpu")
    common |= dict(fid_id="id", fid_label="FID", fid_patches=patches, fid_protocol="fid256")
    names = ("point", "bpp", "bytes", "psnr_db", "fid", "kid")
    rows = [
        common
        | dict(codec=codec, kind=KINDS[codec], title=(titles or {}).get(codec, codec.title()))
        | dict(zip(names, row, strict=True))
        for codec, some in POINTS.items()
        for row in some
    ]
    return pd.DataFrame(rows).assign(**columns)


def card(name="rate-fid", **changes):
    return read_card(bundled_root() / "reports" / f"{name}.toml", FigureCard).model_copy(update=changes)


def cards():
    def made(codec, **more):
        points = [{"id": point} for point, *_ in POINTS[codec]]
        return CodecCard(id=codec, kind=KINDS[codec], adapter="a:B", points=points, **more)

    return {"base": made("base"), "sampler": made("sampler", streams="base"), "classic": made("classic")}


def texts(svg: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text(encoding="utf-8"))


def test_distances_are_held_against_a_reference_as_ratios_and_decibels_as_differences():
    data = relative(figure_data(table(), card(), "kodak"), "base")
    by_codec = {curve.codec: curve for curve in data.curves}
    assert by_codec["sampler"].y == pytest.approx((0.5, 0.25, 0.25)) and by_codec["base"].y == (1.0, 1.0, 1.0)
    assert by_codec["classic"].points == ("b", "c") and data.notes == ("classic a: outside base's rates",)
    # log-linear halves: at 0.3 bpp the reference lies between 40 and 20 in the logarithm
    assert 45 / 40 < by_codec["classic"].y[1] < 45 / 20
    assert data.y.title == "FID / Base ↓"
    difference = relative(figure_data(table(), card("rate-psnr"), "kodak"), "base")
    assert {c.codec: c.y for c in difference.curves}["sampler"] == pytest.approx((-2.0, -2.0, -2.0))
    assert difference.y.title == "PSNR − Base (dB) ↑"


def test_a_reference_that_cannot_be_one_is_refused():
    data = figure_data(table(), card(), "kodak")
    with pytest.raises(UsageError, match='no codec in figure "rate-fid" "bas"; did you mean "base"'):
        relative(data, "bas")
    with pytest.raises(UsageError, match='needs x = "bpp"'):
        relative(figure_data(table(), card("realism-distortion"), "kodak"), "base")
    alone = table()[lambda t: (t["codec"] != "base") | (t["point"] == "q1")]
    with pytest.raises(Unavailable, match="base has one point"):
        relative(figure_data(alone, card(), "kodak"), "base")


def test_few_patches_bring_a_warning_and_kid_below(tmp_path):
    (svg, caption, _) = figures.draw(table(), card(), tmp_path, SVG).files
    assert "FID of 192 patches is biased: see KID" in texts(svg) and "KID ↓" in texts(svg)
    assert "Below, over the same rates: KID ↓." in caption.read_text(encoding="utf-8")
    (svg, _, _) = figures.draw(table(patches=28650), card(), tmp_path, SVG).files
    assert not any("biased" in text for text in texts(svg)) and "KID ↓" not in texts(svg)


def test_codecs_out_of_focus_are_grey_and_still_named(tmp_path):
    chosen = focused(inks(table()), ["sampler"])
    assert chosen["sampler"] == inks(table())["sampler"] and chosen["base"].colour == QUIET and chosen["base"].quiet
    options = figures.Options(formats=["svg"], focus=["sampler"], reference="base")
    (svg, _, _) = figures.draw(table(), card(), tmp_path, options).files
    assert {"Base", "Sampler", "Classic", "FID / Base ↓"} <= {*texts(svg)}
    with pytest.raises(UsageError, match='no codec in focus "sampel"; did you mean "sampler"'):
        figures.draw(table(), card(focus=("sampel",)), tmp_path, SVG)


def test_arrows_lead_from_a_base_to_its_decoders_at_matched_rates(tmp_path):
    base, decoders = base_of(table(), cards())
    assert (base, decoders) == ("base", ["sampler"])
    matched, taken = at_rates(table(), base, [])
    assert taken == [0.2] and [*matched["codec"] + matched["point"]] == ["baseq2", "samplerq2", "classicb"]
    options = figures.Options(formats=["svg"], known=cards())
    (svg, caption, _) = figures.draw(table(), card("realism-at-rate"), tmp_path, options).files
    content = svg.read_text(encoding="utf-8")
    assert content.count('id="arrow-sampler"') == 2, "in the panel of FID and in that of KID"
    assert "arrow-classic" not in content and "all at 0.2 bpp, within 5 %" in caption.read_text(encoding="utf-8")
    with pytest.raises(Unavailable, match="no measured codec decodes another's streams"):
        figures.draw(table(), card("realism-at-rate"), tmp_path, SVG)


def test_every_marker_has_its_symbol_on_the_page():
    assert {marker for style in STYLES.values() for marker in style.markers} <= set(SYMBOLS)


def test_pixels_of_others_are_hollow():
    ink = inks(table(badge=np.where(table()["codec"] == "classic", "author's pixels, rate stated", "")))
    assert ink["classic"].hollow and not ink["base"].hollow


@pytest.mark.faults
@pytest.mark.parametrize("title", ["US$5 vs US$7", "$\\frac{", "a_b^c & 50 %", "x\x1b[31m\n\u202ey"])
def test_titles_are_never_mathematics_nor_commands(title, tmp_path):
    options = figures.Options(formats=["svg", "pdf"], dataset_titles={"kodak": title})
    svg = figures.draw(table(titles={"base": title}), card("rate-psnr"), tmp_path, options).files[0]
    shown = [text.replace("&amp;", "&") for text in texts(svg)]
    expected = title if title.isprintable() else "x\\x1b[31m \\u202ey"
    assert shown.count(expected) == 2


@pytest.fixture
def chinese(tmp_path):
    """A font that has 漢 and 字 alone, each a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0)), pen.lineTo((0, 700)), pen.lineTo((700, 700)), pen.lineTo((700, 0)), pen.closePath()
    square = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "a", "b"])
    font.setupCharacterMap({ord("漢"): "a", ord("字"): "b"})
    font.setupGlyf({".notdef": square, "a": square, "b": square})
    font.setupHorizontalMetrics(dict.fromkeys((".notdef", "a", "b"), (800, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Two Characters", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "two.ttf")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "two.ttf")
    yield "Two Characters"
    font_manager.fontManager.ttflist[:] = before


@pytest.mark.faults
def test_titles_in_characters_that_a_font_has_are_set_in_it(chinese, tmp_path):
    assert fonts.families(["漢字"]) == ([*fonts.FIRST, chinese], "")
    options = figures.Options(formats=["svg", "pdf"])
    drawn = figures.draw(table(titles={"base": "漢字"}), card("rate-psnr"), tmp_path, options)
    assert "漢字" in texts(drawn.files[0]) and drawn.warnings == ()


@pytest.mark.faults
def test_titles_that_no_font_has_give_way_to_the_id_with_a_warning(tmp_path):
    drawn = figures.draw(table(titles={"base": "𒀀 cuneiform"}), card("rate-psnr"), tmp_path, SVG)
    (warning,) = drawn.warnings
    assert "𒀀" in warning and "ids stand in" in warning and "base" in texts(drawn.files[0])
