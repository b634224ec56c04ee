"""Inception features: torch-fidelity's values, whatever the batch, the order and the file format."""

import dataclasses
import http.server
import os
import pickle
import threading
import time
import weakref
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_metrics import patches, random_weights, theirs

from hfdbench.cards.schema import Source
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files import places
from hfdbench.metrics.distribution import fingerprint
from hfdbench.metrics.networks import inception as inception_module
from hfdbench.metrics.networks import weights as features
from hfdbench.metrics.networks.inception import Inception, find_inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def inception(weights):
    return Inception(weights, batch=4)


@pytest.fixture
def real_weights():
    root = os.environ.get("HFDBENCH_DATA")
    found = sorted(Path(root, "inception").glob("*.pth")) if root else []
    if not found:
        pytest.skip("needs HFDBENCH_DATA with inception/*.pth")
    return found[0]


@pytest.mark.parametrize("size", [(256, 256), (120, 333), (299, 299)])
def test_equals_torch_fidelity(inception, weights, size):
    images = patches(3, *size)
    expected = theirs(weights, images).numpy()
    assert expected.std(axis=0).max() > 0.1  # the network tells the patches apart
    np.testing.assert_allclose(inception.features(images), expected, atol=1e-4)


def test_equals_torch_fidelity_with_trained_weights(real_weights):
    images = patches(4, seed=1)
    np.testing.assert_allclose(Inception(real_weights).features(images), theirs(real_weights, images), atol=1e-4)


