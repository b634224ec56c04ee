"""The page: what stands in the file, and what it does in a real browser."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers_metrics import random_weights
from helpers_page import Visit, browser
from helpers_results import edited, write_codec
from PIL import Image
from typer.testing import CliRunner

from hfdbench.analysis.decoded import worth_showing
from hfdbench.analysis.intervals import intervals
from hfdbench.analysis.seeds import mean_of_seeds
from hfdbench.cards.find import choose, find_cards
from hfdbench.cards.schema import CodecCard, FigureCard
from hfdbench.cli.app import app
from hfdbench.errors import UsageError
from hfdbench.metrics.distribution.frechet import Moments, frechet_distance
from hfdbench.metrics.distribution.influence import pull
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.report.page.page import Choice, write_page
from hfdbench.results import parquet
from hfdbench.results.stored import Results

pytest.importorskip("plotly", reason="plotly is not installed (pip install 'hfdbench[page]')")
FIGURES = tuple(find_cards(FigureCard).values())
IMAGES = 2


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Two samples, two codecs, three points each, features of an Inception of random weights."""
    out = tmp_path_factory.mktemp("results")
    weights = random_weights(out / "random.pth")
    request = Request(codecs=(), datasets=("samples",), out=out, limit=IMAGES, inception=weights)
    for codec, points in (("jpeg", ("q8", "q25", "q65")), ("webp", ("q5", "q20", "q65"))):
        summary = run(replace(request, codecs=tuple(choose(CodecCard, [codec])), points=points))
        assert summary.exit_code == 0
    return out


@pytest.fixture(scope="module")
def running():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> Path:
    written = write_page(results, tmp_path_factory.mktemp("page"), FIGURES, Choice(quality=70))
    assert not written.notes
    assert written.bytes == written.path.stat().st_size
    return written.path


def document(path: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)[1])


def elements(path: Path) -> dict[str, str]:
    found = re.findall(r'<script type="text/plain" id="(p-[^"]+)">([^<]*)</script>', path.read_text(encoding="utf-8"))
    return dict(found)


# ---- the pull of a patch


def leave_one_out(reference: np.ndarray, test: np.ndarray) -> np.ndarray:
    def distance(kept):
        return frechet_distance(Moments.of(reference[kept]), Moments.of(test[kept]))

    everyone = np.arange(len(reference))
    return np.array([distance(everyone) - distance(np.delete(everyone, i)) for i in everyone])


