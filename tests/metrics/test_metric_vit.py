"""FD-DINOv2 and FD-CLIP with random weights: the values of the published code and of torch-fidelity."""

import numpy as np
import pytest
import torch

from hfdbench.errors import Unavailable, UsageError
from hfdbench.metrics.networks import vit
from hfdbench.metrics.networks.extractors import Extractor, find_extractor


def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (256, 256, 3), dtype=np.uint8), np.full((256, 256, 3), 90, np.uint8)]


def dinov2_state() -> dict[str, torch.Tensor]:
    """Weights of the published file's names and shapes, two blocks of twelve: sines, which any torch gives alike."""
    block = {
        **{"norm1.weight": (768,), "norm1.bias": (768,), "attn.qkv.weight": (2304, 768), "attn.qkv.bias": (2304,)},
        **{"attn.proj.weight": (768, 768), "attn.proj.bias": (768,), "ls1.gamma": (768,)},
        **{"norm2.weight": (768,), "norm2.bias": (768,), "mlp.fc1.weight": (3072, 768), "mlp.fc1.bias": (3072,)},
        **{"mlp.fc2.weight": (768, 3072), "mlp.fc2.bias": (768,), "ls2.gamma": (768,)},
    }
    shapes = {
        **{"cls_token": (1, 1, 768), "pos_embed": (1, 1370, 768), "mask_token": (1, 768)},
        **{"patch_embed.proj.weight": (768, 3, 14, 14), "patch_embed.proj.bias": (768,)},
        **{f"blocks.{k}.{name}": shape for k in range(2) for name, shape in block.items()},
        **{"norm.weight": (768,), "norm.bias": (768,)},
    }
    state = {}
    for number, (name, shape) in enumerate(shapes.items()):
        count = int(np.prod(shape))
        wave = torch.sin(torch.arange(count, dtype=torch.float64) * (1.7 + number / 100)).float().reshape(shape)
        one = name.endswith("gamma") or ("norm" in name and name.endswith("weight"))
        state[name] = 1 + 0.2 * wave if one else wave * (0.5 if "token" in name or "pos" in name else 0.05)
    return state


# By facebookresearch/dinov2's network inside torch-fidelity's FeatureExtractorDinoV2, same weights and images.
DINOV2 = (
    ((0.10383, 2.33827, -0.95479, -2.04764), 0.82760),
    ((0.09958, 2.33097, -0.93879, -2.02186), 0.82726),
)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    pytest.importorskip("timm", reason="DINOv2 needs timm: pip install 'hfdbench[vit]'")
    path = tmp_path_factory.mktemp("dinov2") / "random.pth"
    torch.save(dinov2_state(), path)
    return Extractor("dinov2", path).build("cpu")


def test_dinov2_equals_the_published_code(dinov2):
    features = dinov2.features(images())
    assert features.shape == (2, 768) and features.dtype == np.float32
    for row, (first, mean_size) in zip(features, DINOV2, strict=True):
        assert row[:4] == pytest.approx(first, abs=2e-4)
        assert np.abs(row).mean() == pytest.approx(mean_size, abs=1e-4)


def test_dinov2_without_timm_is_unavailable_before_anything_is_downloaded(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"DINOv2 needs the package timm; pip install 'hfdbench\[vit\]'"):
        find_extractor("dinov2", None, tmp_path)


def test_dinov2_of_another_file_is_refused(tmp_path):
    pytest.importorskip("timm", reason="DINOv2 needs timm: pip install 'hfdbench[vit]'")
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(UsageError, match=r"other\.pth: not the weights of DINOv2.*dinov2_vitb14_pretrain"):
        vit.DINOv2(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not a file of weights alone"):
        vit.DINOv2(path)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """A TorchScript file with the names and shapes of the published one, as torch-fidelity wants it."""
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    torch.manual_seed(0)
    net = CLIPVisual(512, 224, 2, 768, 32)  # two layers of twelve
    net.text_projection = torch.nn.Parameter(torch.zeros(512, 512))  # its width is read off there

    class Holder(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Holder()
    for name, value in net.state_dict().items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, Holder())
            owner = getattr(owner, part)
        owner.register_parameter(leaf, torch.nn.Parameter(value.clone(), requires_grad=False))
    path = tmp_path_factory.mktemp("clip") / "random.pt"
    torch.jit.script(root).save(path)
    return path


def test_clip_equals_torch_fidelity(clip_file):
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    ours = Extractor("clip", clip_file).build("cpu").features(images())
    net = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(clip_file))
    with torch.inference_mode():
        theirs = net(torch.from_numpy(np.stack(images())).permute(0, 3, 1, 2))[0].numpy()
    assert ours.shape == (2, 512) and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5 and np.abs(ours[0] - ours[1]).max() > 1e-2


def test_clip_of_another_file_is_refused(tmp_path):
    (tmp_path / "other.pt").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"other\.pt: not the weights of CLIP.*ViT-B-32\.pt"):
        vit.CLIP(tmp_path / "other.pt")
