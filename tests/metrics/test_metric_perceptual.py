"""LPIPS and DISTS against their formulas in float64, with random networks; and the way of --metric through a run."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_metrics import random_network
from PIL import Image

from hfdbench.cards.schema import CodecCard
from hfdbench.errors import Unavailable, UsageError
from hfdbench.metrics.image.measure import Place, open_measure
from hfdbench.metrics.image.perceptual import Dists, Lpips, LpipsVgg
from hfdbench.pipeline import instruments
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run, score
from hfdbench.results import parquet
from hfdbench.results.stored import Results

pytest.importorskip("torchmetrics", reason="LPIPS and DISTS need torchmetrics: pip install 'hfdbench[perceptual]'")
import torch
import torchvision
from torch.nn.functional import conv2d

NETWORKS = {Lpips: "alexnet", Dists: "vgg16"}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No weights but those a test gives."""
    for name in ("HFDBENCH_LPIPS", "HFDBENCH_LPIPS_VGG", "HFDBENCH_DISTS", "HFDBENCH_DATA", "HFDBENCH_INCEPTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[type, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {kind: random_network(folder / f"{name}.pth", name) for kind, name in NETWORKS.items()}


@pytest.fixture(scope="module")
def measures(weights) -> dict:
    return {kind: kind(Place(path)) for kind, path in weights.items()}


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    waves = np.stack([128 + 90 * np.sin(x / (5 + c)) * np.cos(y / (7 + c)) for c in range(3)], axis=2)
    return tuple(
        (waves + random.normal(0, scale, waves.shape)).round().clip(0, 255).astype(np.uint8) for scale in (2, 15)
    )


def stages(path: Path, name: str, image: np.ndarray, ends: tuple[int, ...], shift, scale) -> list:
    """Activations of a network's `features` after the layers numbered `ends`, in float64. Pooling as each metric has it."""
    state = torch.load(path, weights_only=True)
    with torch.device("meta"):
        layers = getattr(torchvision.models, name)(weights=None).features
    x = torch.from_numpy(image.astype(np.float64) / 255).permute(2, 0, 1)[None]
    x = (x - torch.tensor(shift).view(3, 1, 1)) / torch.tensor(scale).view(3, 1, 1)
    found = []
    for number, layer in enumerate(layers[: ends[-1] + 1]):
        if isinstance(layer, torch.nn.Conv2d):
            kernel, bias = (state[f"features.{number}.{part}"].double() for part in ("weight", "bias"))
            x = conv2d(x, kernel, bias, stride=layer.stride, padding=layer.padding)
        elif isinstance(layer, torch.nn.MaxPool2d) and name == "vgg16":  # DISTS: weighted L2 pooling, eq. 3
            hann = torch.tensor([0.5, 1, 0.5], dtype=torch.float64)
            window = (hann[:, None] * hann / 4).expand(x.shape[1], 1, 3, 3)
            x = conv2d(x**2, window, stride=2, padding=1, groups=x.shape[1]).add(1e-12).sqrt()
        else:
            x = torch.nn.ReLU()(x) if isinstance(layer, torch.nn.ReLU) else layer(x)
        if number in ends:
            found.append(x)
    return found


def test_lpips_is_its_formula(measures, weights, pair):
    import torchmetrics

    path = Path(torchmetrics.__file__).parent / "functional/image/lpips_models/alex.pth"
    linear = torch.load(path, map_location="cpu", weights_only=True)
    # Inputs in [-1, 1] are shifted and scaled by the published constants: here the same for inputs in [0, 1].
    shift, scale = [(1 + s) / 2 for s in (-0.030, -0.088, -0.188)], [s / 2 for s in (0.458, 0.448, 0.450)]
    sides = [stages(weights[Lpips], "alexnet", image, (1, 4, 7, 9, 11), shift, scale) for image in pair]
    expected = 0.0
    for number, (a, b) in enumerate(zip(*sides, strict=True)):
        a, b = (x / x.norm(dim=1, keepdim=True).clamp(min=1e-10) for x in (a, b))
        expected += conv2d((a - b) ** 2, linear[f"lin{number}.model.1.weight"].double()).mean().item()
    assert measures[Lpips](*pair)[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("kind", "net"), [(Lpips, "alex"), (LpipsVgg, "vgg")], ids=["alex", "vgg"])
def test_lpips_is_that_of_the_package_lpips(kind, net, weights, pair, monkeypatch):
    lpips = pytest.importorskip("lpips", reason="the package lpips is not here: pip install lpips")
    file = weights[Lpips if net == "alex" else Dists]  # random networks, with the published linear layers
    place = Path(torch.hub.get_dir()) / "checkpoints" / kind.file
    place.parent.mkdir(parents=True)
    place.symlink_to(file)  # where torchvision looks
    theirs = lpips.LPIPS(net=net, verbose=False)
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in pair]
    with torch.no_grad():
        expected = theirs(*tensors).item()
    measure = open_measure(kind.columns[0], Place(file))
    assert measure(*pair)[0] == pytest.approx(expected, rel=1e-4) and expected > 0