def pair(count: int = 300, dimensions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.normal(size=(count, dimensions)) * np.arange(1, dimensions + 1)
    test = 0.8 * reference + random.normal(size=reference.shape) + 0.1
    test[7] += 1  # one patch that the codec spoils
    return reference, test


def test_pull_is_what_leaving_a_patch_out_changes():
    reference, test = pair()
    ours, exact = pull(reference, test), leave_one_out(reference, test)
    assert np.corrcoef(ours, exact)[0, 1] > 0.999
    assert np.abs(ours - exact).max() < 0.05 * np.abs(exact).max()
    assert ours.argmax() == exact.argmax()


def test_pull_with_more_dimensions_than_patches_is_the_same():
    reference, test = pair()
    wide = [np.pad(features, ((0, 0), (0, 400))) for features in (reference, test)]
    assert np.allclose(pull(*wide), pull(reference, test), atol=1e-10)


def test_pull_of_what_is_no_pair_is_refused():
    reference, test = pair()
    with pytest.raises(ValueError, match="pairs of at least 3"):
        pull(reference, test[:-1])


# ---- which pictures


def test_points_at_equal_rates_come_first():
    rates = {"a": [0.1, 0.25, 0.5, 0.8], "b": [0.05, 0.21, 0.9]}
    order = worth_showing(rates)
    assert order[:2] == [("a", 1), ("b", 1)]  # nearest to the middle of what both reach
    assert sorted(order) == sorted((codec, i) for codec, values in rates.items() for i in range(len(values)))
    assert worth_showing(rates, limit=1) == [("a", 1), ("b", 1)]
    assert worth_showing({}) == []


# ---- the file


def test_file_is_whole_and_asks_for_nothing(page):
    text = page.read_text(encoding="utf-8")
    outside_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "default-src 'none'" in outside_scripts
    assert "://" not in outside_scripts
    assert not re.search(r"<script[^>]+src=", text)
    assert not re.search(r"\s(src|href)=\"(?!#|data:)", outside_scripts)


def test_pictures_are_those_that_were_decoded(page):
    data, shown = document(page), elements(page)
    (section,) = data["datasets"]
    assert section["title"] == "Samples, first 2 images" and "CC BY" in section["licence"]
    assert section["pictures"] == IMAGES and all(
        point["pictures"] and not point["differs"] for point in section["points"]
    )
    assert len(shown) == IMAGES * (1 + len(section["points"]))
    for name, text in shown.items():
        picture = Image.open(io.BytesIO(base64.b64decode(text)))
        image = section["images"][int(name.rpartition("-")[2])]
        assert picture.format == "WEBP" and picture.size == (image["width"], image["height"])


def test_every_number_tells_where_it_comes_from(page, results):
    data = document(page)
    for point in data["datasets"][0]["points"]:
        assert (results / "points" / f"{point['name']}.parquet").exists()
        assert (
            point["keys"]["trial_key"] in point["name"]
            and point["options"]["options"]["quality" if "q" in point["point"] else "x"]
        )
        assert data["environments"][point["environment"]]["versions"]["hfdbench"]
        assert point["values"].keys() <= data["metrics"].keys()
        assert len(point["pull"]) == len(data["datasets"][0]["patches"]["image"]) == point["values"]["fid_patches"]
    missing = [column for column, metric in data["metrics"].items() if not metric["meaning"]]
    assert not missing, f"results/README.md says nothing of {missing}"
    colours = [codec["colour"] for codec in data["codecs"].values()]
    assert len(set(colours)) == len(colours)


def test_file_stays_under_its_limit_and_says_what_it_left_out(results, page, tmp_path):
    limit = page.stat().st_size / 1e6 - 0.1
    written = write_page(results, tmp_path, FIGURES, Choice(quality=70, max_mb=limit, intervals=False))
    assert written.bytes < limit * 1e6
    assert "points without pictures" in written.notes[0]
    points = document(written.path)["datasets"][0]["points"]
    assert any(point["pictures"] for point in points)
    assert all(point["pictures"] or "limited" in point["reason"] for point in points)


def test_other_pixels_and_damaged_streams_are_named(results, tmp_path):
    out = tmp_path / "results"
    shutil.copytree(results, out, ignore=shutil.ignore_patterns("cache"))
    for stem, folder, column, change in (
        ("jpeg-q8", "images", "pixels_sha256", lambda value: "0" * 64),
        ("webp-q5", "streams", "stream", lambda value: value[:-9]),
    ):
        (path,) = (out / folder).glob(f"{stem}-*.parquet")
        table, metadata = parquet.read_table(path), parquet.read_metadata(path)
        rows = [row | {column: change(row[column])} for row in table.to_pylist()]
        parquet.write_table(path, pa.Table.from_pylist(rows, table.schema.remove_metadata()), metadata)
    written = write_page(out, tmp_path / "page", FIGURES, Choice(images=1, intervals=False))
    points = {f"{p['codec']}-{p['point']}": p for p in document(written.path)["datasets"][0]["points"]}
    assert points["jpeg-q8"]["differs"] == 1 and points["jpeg-q8"]["pictures"]
    assert "truncated" in points["webp-q5"]["reason"] and not points["webp-q5"]["pictures"]
    assert len(written.notes) == 2


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    """A page of a decoder that samples, with three seeds, beside one that does not."""
    out = tmp_path_factory.mktemp("seeds")
    for seed in (2, 0, 1):
        write_codec(out, "sampler", bpps=(0.1, 0.4), sampled=seed)
    write_codec(out, "plain", bpps=(0.1, 0.4))

    def with_cards(rows, meta):
        card = {"points": [{"id": rows.point[0], "options": {}, "weights": {}}]}
        return rows, meta | {"card": card, "point": rows.point[0]}

    edited(out, "points", with_cards)
    return write_page(out, out / "page", FIGURES).path


def test_seeds_of_a_point_are_one_mean_with_its_spread(seeds):
    points = [point for section in document(seeds)["datasets"] for point in section["points"]]
    assert [(point["codec"], len(point["seeds"])) for point in points] == [("plain", 0)] * 2 + [("sampler", 3)] * 2
    stored = Results(seeds.parents[1])
    rows = mean_of_seeds(stored.points()).query("codec == 'sampler'").sort_values("bpp")
    bounds = intervals(stored, rows, "fid")
    for point, (place, row) in zip(points[2:], rows.iterrows(), strict=True):
        own = [seed["values"]["fid"] for seed in point["seeds"]]
        assert point["values"]["fid"] == pytest.approx(np.mean(own)) == pytest.approx(row["fid"])
        assert point["values"]["fid_spread"] == pytest.approx(np.std(own, ddof=1)) and point["values"]["seeds"] == 3
        assert point["intervals"]["fid"] == pytest.approx(list(bounds.loc[place]), rel=1e-5)
    assert {"fid_spread", "seeds"} <= set(document(seeds)["columns"])
    assert "over seeds" in document(seeds)["metrics"]["fid_spread"]["meaning"]


def test_whiskers_reach_over_all_seeds(running, seeds):
    visit = Visit(running, seeds)
    try:
        visit.page.evaluate("Object.assign(state, {x: 'bpp', y: 'fid', xLog: false, yLog: false}); drawChart()")
        trace = visit.page.evaluate(
            """() => {
                const {y, error_y, error_x, customdata} = document.getElementById("chart").data.find((t) => t.name === "sampler");
                return {y, error_y, error_x, own: customdata.map((i) => point(i).seeds.map((seed) => seed.values.fid))};
            }"""
        )
        ends = (trace["error_y"][name] for name in ("array", "arrayminus"))
        for y, up, down, own in zip(trace["y"], *ends, trace["own"], strict=True):
            assert y + up == pytest.approx(max(own)) and y - down == pytest.approx(min(own)) and len(set(own)) == 3
        assert trace["error_y"]["visible"] and not trace["error_x"]["visible"]  # of one stream
        visit.page.evaluate("provenance(set().points.findIndex((p) => p.codec === 'sampler'), 'fid')")
        text = visit.page.locator("#source").inner_text()
        assert "by seed: " in text and "0, 1, 2: numbers are means over them, pictures are of seed 0" in text
        assert not visit.troubles
    finally:
        visit.close()


def test_bad_requests(results, tmp_path):
    with pytest.raises(UsageError, match="--pictures-quality 0"):
        Choice(quality=0)
    with pytest.raises(UsageError, match="no stored point fits"):
        write_page(results, tmp_path, FIGURES, only_codecs=["avif"])
    with pytest.raises(UsageError, match="no points yet"):
        write_page(tmp_path / "empty", tmp_path, FIGURES)


def test_the_verb_writes_it_and_prints_where(results, tmp_path):
    options = [
        "--html",
        "--out",
        str(results),
        "--to",
        str(tmp_path),
        "--pictures",
        "1",
        "--codec",
        "webp",
        "--no-bands",
    ]
    result = CliRunner().invoke(app, ["report", "rate-psnr", *options])
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "index.html")]
    data = document(tmp_path / "index.html")
    assert list(data["codecs"]) == ["webp"] and [figure["id"] for figure in data["figures"]] == ["rate-psnr"]
    assert len(elements(tmp_path / "index.html")) == 1 + 3


