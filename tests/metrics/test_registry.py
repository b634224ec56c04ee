"""The table of metrics: what derives from it, rows of other packages, and fingerprints that are never mixed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers_results import NETWORKS as STORED_NETWORKS
from helpers_results import edited, write_codec
from PIL import Image

from hfdbench.analysis import curves, gate, intervals
from hfdbench.analysis.compare import compare_codecs
from hfdbench.cards.find import bundled_root, choose
from hfdbench.cards.schema import FigureCard, GateCard
from hfdbench.errors import UsageError
from hfdbench.metrics import registry
from hfdbench.metrics.distribution import fingerprint
from hfdbench.metrics.registry import METRICS, NETWORKS, Metric, small_sample_note
from hfdbench.report.tables import render_points
from hfdbench.results import columns, parquet, schema
from hfdbench.results.stored import Results

TESTS = Path(__file__).parents[1]
DISTANCES = [metric.column for metric in METRICS.values() if metric.identity]
FRECHET = [metric.column for metric in METRICS.values() if metric.interval == "frechet"]
TWO = [f"fid256-48p-tf1-{12 * digit}-f32-1a2b3c4d" for digit in "ab"]


def test_readme_holds_the_table():
    path = bundled_root() / "results" / "README.md"
    text = path.read_text(encoding="utf-8")
    assert columns.readme_with_table(text) == text, "run python -m hfdbench.results.columns"
    with pytest.raises(ValueError, match="no line"):
        columns.readme_with_table("# Results\n")


def test_every_row_can_be_resolved_and_every_network_has_its_distance():
    for metric in METRICS.values():
        assert metric.meaning and metric.title and (metric.network is None) == (metric.identity is None)
        if metric.compute:
            assert callable(registry.resolve(metric.compute)), metric.column
        assert metric.column in schema.POINTS.names and (metric.identity or metric.column) in schema.POINTS.names
    for network in NETWORKS.values():
        assert callable(registry.resolve(network.build)) and hasattr(registry.resolve(network.weights), "find")
        assert registry.frechet_column(network.name) in METRICS
    assert set(intervals.COLUMNS) <= set(METRICS) and set(FRECHET) <= set(gate.DISTANCES)


def test_small_sample_note_is_about_frechet_distances_of_few_patches():
    assert "FID over 192 patches" in small_sample_note("fid", 192) and "2,048" in small_sample_note("fid", 192)
    assert small_sample_note("fid", 2048) == small_sample_note("fid", None) == ""
    assert "KID" in small_sample_note("fid", 2047) and "fewer than 256" in small_sample_note("fd_mini", 192)
    assert not small_sample_note("kid", 3) and not small_sample_note("psnr_db", 3) and not small_sample_note("title", 3)


# ---- fingerprints


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Two codecs with a value in every distance column, of two fingerprints."""
    out = tmp_path_factory.mktemp("mixed")
    for codec in ("one", "two"):
        write_codec(out, codec, bpps=(0.1, 0.2, 0.4), images=6)

    def with_distances(rows: pd.DataFrame, meta: dict) -> tuple[pd.DataFrame, dict]:
        kept = TWO[rows.loc[0, "codec"] == "two"]
        rows = rows.assign(**{column: 1.0 for column in DISTANCES if rows[column].isna().all()})
        rows = rows.assign(**{METRICS[column].identity: kept for column in DISTANCES}, fid_label="FID")
        key = STORED_NETWORKS["mini"][0]  # features of any network serve
        point = rows.loc[0, "point"]
        meta |= {"card": {"points": [{"id": point, "options": {}, "weights": []}]}, "point": point}
        return rows, meta | {"features": {name: key for name in NETWORKS} | meta["features"]}

    edited(out, "points", with_distances)
    return out


@pytest.mark.parametrize("column", DISTANCES)
def test_two_fingerprints_never_share_an_axis(mixed, column):
    card = FigureCard(id="made", title="Made", x="bpp", y=column)
    with pytest.raises(UsageError, match="2 fingerprints that cannot share an axis"):
        curves.figure_data(Results(mixed).points(), card, "made")


@pytest.mark.parametrize("column", DISTANCES)
def test_two_fingerprints_are_never_compared(mixed, column):
    with pytest.raises(UsageError, match=r"fingerprints differ|no metric that can be compared"):
        compare_codecs(mixed, "one", "two", metrics=[column])
    assert (METRICS[column].interval is None) == (column not in intervals.COLUMNS)


