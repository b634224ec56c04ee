"""An audit names what a table cannot be compared with, and asks for what it does not say."""

import json

import pytest
from typer.testing import CliRunner

from hfdbench.cards.find import choose
from hfdbench.cards.schema import DatasetCard
from hfdbench.cli.app import app
from hfdbench.errors import UsageError
from hfdbench.results import audit as audits
from hfdbench.results import published
from hfdbench.results.audit import Protocol, audit

CLIC = choose(DatasetCard, ["clic"])[0]
FULL = Protocol("torch-fidelity", "fid256", "alex", "coded")
TABLE = """model,quality,bpp,PSNR,FID,LPIPS,DISTS,NIQE
ours,0,0.0417,28.18,6.08,0.0973,0.0777,3.1
ours,1,0.0655,29.39,4.10,0.0742,0.0607,3.0
"""


@pytest.fixture(scope="module")
def known():
    return published.read()


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(TABLE)
    return path


def test_a_table_by_our_rules_conflicts_only_with_those_of_other_rules(table, known):
    result = audit(table, CLIC, FULL, known)
    assert set(result.points["protocol"]) == {"fid256", "alex", "rgb-mean", "mean"} and len(result.points) == 8
    first = result.points.iloc[0][["system", "point", "bpp", "metric", "value"]].tolist()
    assert first == ["ours", "0", 0.0417, "psnr_db", 28.18]
    text = "\n".join(result.conflicts)
    assert 'column "NIQE": no metric of hfdbench; left out' in text
    assert (
        "FID by fid256 is not comparable with CRDR, DC-VIC (fid256, pytorch-fid's resize: half-pixel bilinear)" in text
    )
    assert len(result.conflicts) == 2


def test_another_resize_rule_is_named_with_those_that_share_it(table, known):
    result = audit(table, CLIC, Protocol("pytorch-fid", "fid256", "vgg", "estimated"), known)
    text = "\n".join(result.conflicts)
    assert (
        "FID by fid256, pytorch-fid's resize: half-pixel bilinear is not comparable with what hfdbench measures" in text
    )
    assert "FID is comparable with CRDR, DC-VIC, taken the same way" in result.found and "HFD" in text
    assert "LPIPS by vgg is not comparable with" in text and "rate estimated, not coded" in text
    assert set(result.points["note"]) == {"rate estimated, not coded"}


def test_what_is_not_stated_is_asked_for(table, known):
    with pytest.raises(UsageError) as error:
        audit(table, CLIC, Protocol(), known)
    for option in ("--resize (torch-fidelity, pytorch-fid, clean-fid, unknown)", "--patches", "--network", "--rate"):
        assert option in str(error.value)
    with pytest.raises(UsageError, match='no --resize "pytorch-fit"; did you mean "pytorch-fid"'):
        audit(table, CLIC, Protocol(resize="pytorch-fit"), known)


def test_the_code_beside_a_table_says_how_it_was_measured(table, known):
    """As iwa-shi/CRDR and iwa-shi/DC_VIC are: the table in a checkout, the tool in a script."""
    root = table.parent
    (root / ".git").mkdir()
    (root / "scripts").mkdir()
    (root / "scripts" / "calc_metrics.py").write_text(
        'from pytorch_fid.fid_score import calculate_fid_given_paths\nnet = lpips.LPIPS(net="alex")\n'
    )
    result = audit(table, CLIC, Protocol(patches="fid256", rate="coded"), known)
    assert "scripts/calc_metrics.py uses pytorch-fid: half-pixel bilinear resize" in result.found
    assert set(result.points.query("metric == 'fid'")["protocol"]) == {"fid256, pytorch-fid"}
    assert set(result.points.query("metric == 'lpips'")["protocol"]) == {"alex"}


def test_known_points_of_the_same_source_say_how_it_was_measured(table, known):
    result = audit(
        table, CLIC, Protocol(patches="fid256", rate="coded"), known, source="iwa-shi/CRDR rd_results/new.csv"
    )
    assert "known points of iwa-shi/CRDR are by pytorch-fid: half-pixel bilinear" in result.found


def test_a_value_that_differs_from_a_known_one_is_named(tmp_path, known):
    path = tmp_path / "table.csv"
    path.write_text("Method,bpp,PSNR,FID\nHiFiC,0.129,30.87,4.85\n")
    result = audit(path, CLIC, FULL, known)
    (conflict,) = [text for text in result.conflicts if text.startswith("HiFiC")]
    assert "at 0.129 bpp: FID 4.85 here, 4.197 in tensorflow/compression models/hific/data.csv" in conflict


def test_curves_of_one_table_are_told_apart_and_kept(tmp_path, known):
    path = tmp_path / "crdr.csv"
    path.write_text("quality,beta,bpp,PSNR\n0,3.84,0.08,30.1\n1,3.84,0.1,30.9\n0,0,0.08,30.9\n")
    with pytest.raises(UsageError, match="given twice; tell the curves apart by variant"):
        audits.keep(audit(path, CLIC, Protocol(rate="coded"), known), tmp_path / "out", path)
    files = audits.keep(audit(path, CLIC, Protocol(rate="coded"), known, by="beta"), tmp_path / "out", path)
    assert [file.name for file in files] == ["crdr-beta_3.84-clic.csv", "crdr-beta_0-clic.csv"]
    assert len(published.read(tmp_path / "out")) == len(known) + 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("bpp,colour\n1,2\n", "needs a column bpp and one of"),
        ("PSNR\n30\n", "needs a column bpp"),
        ("bpp,MS-SSIM\n0.1,13.2\n", "out of its range"),
        ("bpp,PSNR\nx,30\n", 'bpp "x" is not a number'),
        ("bpp,PSNR\n0,30\n", "above 0"),
    ],
)
def test_wrong_tables_are_refused(text, message, tmp_path, known):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        audit(path, CLIC, FULL, known)


def test_the_command(table, tmp_path):
    stated = [
        "--dataset",
        "clic",
        "--resize",
        "pytorch-fid",
        "--patches",
        "fid256",
        "--network",
        "alex",
        "--rate",
        "coded",
    ]
    asked = ["import", "csv", str(table), *stated, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*asked, "--audit"])
    assert done.exit_code == 0 and "conflict: FID by fid256, pytorch-fid's resize" in done.stdout
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, asked)
    assert done.stdout.splitlines() == [str(tmp_path / "out" / "published" / "ours-clic.csv")]
    listed = CliRunner().invoke(app, ["list", "published", "--json", "--out", str(tmp_path / "out")])
    assert "ours" in {row["system"] for row in json.loads(listed.stdout)}
