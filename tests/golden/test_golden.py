"""The repository's own results: what README's figure and the claims table are drawn from."""

from pathlib import Path

import pytest

from hfdbench.analysis import claims
from hfdbench.analysis.intervals import intervals
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.report import claims_text
from hfdbench.results import parquet
from hfdbench.results.golden import pack
from hfdbench.results.stored import Results

GOLDEN = Path(__file__).parents[2] / "results" / "golden" / "kodak"
# How many points: the slower ablations were measured at q2 alone.
DECODERS = dict.fromkeys(("elic-mse", "elic-grain", "mse-unet", "mse-grain", "hfd", "hfd-fast", "hific", "po-elic"), 5)
DECODERS |= dict.fromkeys(("hfd-rf", "hfd-plus", "dirac"), 1)


def test_every_decoder_is_there_on_the_streams_of_elic_mse():
    points = Results(GOLDEN).points().query("dataset == 'kodak' and status == 'ok'")
    rates = points[points.codec == "elic-mse"].set_index("point")["bytes"]
    assert len(rates) == 5
    for codec, count in DECODERS.items():
        mine = points[points.codec == codec]
        assert len(mine) == count, codec
        assert all(row.bytes == rates[row.point] for row in mine.itertuples()), codec


@pytest.mark.parametrize(
    ("base", "codecs", "count"),
    [
        ("jpeg", ("jpeg-grain", "mse-jpeg", "hfd-jpeg", "hfd-jpeg-fast"), 4),
        ("avif", ("avif-grain", "mse-avif", "hfd-avif", "hific-avif"), 5),
    ],
)
def test_decoders_of_other_codecs_are_there_on_their_own_files(base, codecs, count):
    points = Results(GOLDEN).points().query("dataset == 'kodak' and status == 'ok'")
    rates = points[points.codec == base].set_index("point")["bytes"]
    for codec in codecs:
        mine = points[points.codec == codec]
        assert len(mine) == count and all(row.bytes == rates[row.point] for row in mine.itertuples()), codec


def test_golden_points_are_of_the_bundled_weights():
    """A card whose weights or sampling changed makes these numbers those of another codec."""
    cards = find_cards(CodecCard)
    for trial in Results(GOLDEN).trials():
        row = trial.row
        assert row["network_evaluations"] == cards[row["codec"]].point(row["point"]).network_evaluations, row["trial"]


def test_claims_print_from_stored_results():
    verdicts = claims.claims(GOLDEN, "kodak")
    variants = claims.claims(GOLDEN.with_name("kodak-8"), "kodak@8")
    assert [verdict.number for verdict in verdicts] == list(range(1, 10))
    for verdict in (*verdicts[:3], verdicts[8], *variants[3:7]):
        assert len(verdict.numbers) > 1 and "[" in verdict.numbers[0], verdict
    assert {verdict.verdict for verdict in (*verdicts[3:8], variants[7])} == {"not tried"}  # 8 takes the pictures
    assert "(1) HOLDS" in claims_text.render(verdicts) and "(3) HOLDS" in claims_text.render(verdicts)


def test_fd_mini_ranks_the_golden_points_as_fid_does():
    points = Results(GOLDEN).points().query("dataset == 'kodak'").dropna(subset=["fd_mini", "fid"])
    assert len(points) >= 20
    assert points["fid"].corr(points["fd_mini"], method="spearman") == pytest.approx(1, abs=0.1)


def test_the_folder_is_packed_and_reading_leaves_it_alone():
    before = sorted(path.name for path in GOLDEN.rglob("*"))
    assert before == ["deviations.parquet", "images.parquet", "points.parquet"]
    results = Results(GOLDEN)
    trial = next(trial for trial in results.trials() if trial.row["codec"] == "hfd")
    assert len(trial.read_images()) == trial.images
    assert intervals(results, results.points().head(4), "psnr_db").notna().all(axis=None)
    assert sorted(path.name for path in GOLDEN.rglob("*")) == before


def test_packing_again_changes_nothing(tmp_path):
    pack(GOLDEN, tmp_path)
    for path in GOLDEN.iterdir():
        before, after = parquet.read_table(path), parquet.read_table(tmp_path / path.name)
        assert after.select(before.column_names).equals(before), path.name
        added = set(after.column_names) - set(before.column_names)  # columns of a newer version: null in every row
        assert all(after[name].null_count == len(after) for name in added), added