@pytest.mark.parametrize("column", DISTANCES)
def test_two_fingerprints_are_never_gated(mixed, tmp_path, column):
    card = choose(GateCard, ["default"])[0].model_copy(update={"tolerance": {column: 0.5}})
    if column not in gate.GATED:
        with pytest.raises(UsageError, match="no metric that can be gated"):
            gate.check(mixed, mixed, card)
        return
    gate.accept(mixed, tmp_path / "baseline", ["one"])
    assert gate.check(mixed, tmp_path / "baseline", card).exit_code == 0
    for path in (tmp_path / "baseline").iterdir():
        meta = parquet.read_metadata(path)
        meta["distances"][column]["id"] = TWO[1]
        parquet.write_table(path, parquet.read_table(path), meta)
    report = gate.check(mixed, tmp_path / "baseline", card)
    assert report.exit_code == 2 and not report.changes
    assert len(report.refused) == 3 and all("of another kind: weights" in line for line in report.refused)


@pytest.mark.parametrize("column", DISTANCES)
def test_of_two_fingerprints_none_is_best(mixed, column):
    rows = Results(mixed).points().assign(bpp=0.1)
    rows[column] = np.linspace(1, 2, len(rows))
    printed = render_points(rows, "markdown", ["codec", "point", column])
    assert "**" not in printed.replace("Bold", "")
    same = render_points(rows.assign(**{METRICS[column].identity: TWO[0]}), "markdown", ["codec", "point", column])
    assert "**" in same


