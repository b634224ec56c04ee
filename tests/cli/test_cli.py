"""The verbs as a user types them: results on stdout, the journey on stderr, exit codes 0, 1 and 2."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_metrics import random_weights
from helpers_results import write_codec
from PIL import Image

from hfdbench import __version__
from hfdbench.cli import app as cli
from hfdbench.codecs.sandbox import gpu_devices

ROOT = Path(__file__).parents[2]
NO_INCEPTION = "HFDBENCH_DATA", "HFDBENCH_INCEPTION"


@pytest.fixture
def hfdbench(capsys, monkeypatch, tmp_path):
    """Call the command line in this process, from an empty folder, without data or Inception weights."""
    for name in NO_INCEPTION:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache" / "torch"))
    # The download of Inception weights must fail at once, also where there is a network.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hfdbench", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as leave:
            code = leave.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three smooth pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((300, 260), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


def test_help_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['hfdbench', '--help']\nfrom hfdbench import cli\ntry: cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'matplotlib', 'pydantic', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "doctor" in said.stdout


def test_run_show_report_end_to_end(hfdbench, pictures, tmp_path):
    arguments = (
        "run",
        "--codec",
        "jpeg",
        "--codec",
        "webp",
        "--point",
        "q25",
        "--point",
        "q20",
        "--dataset",
        f"folder:{pictures}",
    )
    code, out, err = hfdbench(*arguments)
    assert code == 0, err
    assert "jpeg" in out and "webp" in out
    assert "no FID" in err  # one clear line, and everything else computed
    code, out, err = hfdbench(*arguments)
    assert code == 0 and "2 there already" in err

    code, out, _ = hfdbench("show", "--json")
    rows = json.loads(out)
    assert code == 0 and {row["codec"] for row in rows} == {"jpeg", "webp"}
    assert all(row["images"] == 3 and row["fid"] is None and row["psnr_db"] > 20 for row in rows)
    assert len(pd.read_parquet("results/points")) == 2
    for form in ("csv", "markdown", "latex"):
        assert "webp" in hfdbench("show", "--format", form, "--codec", "webp")[1]

    folder = "--dataset", f"folder:{pictures}"  # means to every command what it means to `run`
    assert json.loads(hfdbench("show", "--json", *folder)[1]) == rows
    assert hfdbench("export", "compressai", *folder)[0] == 0
    assert f"cannot be compared on {rows[0]['dataset']}" in hfdbench("compare", "jpeg", "webp", *folder)[2]
    assert f"hfd was not measured on {rows[0]['dataset']}" in hfdbench("claims", *folder)[1]
    assert "no pictures in it" in hfdbench("show", "--dataset", "folder:results")[2]

    code, out, err = hfdbench("report", "rate-psnr", "--format", "png", *folder)
    assert code == 0, err
    drawn = [line for line in out.splitlines() if line.endswith(".png")]
    assert len(drawn) == 1 and np.asarray(Image.open(drawn[0]).convert("L")).std() > 5
    code, out, err = hfdbench("report", "--format", "png")
    assert code == 0 and "hfdbench score" in err  # the FID figure says how to get one


def test_errors_are_one_line_that_a_terminal_can_show(hfdbench):
    code, out, err = hfdbench("show", "--out", "no\x1b[31m\nwhere")
    assert (code, out) == (2, "") and err.startswith("hfdbench: no\\x1b[31m where") and err.count("\n") == 1


def test_dry_run_writes_nothing(hfdbench, pictures):
    code, _out, err = hfdbench("run", "--codec", "jpeg", "--dataset", f"folder:{pictures}", "--limit", "2", "--dry-run")
    assert code == 0 and "would run jpeg-q25" in err
    assert not Path("results/points").exists()


def test_a_damaged_picture_costs_its_row_and_exit_code_1(hfdbench, pictures, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "1.png").write_bytes((pictures / "1.png").read_bytes()[:200])
    code, _out, err = hfdbench("run", "--codec", "jpeg", "--point", "q25", "--dataset", f"folder:{folder}")
    assert code == 1 and "1.png" in err
    crops = pd.read_parquet("results/images")
    assert crops["status"].tolist() == ["ok", "error", "ok"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--codec", "hdf", "--dataset", "samples"), 'no codec "hdf"; did you mean "hfd"?'),
        (("run", "--codec", "jpeg", "--dataset", "sample"), 'no dataset "sample"; did you mean "samples"?'),
        (("run", "--codec", "jpeg", "--point", "q26", "--dataset", "samples"), 'no point "q26"'),
        (("run", "--codec", "jpeg", "--dataset", "folder:/nowhere"), "/nowhere"),
        (("run", "--codec", "jpeg", "--dataset", "samples", "--inception", "no.pth"), "no.pth"),
        (("run", "--codec", "jpeg", "--dataset", "samples", "--cards", "nowhere"), "no such folder"),
        (("run", "--codec", "jpeg", "--dataset", "kodak"), "hfdbench fetch kodak"),
        (("run", "--codec", "jpeg", "--dataset", "samples", "--timeout-s", "0"), "--timeout-s 0: must be above 0; "),
        (("run", "--codec", "jpeg", "--dataset", "folder:"), "names no folder; give one"),
        (("run", "--codec", "jpeg", "--dataset", f"folder:{__file__}"), "a file, where a folder is needed; give one"),
        (("measure", "nowhere", "."), 'no folder or dataset "nowhere"; known: clic, '),
        (("measure", "samples", "."), "no picture is named as one of samples is"),
        (("report",), "hfdbench run"),
        (("show",), "hfdbench run"),
        (("score",), "hfdbench run"),
        (("report", "rate-fdi"), 'did you mean "rate-fid"?'),
        (("fetch", "kodac"), 'did you mean "kodak"?'),
        (("train", "elic", "--data", "nowhere", "--out", "o"), "no such folder"),
        (("train", "elcs", "--data", ".", "--out", "o"), "elcs.toml: cannot be read"),
        (("train", "hfd", "--data", ".", "--out", "o"), "--autoencoder"),
        (("train", "elic", "--data", ".", "--out", "o"), "no picture to train on"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_bad_requests_say_what_is_wrong_and_exit_with_2(hfdbench, arguments, said):
    code, out, err = hfdbench(*arguments)
    assert code == 2
    assert said in err and out == ""
    assert "Traceback" not in err


def test_a_broken_card_names_file_key_and_hint(hfdbench, tmp_path):
    (tmp_path / "mine" / "codecs").mkdir(parents=True)
    card = tmp_path / "mine" / "codecs" / "mine.toml"
    card.write_text('id = "mine"\nkind = "clasical"\nadapter = "a:B"\n[[points]]\nid = "q1"\n')
    code, _, err = hfdbench("list", "codecs", "--cards", tmp_path / "mine")
    assert code == 2 and str(card) in err and '"kind"' in err


def test_list_names_every_bundled_card(hfdbench):
    for thing, folder, known in (("codecs", "codecs", "hfd"), ("datasets", "datasets", "samples")):
        code, out, _ = hfdbench("list", thing, "--json")
        rows = json.loads(out)
        assert code == 0
        assert {next(iter(row.values())) for row in rows} == {path.stem for path in (ROOT / folder).glob("*.toml")}
        assert known in out
    assert "rate-fid" in hfdbench("list", "figures")[1]


def test_doctor_finds_the_bundled_codecs_well(hfdbench):
    code, out, _ = hfdbench("doctor")
    assert code == 0, out
    lines = out.splitlines()
    for name in ("codec hfd ", "codec elic-mse ", "codec jpeg ", "dataset samples "):
        line = next(line for line in lines if line.startswith(name))
        assert "works" in line or "here, " in line
    assert "hfdbench fetch kodak" in out
    ready, total = map(int, re.fullmatch(r"(\d+) of (\d+) are ready; the rest is optional.*", lines[-1]).groups())
    assert ready == total - sum(line[28:].startswith(" not here: ") for line in lines)


def test_score_completes_a_run_without_distances(hfdbench, tmp_path, random_inception):
    """Run without feature networks, which takes no torch, then score: fd_mini and FID appear, nothing is encoded again."""
    folder = tmp_path / "big"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for k in range(2):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((520, 300), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    arguments = ["run", "--codec", "jpeg", "--point", "q25", "--dataset", f"folder:{folder}", "--feature", "none"]
    script = (
        f"import sys; sys.argv[1:] = {arguments}\nfrom hfdbench import cli\ntry: cli.main()\n"
        "except SystemExit as leave: sys.exit(leave.code or ('imported torch' if 'torch' in sys.modules else 0))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    gpu = sys.platform != "linux" or gpu_devices()  # --device auto asks torch where there may be one
    assert said.returncode == 0 or (gpu and "imported torch" in said.stderr), said.stderr
    row = pd.read_parquet("results/points").iloc[0]
    assert row["ms_ssim"] > 0.5 and row[["fid", "kid", "fd_mini"]].isna().all()
    streams = {path: path.stat().st_mtime_ns for path in Path("results/streams").iterdir()}
    code, _, err = hfdbench("score", "--dataset", f"folder:{folder}", "--inception", random_inception)
    assert code == 0, err
    row = pd.read_parquet("results/points").iloc[0]
    assert row["fid"] > 0 and row["fd_mini"] > 0 and row["fid_patches"] == 4
    assert {path: path.stat().st_mtime_ns for path in Path("results/streams").iterdir()} == streams
    code, _, err = hfdbench(*arguments, "--inception", random_inception)
    assert code == 2 and "--feature none" in err


def test_train_makes_weights_that_a_card_can_name(hfdbench, pictures, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        'objective = "autoencoder"\nsteps = 3\nbatch = 2\ncrop = 64\n'
        "[model]\nwidths = [8, 8, 8]\ngroups = [4, 4]\nhyper = 8\ncontext = 8\nlambdas = [0.01]\n"
    )
    code, out, err = hfdbench("train", recipe, "--data", pictures, "--out", tmp_path / "model", "--device", "cpu")
    assert code == 0, err
    weights = Path(out.strip())
    assert weights.exists() and (tmp_path / "model" / "train.log").read_text().count("photographs") == 1
    import hashlib

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / "here" / "codecs").mkdir()
    file = os.path.relpath(weights, tmp_path / "here" / "codecs")
    (tmp_path / "here" / "codecs" / "tiny.toml").write_text(
        'id = "tiny"\nkind = "autoencoder"\nadapter = "hfdbench.codecs.hfd:HFD"\n[[points]]\nid = "q1"\n'
        f'options = {{ rate = 0 }}\nweights = [{{ file = "{file}", sha256 = "{digest}" }}]\n'
    )
    code, out, err = hfdbench("run", "--codec", "tiny", "--dataset", f"folder:{pictures}")
    assert code == 0 and "tiny" in out, err


def test_the_wheel_carries_cards_and_weights(tmp_path):
    """Built, installed elsewhere and called from elsewhere: every bundled codec is listed."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    with zipfile.ZipFile(wheel) as file:
        names, metadata = file.namelist(), file.read(f"hfdbench-{__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata and "hfdbench/py.typed" in names
    stored = {name.split("/")[3] for name in names if name.startswith("hfdbench/_data/results/")}
    assert stored == {"README.md", "published"}, "results of ours are not part of a release"
    for folder in ("codecs", "datasets", "reports"):
        cards = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.toml") if "build" not in path.parts}
        assert cards == {
            n.removeprefix("hfdbench/_data/")
            for n in names
            if n.startswith(f"hfdbench/_data/{folder}/") and n.endswith(".toml")
        }
    script = "import hfdbench, sys; from hfdbench import cli; print(hfdbench.__file__, file=sys.stderr); cli.main()"
    said = subprocess.run(
        [sys.executable, "-c", script, "list", "codecs", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "site") in said.stderr
    listed = {row["codec"] for row in json.loads(said.stdout)}
    assert listed == {path.stem for path in (ROOT / "codecs").glob("*.toml")}
    bundled = {path.name for top in ("codecs", "hfdbench") for path in (ROOT / top).rglob("*.safetensors")}
    assert bundled == {path.name for path in (tmp_path / "site").rglob("*.safetensors")}


def test_score_leaves_out_codecs_without_a_card(hfdbench, tmp_path):
    write_codec(tmp_path, "somebodys", (0.1,))
    code, _, said = hfdbench("score", "--out", tmp_path)
    assert code and "left out: somebodys: no card" in said and "no stored point fits" in said