# ---- in the browser


@pytest.fixture(scope="module")
def opened(running, page):
    visit = Visit(running, page)
    yield visit
    visit.close()


@pytest.fixture
def visit(opened):
    """The page as if opened anew."""
    opened.page.evaluate(
        """() => {
            Object.assign(state, {mode: "slide", view: "picture", pair: "AB", shown: "A", split: 0.5, zoom: null, match: true});
            document.getElementById("source").close();
            Object.assign(state, {table: "points", allColumns: false, sort: {points: null, images: null}});
            openDataset(0);
        }"""
    )
    yield opened
    assert not opened.troubles
    assert all(url.startswith(("file:", "blob:", "data:")) for url in opened.requests)


def test_a_click_on_a_point_opens_its_images(visit):
    place = visit.page.evaluate(
        """() => {
            const chart = document.getElementById("chart"), box = chart.getBoundingClientRect();
            const trace = chart.data.find((t) => t.customdata && t.name.startsWith("JPEG")), last = trace.customdata.length - 1;
            const {xaxis, yaxis} = chart._fullLayout, x = xaxis.c2p(trace.x[last]), y = yaxis.c2p(trace.y[last]);
            return {x: box.x + xaxis._offset + x, y: box.y + yaxis._offset + y, index: trace.customdata[last]};
        }"""
    )
    assert visit.page.evaluate("state.a") != place["index"]
    visit.page.mouse.click(place["x"], place["y"])
    assert visit.page.evaluate("state.a") == place["index"]
    assert visit.page.locator("#strip button").count() == IMAGES
    assert "q65" in visit.page.locator("#strip-title").inner_text()
    assert visit.page.evaluate("document.activeElement.id") == "viewer-title"
    assert "JPEG" in visit.page.locator("#canvas").get_attribute("aria-label")