def test_do_not_depend_on_order_neighbours_or_batch(inception, weights):
    images = patches(9)
    whole = inception.features(iter(images))
    assert whole.shape == (9, 2048) and whole.dtype == np.float32
    np.testing.assert_array_equal(inception.features(images[::-1]), whole[::-1])
    parts = [inception.features(images[:1]), inception.features(images[1:6]), inception.features(images[6:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_allclose(Inception(weights, batch=3).features(images), whole, atol=1e-5)


def test_half_precision_file_is_computed_in_float32(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    halves = {name: value.half() if value.ndim == 4 else value for name, value in state.items()}
    torch.save(halves, tmp_path / "half.pth")
    images = patches(2)
    ours = Inception(tmp_path / "half.pth", batch=4).features(images)
    np.testing.assert_allclose(ours, theirs(tmp_path / "half.pth", images), atol=1e-4)


def test_holds_one_patch_beside_its_batch(inception):
    alive = []

    def stream():
        for image in patches(9):
            references = [reference for reference in alive if reference() is not None]
            assert len(references) <= 1
            patch = image.copy()
            alive.append(weakref.ref(patch))
            yield patch

    assert len(inception.features(stream())) == 9


def test_leaves_the_precision_settings_of_the_caller(inception):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    inception.features(patches(1))
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic) == before


def test_no_patch_gives_no_feature(inception):
    assert inception.features([]).shape == (0, 2048)


def test_refuses_patches_of_two_sizes_and_other_pictures(inception):
    with pytest.raises(ValueError, match=r"patch 1 is \(128, 256, 3\)"):
        inception.features([*patches(1), *patches(1, 128, 256)])
    with pytest.raises(ValueError, match="uint8"):
        inception.features([np.zeros((256, 256, 3), np.float32)])
    with pytest.raises(ValueError, match="H x W x 3"):
        inception.features([np.zeros((256, 256), np.uint8)])


def test_id_names_file_rule_and_type(inception, weights):
    assert inception.id == f"tf1-{sha256(weights.read_bytes()).hexdigest()[:12]}-f32"
    assert inception.label == "FID (other Inception)"


def test_only_the_published_weights_are_called_fid(real_weights):
    with open(real_weights, "rb") as stream:
        label = fingerprint.weights_label(sha256(stream.read()).hexdigest())
    assert label == ("FID" if real_weights.name == features.INCEPTION.name else "FID (refitted Inception)")


# --- bad files


class _Hostile:
    def __reduce__(self):
        return os.mkdir, (os.environ["HOSTILE"],)


def _write(kind: str, path: Path, weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    if kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(weights.read_bytes()[:100_000])
    elif kind == "code":
        path.write_bytes(pickle.dumps({"fc.bias": _Hostile()}, protocol=2))
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "other model":
        torch.save({"fc.weight": torch.zeros(10, 2048)}, path)
    elif kind == "wrong shape":
        torch.save({**state, "Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)}, path)
    elif kind == "nan":
        torch.save({**state, "fc.bias": torch.full((1008,), torch.nan)}, path)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "code", "tensor", "other model", "wrong shape", "nan"])
def test_bad_file_is_a_usage_error_with_its_hint(kind, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTILE", str(tmp_path / "ran"))
    _write(kind, tmp_path / "bad.pth", weights)
    with pytest.raises(UsageError, match=r"bad\.pth: .*; give weights-inception"):
        Inception(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


# --- where the file is looked for


def published_at(monkeypatch, url: str, digest: str) -> None:
    moved = dataclasses.replace(features.INCEPTION, source=Source(url=url, sha256=digest))
    monkeypatch.setattr(inception_module, "INCEPTION", moved)


@pytest.fixture
def empty_machine(tmp_path, monkeypatch):
    """No variable, an empty cache, and a download that finds nobody listening."""
    monkeypatch.delenv(features.INCEPTION.variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    published_at(monkeypatch, "http://127.0.0.1:9/weights.pth", "0" * 64)
    return tmp_path


def _touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_order_of_places(empty_machine, monkeypatch):
    cached = _touch(empty_machine / "torch" / "hub" / "checkpoints" / features.INCEPTION.name)
    assert find_inception(None, empty_machine) == cached
    below = _touch(empty_machine / "inception" / "some.pth")
    assert find_inception(None, empty_machine) == below
    named = _touch(empty_machine / "named.pth")
    monkeypatch.setenv(features.INCEPTION.variable, str(named))
    assert find_inception(None, empty_machine) == named
    given = _touch(empty_machine / "given.pth")
    assert find_inception(given, empty_machine) == given


def test_cache_is_torch_hub_s(monkeypatch, tmp_path):
    for variables in ({"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path)}, {}):
        monkeypatch.delenv("TORCH_HOME", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert places.torch_hub_checkpoints() == Path(torch.hub.get_dir()) / "checkpoints"


def test_file_asked_for_must_exist(empty_machine, monkeypatch):
    with pytest.raises(UsageError, match=r"--inception .*absent\.pth: no such file"):
        find_inception(empty_machine / "absent.pth", None)
    monkeypatch.setenv(features.INCEPTION.variable, str(empty_machine / "absent.pth"))
    with pytest.raises(UsageError, match=features.INCEPTION.variable):
        find_inception(None, None)


def test_two_files_are_not_chosen_between_unless_one_is_the_published(empty_machine):
    for name in ("a.pth", "b.pth"):
        _touch(empty_machine / "inception" / name)
    with pytest.raises(UsageError, match=r"a\.pth, b\.pth"):
        find_inception(None, empty_machine)
    published = _touch(empty_machine / "inception" / features.INCEPTION.name)
    assert find_inception(None, empty_machine) == published


@pytest.mark.parametrize("allow_download", [False, True])
def test_missing_everywhere_gives_a_hint(empty_machine, allow_download):
    with pytest.raises(Unavailable) as caught:
        find_inception(None, empty_machine, allow_download=allow_download)
    assert "--inception" in caught.value.hint and "\n" not in str(caught.value)
    assert ("could not be downloaded" in caught.value.reason) == allow_download


@pytest.mark.parametrize("intact", [True, False])
def test_download_is_verified(empty_machine, monkeypatch, intact):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"weights")

        def log_message(self, *arguments):
            pass

    content = b"weights" if intact else b"another"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        published_at(monkeypatch, url, sha256(content).hexdigest())
        try:
            if intact:
                assert find_inception(None, empty_machine).read_bytes() == content
            else:
                with pytest.raises(Unavailable, match="sha256 differs"):
                    find_inception(None, empty_machine)
        finally:
            server.shutdown()
    cache = empty_machine / "torch" / "hub" / "checkpoints"
    left = features.INCEPTION.name if intact else f"{features.INCEPTION.name}.failed"
    assert [path.name for path in cache.iterdir()] == [left]


def test_a_failed_download_is_tried_once_a_day(empty_machine, monkeypatch):
    tries = []

    def fail(*_: object, **__: object) -> None:
        tries.append(1)
        raise Unavailable("no network", "connect it")

    monkeypatch.setattr("hfdbench.metrics.networks.weights.download", fail)
    for _ in range(3):
        with pytest.raises(Unavailable, match="could not be downloaded \\(no network"):
            find_inception(None, empty_machine)
    assert len(tries) == 1
    (failed,) = (empty_machine / "torch").rglob("*.failed")
    with pytest.raises(Unavailable, match="delete"):
        find_inception(None, empty_machine)
    a_day_ago = time.time() - 25 * 3600
    os.utime(failed, (a_day_ago, a_day_ago))
    with pytest.raises(Unavailable):
        find_inception(None, empty_machine)
    assert len(tries) == 2
    failed.unlink()
    with pytest.raises(Unavailable):
        find_inception(None, empty_machine)
    assert len(tries) == 3