def test_dists_is_its_formula(measures, weights, pair):
    import torchmetrics

    small = torch.load(
        Path(torchmetrics.__file__).parent / "functional/image/dists_models/weights.pt", weights_only=True
    )
    total = sum(small[name].double().sum() for name in ("alpha", "beta"))
    ends, mean, deviation = (3, 8, 15, 22, 29), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    sides = []
    for image in pair:
        first = torch.from_numpy(image.astype(np.float64) / 255).permute(2, 0, 1)[None]
        sides.append([first, *stages(weights[Dists], "vgg16", image, ends, mean, deviation)])
    alpha, beta = (small[name].double().flatten().split([x.shape[1] for x in sides[0]]) for name in ("alpha", "beta"))
    similarity = 0.0
    for x, y, a, b in zip(*sides, alpha, beta, strict=True):
        x, y = x.flatten(2)[0], y.flatten(2)[0]
        mx, my = x.mean(1), y.mean(1)
        covariance = (x * y).mean(1) - mx * my
        similarity += (a * (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)).sum() / total
        similarity += (
            b * (2 * covariance + 1e-6) / (x.var(1, correction=0) + y.var(1, correction=0) + 1e-6)
        ).sum() / total
    assert measures[Dists](*pair)[0] == pytest.approx(1 - similarity.item(), abs=1e-5)


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.columns[0])
def test_identity_symmetry_repetition(kind, measures, pair):
    measure, (a, b) = measures[kind], pair
    assert measure(a, a)[0] == pytest.approx(0, abs=1e-6)
    assert measure(a, b)[0] == pytest.approx(measure(b, a)[0], rel=1e-5)
    assert measure(a, b) == measure(a, b)
    assert measure(a[:20], b[:20]) == (None,) if kind is Lpips else measure(a[:20], b[:20])[0] > 0
    assert "other weights than the published" in measure.remark and "torchmetrics" in measure.identity


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.columns[0])
def test_where_weights_are_looked_for(kind, weights, monkeypatch, tmp_path):
    name = kind.columns[0]
    with pytest.raises(Unavailable, match="could not be downloaded") as caught:
        open_measure(name, Place())
    assert f"--weights {name}=PATH" in caught.value.hint
    with pytest.raises(Unavailable, match="not here"):
        open_measure(name, Place(allow_download=False))
    with pytest.raises(UsageError, match="no such file"):
        open_measure(name, Place(tmp_path / "nothing.pth"))
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 no weights")
    monkeypatch.setenv(f"HFDBENCH_{name.upper()}", str(tmp_path / "damaged.pth"))
    with pytest.raises(UsageError, match="not the weights"):
        open_measure(name, Place())
    monkeypatch.delenv(f"HFDBENCH_{name.upper()}")
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "run")))
    with pytest.raises(UsageError, match="not the weights"):
        open_measure(name, Place(tmp_path / "hostile.pth"))
    assert not (tmp_path / "run").exists()
    (tmp_path / name).mkdir()
    (tmp_path / name / kind.file).symlink_to(weights[kind])
    given = open_measure(name, Place(weights[kind]))
    assert open_measure(name, Place(data_root=tmp_path, allow_download=False)).identity == given.identity


