"""Two folders measured: the numbers of `run` and of other people's programs, and every way in which folders do not fit."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_metrics import patches as textures
from helpers_metrics import random_network, random_weights, save_all, theirs
from PIL import Image
from pytorch_msssim import ms_ssim
from skimage.metrics import peak_signal_noise_ratio
from threadpoolctl import threadpool_limits
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.cli import app as cli
from hfdbench.errors import UsageError
from hfdbench.metrics.networks.extractors import find_extractor
from hfdbench.pipeline.aggregate import Features, feature_row
from hfdbench.pipeline.measure import measure
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.report import tables
from hfdbench.results import parquet

pytestmark = pytest.mark.usefixtures("offline")
COUNT = 6


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return save_all(textures(COUNT, 300, 260), folder)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory, originals):
    """The originals through JPEG, as PNG."""
    folder = tmp_path_factory.mktemp("decoded")
    for path in originals.iterdir():
        stream = io.BytesIO()
        Image.open(path).save(stream, "JPEG", quality=20)
        Image.open(stream).save(folder / path.name)
    return folder


def pixels(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def copied(source, target, names=None):
    target.mkdir()
    for path in sorted(source.iterdir()):
        if names is None or path.name in names:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_the_row_that_run_stored(tmp_path, originals, inception):
    out, folder = tmp_path / "out", tmp_path / "decoded"
    (card,) = choose(CodecCard, ["jpeg"], ())
    summary = run(
        Request(
            codecs=(card,), datasets=(f"folder:{originals}",), points=(card.points[0].id,), out=out, inception=inception
        )
    )
    (row,) = summary.points.to_dict("records")
    folder.mkdir()
    for stream in parquet.read_table(next((out / "streams").iterdir())).to_pylist():
        Image.open(io.BytesIO(stream["stream"])).convert("RGB").save(folder / stream["name"])
    found = measure(originals, folder, inception=inception)
    assert found.exit_code == 0 and not found.left_out and found.images == COUNT
    measured = {"psnr_db", "psnr_pooled_db", "ms_ssim", "ms_ssim_db", "fid", "kid", "precision", "recall", "fd_mini"}
    assert set(found.values) == measured
    for column, value in found.values.items():
        assert value.value == pytest.approx(row[column], rel=1e-9), column
    assert (found.values["fid"].id, found.values["fd_mini"].id) == (row["fid_id"], row["fd_mini_id"])
    assert found.patches == row["fid_patches"] and found.protocol == row["fid_protocol"]
    from hfdbench.analysis.intervals import intervals

    for column in ("psnr_db", "ms_ssim", "fid", "kid", "fd_mini"):
        stored = intervals(out, summary.points, column).iloc[0]
        assert (found.values[column].lo, found.values[column].hi) == pytest.approx(tuple(stored), rel=1e-6), column
        assert found.values[column].lo < found.values[column].value < found.values[column].hi
    assert any("not by the published weights" in note for note in found.notes)
    assert any("FID over 6 patches" in note for note in found.notes)


def test_the_values_of_others(originals, decoded, inception):
    found = measure(str(originals), str(decoded), inception=inception)
    ours = {column: value.value for column, value in found.values.items()}
    a, b = pixels(originals), pixels(decoded)
    assert ours["psnr_db"] == pytest.approx(
        np.mean([peak_signal_noise_ratio(x, y) for x, y in zip(a, b, strict=True)]), abs=1e-9
    )
    batches = [torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).double() for side in (a, b)]
    assert ours["ms_ssim"] == pytest.approx(float(ms_ssim(*batches, data_range=255)), abs=1e-6)
    features = [theirs(inception, [image[:256, :256] for image in side]) for side in (a, b)]
    fid = fid_statistics_to_metric(*map(fid_features_to_statistics, features), verbose=False)
    assert ours["fid"] == pytest.approx(fid["frechet_inception_distance"], rel=1e-4)
    # With subsets of all features but no replacement, torch-fidelity's is the estimate over all of them.
    kid = kid_features_to_metric(*features, kid_subsets=1, kid_subset_size=COUNT, verbose=False)
    assert ours["kid"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-4)


def test_lpips_of_the_package_lpips(tmp_path, originals, decoded, monkeypatch):
    lpips = pytest.importorskip("lpips", reason="the package lpips is not here: pip install lpips")
    pytest.importorskip("torchmetrics", reason="LPIPS needs torchmetrics: pip install 'hfdbench[perceptual]'")
    place = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    place.parent.mkdir(parents=True)
    random_network(place, "alexnet")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    net = lpips.LPIPS(net="alex", verbose=False)
    sides = [
        [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in pixels(folder)]
        for folder in (originals, decoded)
    ]
    with torch.no_grad():
        theirs_ = np.mean([net(*pair).item() for pair in zip(*sides, strict=True)])
    found = measure(originals, decoded, metrics=["lpips"], weights={"lpips": place}).values["lpips"]
    assert found.value == pytest.approx(theirs_, rel=1e-4) and found.lo < found.value < found.hi


def test_identical_folders(originals):
    found = measure(originals, originals)
    assert "psnr_db" not in found.values and found.values["ms_ssim"].value == 1
    assert found.values["fd_mini"].value == 0
    assert any("no FID" in note for note in found.notes)
    assert any(f"{COUNT} images are identical" in note for note in found.notes)


def test_what_does_not_fit_is_named_and_the_rest_measured(tmp_path, originals, decoded):
    mine = copied(decoded, tmp_path / "mine")
    (mine / "0.png").unlink()
    Image.open(decoded / "1.png").crop((0, 0, 259, 300)).save(mine / "1.png")
    Image.open(decoded / "2.png").save(mine / "2.webp", lossless=True)
    Image.open(decoded / "3.png").save(mine / "other.png")
    (mine / "4.png").write_bytes((decoded / "4.png").read_bytes()[:500])
    found = measure(originals, mine)
    reasons = dict(found.left_out)
    assert "no decoded picture" in reasons["0.png"]
    assert "259x300" in reasons["1.png"] and "260x300" in reasons["1.png"]
    assert "2.png" in reasons["2.png"] and "2.webp" in reasons["2.png"]
    assert "no original" in reasons["other.png"]
    assert "4.png" in reasons["4.png"]
    assert len(reasons) == 5 and found.images == 2 and found.exit_code == 1
    # The fingerprint is that of the two originals that were measured: the values are those of the two alone.
    alone = measure(copied(originals, tmp_path / "alone", ("3.png", "5.png")), mine)
    assert alone.values == found.values


def test_lossy_files_among_the_decoded(tmp_path, originals):
    folder = tmp_path / "lossy"
    folder.mkdir()
    for kind, path in zip(("jpg", "jpg", "webp", "avif", "png", "png"), sorted(originals.iterdir()), strict=True):
        Image.open(path).save(folder / f"{path.stem}.{kind}")
    notes = measure(originals, folder).notes
    assert any(note.startswith("2 of the decoded pictures are JPEG files") for note in notes)
    assert any(note.startswith("1 of the decoded pictures are lossy WebP") for note in notes)
    assert any(note.startswith("1 of the decoded pictures are AVIF") for note in notes)


def test_folders_without_a_pair(tmp_path, originals, decoded):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="named as one of"):
        measure(originals, tmp_path / "empty")
    with pytest.raises(UsageError, match="no such folder"):
        measure(originals, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no such folder"):
        measure(tmp_path / "nowhere", decoded)
    with pytest.raises(UsageError, match='no metric "lpip"'):
        measure(originals, decoded, metrics=["lpip"])
    small = copied(decoded, tmp_path / "small")
    for path in small.iterdir():
        Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(UsageError, match=r"no pair could be measured.*20x20"):
        measure(originals, small)


def test_pictures_of_a_dataset_by_its_id(tmp_path):
    from hfdbench.datasets.dataset import open_dataset

    samples = open_dataset("samples@2")
    for path in samples.paths:
        Image.open(path).convert("RGB").quantize(64).save(tmp_path / f"{path.stem}.png")
    found = measure("samples@2", tmp_path)
    assert found.images == 2 and samples.sha256[:8] in (found.values["fd_mini"].id or "")


def test_the_command(originals, decoded, monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr("sys.argv", ["hfdbench", "measure", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (left.value.code or 0, *capsys.readouterr())

    found = measure(originals, decoded)
    code, out, err = call(originals, decoded)
    assert code == 0 and "no FID" in err
    psnr = next(line.split() for line in out.splitlines() if line.startswith("PSNR "))
    assert psnr[1] == f"{found.values['psnr_db'].value:.2f}" and psnr[2].startswith("[") and psnr[4] == "dB"
    code, out, err = call(originals, decoded, "--json")
    read = json.loads(out)
    assert code == 0 and read["images"] == COUNT
    assert read["values"]["ms_ssim"] == vars(found.values["ms_ssim"])
    code, out, err = call(originals, "nowhere")
    assert code == 2 and not out and "nowhere" in err


def test_a_table_of_values():
    import pandas as pd

    rows = [("psnr_db", 31.4159, 31.0, 32.0, None), ("fid", 3.14159, float("nan"), float("nan"), "x")]
    text = tables.render_values(pd.DataFrame(rows, columns=["column", "value", "lo", "hi", "id"]))
    assert "31.42" in text and "[31.00, 32.00]" in text and "3.14" in text and "nan" not in text


def test_distances_are_equal_to_the_bit_on_any_number_of_threads(tmp_path, inception):
    """In two threads BLAS gives these features another FID in the 14th digit and another KID in the 9th."""
    random = np.random.default_rng(0)
    originals = random.normal(size=(200, 256)).astype(np.float32) ** 2

    def side(features):
        column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 256)
        return Features(256, pa.table({"image": np.arange(200), "features": column}).to_batches)

    sides = side(originals), side((originals + 0.3 * random.normal(size=(200, 256))).astype(np.float32))
    rows = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            rows.append(feature_row(find_extractor("inception", inception, tmp_path), "fid256", "0" * 64, *sides))
    assert rows[0] == rows[1] and rows[0][0]["fid"] > 0