def test_the_divider_slides_by_mouse_and_by_key(visit):
    divider = visit.page.locator("#divider")
    divider.scroll_into_view_if_needed()
    before, box = visit.painted(), divider.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    visit.page.mouse.move(x, y)
    visit.page.mouse.down()
    visit.page.mouse.move(x - 200, y, steps=4)
    visit.page.mouse.up()
    moved = int(divider.get_attribute("aria-valuenow"))
    assert moved < 40
    assert visit.painted() != before
    divider.focus()
    visit.page.keyboard.press("ArrowRight")
    assert int(divider.get_attribute("aria-valuenow")) == moved + 2
    visit.page.keyboard.press("Home")
    assert divider.get_attribute("aria-valuenow") == "0"


def test_the_viewer_obeys_keys(visit):
    visit.page.locator("#canvas").focus()
    shown = []
    for key in "123":
        visit.page.keyboard.press(key)
        shown.append(visit.painted())
    assert len(set(shown)) == 3  # original, A, B
    for key, attribute, value in (
        ("e", "view", "difference"),
        ("x", "view", "spectrum"),
        ("d", "mode", "side"),
        ("s", "mode", "slide"),
    ):
        visit.page.keyboard.press(key)
        assert visit.page.evaluate(f"state.{attribute}") == value
        shown.append(visit.painted())
    assert len(set(shown)) == 7
    assert visit.page.locator("#radial .scatterlayer .trace").count() == 3
    visit.page.keyboard.press("p")
    visit.page.keyboard.press("9")
    assert visit.page.evaluate("scale()") == 1
    visit.page.keyboard.press("+")
    assert visit.page.evaluate("scale()") == 2
    centre = visit.page.evaluate("state.cy")
    visit.page.keyboard.press("ArrowDown")
    assert visit.page.evaluate("state.cy") > centre
    visit.page.keyboard.press("0")
    assert not visit.page.evaluate("isZoomed()")
    visit.page.keyboard.press(".")
    assert visit.page.evaluate("state.image") == 1


def test_differences_and_spectra_are_right(visit):
    worst, flat, peak = visit.page.evaluate(
        """async () => {
            const original = await bitmap("o", 0), picture = await bitmap(state.a, 0);
            const same = pixels(difference(original, original, 8)).data;
            const other = pixels(difference(picture, original, 1)).data;
            const made = surface(64, 64), to = made.getContext("2d"), wave = to.createImageData(64, 64);
            for (let i = 0; i < 64 * 64; i++) {
                wave.data.fill(128 + 100 * Math.cos(2 * Math.PI * 8 * (i % 64) / 64), 4 * i, 4 * i + 3);
                wave.data[4 * i + 3] = 255;
            }
            to.putImageData(wave, 0, 0);
            const {frequency, db} = spectrum(made);
            return [other.reduce((most, v, i) => i % 4 < 3 ? Math.max(most, v) : most, 0),
                same.every((v, i) => i % 4 === 3 || v === 0), frequency[db.indexOf(Math.max(...db))]];
        }"""
    )
    assert flat and worst > 10
    assert peak == 8 / 64


def test_points_are_matched_by_rate(visit):
    visit.page.locator("#a-codec").select_option("jpeg")
    points = visit.page.evaluate("set().points.map((p) => [p.codec, p.values.bpp])")
    for index in visit.page.evaluate("pictured('jpeg')"):
        visit.page.locator("#a-point").select_option(str(index))
        chosen = visit.page.evaluate("state.b")
        gaps = {i: abs(np.log(bpp / points[index][1])) for i, (codec, bpp) in enumerate(points) if codec == "webp"}
        assert chosen == min(gaps, key=gaps.get)