def test_a_metric_is_added_to_stored_streams(weights, tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for number, height in enumerate((40, 33, 20)):  # the last is too small for LPIPS
        Image.fromarray(random.integers(0, 256, (height, 48, 3), np.uint8)).save(pictures / f"{number}.png")
    points = [{"id": "a", "options": {}}]
    card = CodecCard(id="mine", kind="classical", adapter="helpers_codec:Quantiser", points=points)
    request = Request(codecs=(card,), datasets=(f"folder:{pictures}",), out=tmp_path / "out", metrics=("lpips",))

    summary = run(request)  # without weights: told, null, everything else is there
    (point,) = summary.points.to_dict("records")
    assert summary.exit_code == 0 and pd.isna(point["lpips"]) and point["psnr_db"] > 20
    assert "no lpips: " in point["note"] and any("score --metric lpips" in note for note in summary.notes)
    (crops,) = (tmp_path / "out" / "images").iterdir()
    before = crops.stat().st_mtime_ns

    given = replace(request, weights=(("lpips", weights[Lpips]),))
    (point,) = score(given).points.to_dict("records")
    (path,) = (tmp_path / "out" / "quality").iterdir()
    values = parquet.read_table(path).to_pydict()["value"]
    assert values[2] is None and point["lpips"] == pytest.approx((values[0] + values[1]) / 2)
    assert "lpips lacks 1 of 3 images: too small" in point["note"] and crops.stat().st_mtime_ns == before
    assert score(given).existing == ("mine-a-" + point["dataset"],)
    (kept,) = run(replace(request, metrics=())).points.to_dict("records")
    assert kept["lpips"] == point["lpips"]

    other = random_network(tmp_path / "other.pth", "alexnet", seed=1)
    (point,) = score(replace(request, weights=(("lpips", other),))).points.to_dict("records")
    assert point["lpips"] != kept["lpips"]
    assert Results(tmp_path / "out").points()["lpips"][0] == point["lpips"]

    (tmp_path / "data" / "lpips").mkdir(parents=True)
    (tmp_path / "data" / "lpips" / Lpips.file).symlink_to(weights[Lpips])
    unasked = replace(request, metrics=(), data_root=tmp_path / "data", out=tmp_path / "unasked")
    (point,) = run(unasked).points.to_dict(
        "records"
    )  # AlexNet's weights are at hand, VGG-16's are not: no word of these
    assert point["lpips"] == kept["lpips"] and pd.isna(point["lpips_vgg"]) and "lpips_vgg" not in point["note"]
    left_out = replace(unasked, metrics=("none",), out=tmp_path / "without")
    (point,) = run(left_out).points.to_dict("records")
    assert pd.isna(point["lpips"]) and "lpips" not in point["note"] and not (tmp_path / "without" / "quality").exists()
    monkeypatch.setattr(instruments, "DEAR_S", 0)
    (told,) = [note for note in run(replace(unasked, out=left_out.out)).notes if "a megapixel" in note]
    assert told == "lpips takes a core about 1 s a megapixel; leave it out with --metric none"
    assert not any(
        "a megapixel" in note for note in run(replace(unasked, out=left_out.out)).notes
    )  # nothing to be done
    with pytest.raises(UsageError, match="add --metric dists"):
        run(replace(given, weights=(("dists", other),)))
    with pytest.raises(UsageError, match='no metric "lpip"'):
        run(replace(request, metrics=("lpip",)))