def test_the_page_tells_fingerprints_apart(mixed, tmp_path):
    page = pytest.importorskip("hfdbench.report.page.page")
    pytest.importorskip("plotly")
    written = page.write_page(mixed, tmp_path, [], page.Choice(images=0, intervals=False))
    text = written.path.read_text(encoding="utf-8")
    (document,) = re.findall(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    data = json.loads(document)
    points = data["datasets"][0]["points"]
    for column in DISTANCES:
        name = data["identities"][column]
        assert {point["ids"][name] for point in points} == set(TWO), column  # the page draws points of one of them


def test_fingerprints_of_every_network_say_what_they_are():
    for network in NETWORKS.values():
        made = fingerprint.fid_id("fid256", 48, fingerprint.extractor_id(network.rule, "a" * 64), "b" * 64)
        words = fingerprint.explain(made)
        assert network.description in words
        assert fingerprint.parse(made).label.startswith(METRICS[registry.frechet_column(network.name)].name)


# ---- rows of other packages


def python(code: str, *site: Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
    path = os.pathsep.join([*map(str, site), str(TESTS.parent)])
    offline = {"HFDBENCH_DATA": "", "HFDBENCH_INCEPTION": "", "TORCH_HOME": str(site[0] / "none")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | offline | {"PYTHONPATH": path, "https_proxy": "http://127.0.0.1:9"},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


ADDED = """
import importlib.util
import pandas as pd
from hfdbench.analysis import compare, curves, gate, intervals
from hfdbench.cards.find import bundled_root, choose
from hfdbench.cards.schema import FigureCard, GateCard
from hfdbench.metrics.image.measure import BY_NAME
from hfdbench.metrics.networks.extractors import parse_feature
from hfdbench.report.tables import render_points
from hfdbench.results import columns, parquet, schema

assert {"mae", "fd_blocks", "fd_blocks_id"} <= set(schema.POINTS.names) & set(schema.ADDED)
assert "| `mae` | grey levels | 0 to 255 | ↓ |" in columns.markdown()
readme = bundled_root() / "results" / "README.md"
assert columns.readme_with_table(readme.read_text("utf-8")) == readme.read_text("utf-8")  # of hfdbench's own metrics
assert "mae" in BY_NAME and parse_feature("blocks") == ("blocks", None)
assert "fd_blocks" in intervals.COLUMNS and gate.tolerances(choose(GateCard, ["default"])[0])["fd_blocks"] == 0.05
row = {name: None for name in schema.POINTS.names}
row |= dict(codec="a", point="q", dataset="d", kind="classical", title="A", images=3, failed=0, bytes=9, bpp=0.2, seed=0)
row |= dict(fid_patches=3, fid_label="", status="ok", note="", device="cpu", mae=3.5, fd_blocks=2.0, fd_blocks_id="x")
points = pd.DataFrame([row])
data = curves.figure_data(points, FigureCard(id="f", x="mae", y="fd_blocks"), "d")
assert (data.x.title, data.y.title) == ("Mean absolute error (grey levels) ↓", "FD-blocks ↓")
assert "fingerprint x" in data.facts
assert "3.5" in render_points(points, columns=["codec", "mae", "fd_blocks"])
spec = importlib.util.spec_from_file_location("docs_hooks", bundled_root() / "docs" / "hooks.py")
hooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hooks)
assert "| `fd_blocks` | FD-blocks |" in hooks.metrics()
print("all there")
"""


def test_rows_of_another_package_are_everywhere():
    ran = python(ADDED, TESTS / "example_package")
    assert ran.stdout == "all there\n", ran.stderr


MEASURED = """
import sys
from hfdbench.cli.app import app
def call(*words):
    try:
        app(list(words))
    except SystemExit as end:
        print("exit", end.code)
folder, out = "folder:pictures", "out"
call("run", "--codec", "jpeg", "--point", "q25", "--dataset", folder, "--out", out, "--metric", "mae", "--feature", "blocks")
call("gate", out, "--accept", "baseline")
call("gate", out, "--against", "baseline")
from hfdbench.results.stored import Results
row = Results(out).points().iloc[0]
print(row["mae"] > 0, row["fd_blocks"] > 0, row["fd_blocks_id"])
"""


def test_metrics_of_another_package_are_measured_and_gated(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        coarse = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((256, 256)).save(tmp_path / "pictures" / f"{number}.png")
    ran = python(MEASURED, TESTS / "example_package", cwd=tmp_path)
    assert "True True fid256-3p-blocks-" in ran.stdout, ran.stderr
    assert "FD-blocks" in ran.stdout and ran.stdout.count("exit 0") == 3, ran.stdout


def test_results_stay_readable_without_the_package_that_added_a_metric():
    row = {name: None for name in schema.POINTS.names} | {"codec": "a", "bpp": 0.5}
    table = pa.Table.from_pylist([row], schema.POINTS)
    with_metric = table.append_column("mae", pa.array([3.5]))
    assert schema.completed(with_metric, schema.POINTS).equals(table)
    features = schema.FEATURES.empty_table()
    with pytest.raises(ValueError, match='column "mae"'):  # no other table has such columns
        schema.completed(features.append_column("mae", pa.array([], pa.float64())), schema.FEATURES)


def broken(site: Path, name: str, group: str, value: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def test_a_broken_entry_point_leaves_out_itself_alone(tmp_path):
    (tmp_path / "third_party.py").write_text(
        "import dataclasses, example_metrics\n"
        "SECOND_FID = dataclasses.replace(example_metrics.METRICS[0], column='fid')\n"
        "LOST = dataclasses.replace(example_metrics.METRICS[1], column='fd_lost', network='lost')\n"
        "TWIN = dataclasses.replace(example_metrics.BLOCKS, name='twin')\n"
        "def fails():\n    raise RuntimeError('half installed')\n"
    )
    for name, group, value in (
        ("zabsent", "hfdbench.metrics", "no_such_module:ROW"),
        ("zfails", "hfdbench.metrics", "third_party:fails"),
        ("zfid", "hfdbench.metrics", "third_party:SECOND_FID"),
        ("zlost", "hfdbench.metrics", "third_party:LOST"),
        ("ztext", "hfdbench.metrics", "third_party:__doc__"),
        ("ztwin", "hfdbench.feature_networks", "third_party:TWIN"),
    ):
        broken(tmp_path, name, group, value)
    code = (
        "from hfdbench.metrics.registry import METRICS, NETWORKS; print(len(METRICS), len(NETWORKS), 'mae' in METRICS)"
    )
    ran = python(code, tmp_path, TESTS / "example_package")
    assert ran.stdout == f"{len(METRICS) + 2} {len(NETWORKS) + 1} True\n", ran.stderr
    for name, cause in (
        ("zabsent", "No module named 'no_such_module'"),
        ("zfails", "half installed"),
        ("zfid", 'there is a column "fid" already'),
        ("zlost", 'no feature network "lost"'),
        ("ztext", "NoneType"),
        ("ztwin", 'or one of rule "blocks" already'),
    ):
        (line,) = [line for line in ran.stderr.splitlines() if f'"{name}"' in line]
        assert cause in line and line.endswith("fix or uninstall that package"), line


ROW = dict(name="x", title="x", direction="lower", meaning="x", computed="image", compute="a:B", reference="hand")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (dict(column="Upper"), "does not match"),
        (dict(column="codec_"), None),
        (dict(column="new", computed="crop"), "by hfdbench alone"),
        (dict(column="new", compute="nothing"), "does not match"),
        (dict(column="new", computed="distribution"), "needs network and identity"),
        (dict(column="new", network="mini", identity="x_id"), "needs network and identity"),
        (dict(column="new", interval="mean"), "for metrics of hfdbench"),
        (dict(column="new", required=True), "cannot be required"),
        (
            dict(column="new", computed="distribution", network="mini", identity="new_id", interval="frechet"),
            "has a Fréchet distance already",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(changes, cause):
    row = Metric(**(ROW | changes))
    if cause is None:
        registry._checked_metric(row, METRICS, NETWORKS)
        return
    with pytest.raises(ValueError, match=cause):
        registry._checked_metric(row, METRICS, NETWORKS)


def test_the_example_package_has_no_heavy_import():
    spec = importlib.util.spec_from_file_location("example_metrics", TESTS / "example_package" / "example_metrics.py")
    assert spec is not None
    ran = python("import sys, example_metrics; print('torch' in sys.modules)", TESTS / "example_package")
    assert ran.stdout == "False\n", ran.stderr