def test_the_table_sorts(visit):
    column = visit.page.locator("#table th", has_text="psnr_db")
    number = visit.page.evaluate(
        "[...document.querySelectorAll('#table thead th')].findIndex((h) => h.innerText.includes('psnr_db'))"
    )
    read = f"[...document.querySelectorAll('#table tbody tr')].map((r) => Number(r.children[{number}].innerText))"
    column.locator("button").click()
    assert column.get_attribute("aria-sort") == "descending"  # the better first
    falling = visit.page.evaluate(read)
    assert falling == sorted(falling, reverse=True) and len(falling) == 6
    visit.page.keyboard.press("Enter")  # the heading kept the focus
    assert visit.page.evaluate(read) == sorted(falling)


def test_a_number_opens_its_provenance(visit, results):
    visit.page.locator("#table button.number").first.click()
    text = visit.page.locator("#source").inner_text()
    assert any(path.stem in text for path in (results / "points").glob("*.parquet"))
    assert "libjpeg-turbo" in text and "Total bits / total pixels" in text and "Versions" in text
    visit.page.keyboard.press("Escape")
    assert not visit.page.locator("#source").is_visible()


def test_curves_are_reached_by_keyboard_and_toggled(visit):
    visit.page.locator("#chart-frame").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        visit.page.keyboard.press(key)
    said = visit.page.locator("#live").inner_text()
    assert "rate" in said and "FID" in said
    visit.page.keyboard.press("Enter")
    assert visit.page.evaluate("state.a") == visit.page.evaluate("state.cursor")
    rows = visit.page.locator("#table tbody tr").count()
    visit.page.locator("#chips button").first.click()
    assert visit.page.locator("#table tbody tr").count() == rows / 2
    assert visit.page.evaluate("traced.length") == 1
    for name in visit.page.evaluate("[...document.getElementById('y').options].map((o) => o.value)"):
        visit.page.locator("#y").select_option(name)
    visit.page.locator("#presets button", has_text="PSNR").first.click()
    assert visit.page.evaluate("[state.x, state.y]") == ["bpp", "psnr_db"]


def test_patches_are_ranked_and_open(visit):
    gaps = visit.page.evaluate(
        "set().points[state.a].pull.map((v, i) => v - set().points[state.b].pull[i]).sort((p, q) => q - p)"
    )
    texts = visit.page.locator("#patches .patch .line .facts").all_inner_texts()
    values = [float(text.replace("−", "-")) for text in texts]
    speak_for_b = [value for value in values if value > 0]
    assert np.allclose(speak_for_b, [g for g in gaps if g > 0][: len(speak_for_b)], rtol=0.01)
    visit.page.locator("#patches .patch").first.click()
    visit.page.wait_for_function("isZoomed()")


def test_no_tool_sends_the_chart_away(visit):
    tools = visit.page.locator("#chart .modebar-btn").evaluate_all("(all) => all.map((one) => one.dataset.title)")
    assert tools == ["Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"]


def test_what_a_screen_reader_needs(visit):
    unnamed = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, dialog, canvas[role], [role]")]
            .filter((e) => !["aria-label", "aria-labelledby"].some((a) => e.getAttribute(a)))
            .filter((e) => !e.labels?.length && !e.textContent.trim())
            .map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []
    ids = visit.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    assert (
        visit.page.locator("main").count() == visit.page.locator("h1").count() == visit.page.locator("nav").count() == 1
    )
    broken = visit.page.evaluate(
        """() => ["aria-labelledby", "aria-describedby", "for"].flatMap((a) =>
            [...document.querySelectorAll(`[${a}]`)].map((e) => e.getAttribute(a)).filter((id) => !document.getElementById(id)))"""
    )
    assert broken == []


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "dark"), ("phone", "light")])
def test_dark_and_phone(running, page, size, scheme):
    opened = Visit(running, page, size, scheme)
    try:
        wide = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        shot = np.asarray(Image.open(io.BytesIO(opened.page.screenshot())).convert("L"), float)
        assert (np.median(shot) > 200) == (scheme == "light") and shot.std() > 10
        contrast = opened.page.evaluate(
            """() => Object.keys(D.codecs).map((codec) => {
                const [low, high] = [luminance(inkOf(codec)), luminance(css("--paper"))].sort((p, q) => p - q);
                return (high + 0.05) / (low + 0.05);
            })"""
        )
        assert scheme == "light" or min(contrast) >= 3
        opened.page.locator("#theme").click()
        opened.page.locator("#theme").click()
        assert opened.page.evaluate("isDark()")
        assert not opened.troubles
    finally:
        opened.close()
