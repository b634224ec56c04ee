"""Networks of other people, run by the functions that their projects publish; none of their code is part of hfdbench.

Conventions
    repository   option of most: a checkout of the project, as a rule "{env:NAME}". Its code is part of the codec's key.
    pixels       the picture is padded to a multiple of the network's stride by repeating its border, and cropped afterwards;
                 networks see float32, 1 x 3 x H x W, in 0 to 1, and their output is clipped and rounded.
    stream       magic "pe", version, height, width and number of strings, the length of each (varints), the strings, CRC-32 of all
                 before: an entropy decoder turns damaged bytes into noise. Where a project's own file is the stream, it says so.
    seed         torch's generator is set before every decoding.
"""

import contextlib
import importlib
import io
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hfdbench.codecs.compressai import read_varint, varint
from hfdbench.errors import StreamError, Unavailable, UsageError
from hfdbench.files.temporary import temporary_folder

MAGIC, VERSION = b"pe", 1
ENVIRONMENT = re.compile(r"\{env:([^{}]*)\}")


def pack(height: int, width: int, strings: list[bytes]) -> bytes:
    """A stream of a picture's size and the strings that its network made."""
    numbers = [height, width, len(strings), *map(len, strings)]
    body = b"".join([MAGIC, bytes([VERSION]), *map(varint, numbers), *strings])
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(stream: bytes) -> tuple[int, int, list[bytes]]:
    """Height, width and strings of a stream. Raises StreamError."""
    body = stream[:-4]
    if stream[:3] != MAGIC + bytes([VERSION]):
        raise StreamError("not a stream of hfdbench.codecs.peers, or of another version")
    if len(stream) < 10 or struct.pack("<I", zlib.crc32(body)) != stream[-4:]:
        raise StreamError("checksum differs: the stream is damaged or truncated")
    numbers, at = [], 3
    for _ in range(3):
        number, at = read_varint(body, at)
        numbers.append(number)
    height, width, count = numbers
    lengths, strings = [], []
    for _ in range(count):
        length, at = read_varint(body, at)
        lengths.append(length)
    for length in lengths:
        strings.append(body[at : at + length])
        at += length
    if at != len(body) or not height or not width:
        raise StreamError("the stream is not as long as its header says")
    return height, width, strings


class Peer:
    """A network behind hfdbench's two methods. Subclasses turn a padded picture into strings and back."""

    stride: int = 64
    least: int = 0  # pixels of a padded side
    device: str = "cpu"

    def compress(self, x: Any, height: int, width: int) -> list[bytes]:
        """Strings of a padded picture, 1 x 3 x height x width in 0 to 1."""
        raise NotImplementedError

    def decompress(self, strings: list[bytes], height: int, width: int) -> Any:
        """The padded picture, 1 x 3 x height x width, about in 0 to 1."""
        raise NotImplementedError

    def encode(self, image: np.ndarray) -> bytes:
        import torch

        height, width = image.shape[:2]
        down, right = self._padded(height) - height, self._padded(width) - width
        padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).to(self.device).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad(), _quiet():
            return pack(height, width, self.compress(x, *padded.shape[:2]))

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        import torch

        height, width, strings = unpack(stream)
        torch.manual_seed(seed)
        with torch.no_grad(), _quiet():
            x = self.decompress(strings, self._padded(height), self._padded(width))
        return _pixels(x)[:height, :width].copy()

    def _padded(self, side: int) -> int:
        return max(self.least, side + -side % self.stride)


class Strings(Peer):
    """A network with CompressAI's two functions: `compress(x)["strings"]` and `decompress(strings, shape)["x_hat"]`.

    Parameters
    ----------
    repository : str
        The checkout.
    model : str
        "module:Class" in it.
    checkpoint : str
        File of weights: a state of the network, below the key `state` unless that is empty.
    arguments : dict, optional
        Of the class.
    config : str
        "module:function" whose result is the class's argument `config`.
    stride, least, hyper_stride : int
        Multiple that pictures are padded to, the least they are padded to, and pixels a hyper-latent, along each side.
    needs_gpu : bool
        Whether the project's code works on a GPU alone.
    """

    version = 1
    libraries = ("torch", "compressai")

    def __init__(
        self,
        repository: str,
        model: str,
        checkpoint: str,
        arguments: dict[str, Any] | None = None,
        config: str = "",
        state: str = "state_dict",
        stride: int = 128,
        least: int = 0,
        hyper_stride: int = 64,
        needs_gpu: bool = False,
        hint: str = "",
        device: str = "cpu",
    ):
        _need_gpu(needs_gpu, device)
        _enter(repository, hint)
        file = _file(checkpoint, hint)
        arguments = dict(arguments or {})
        if config:
            arguments["config"] = _named(config)()
        self._net = _named(model)(**arguments)
        weights = _state(file)
        weights = weights[state] if state else weights
        self._net.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
        self._net = self._net.to(device).eval()
        self._net.update()
        self.stride, self.least, self._hyper_stride, self.device = stride, least, hyper_stride, device

    def compress(self, x: Any, height: int, width: int) -> list[bytes]:
        return [batch[0] for batch in self._net.compress(x)["strings"]]

    def decompress(self, strings: list[bytes], height: int, width: int) -> Any:
        shape = (height // self._hyper_stride, width // self._hyper_stride)
        return self._net.decompress([[string] for string in strings], shape)["x_hat"]


class MSILLM(Peer):
    """MS-ILLM by the package neuralcompression, the one that its torch.hub entry points load. `model`: such an entry point."""

    version = 1
    libraries = ("torch", "neuralcompression", "compressai")

    def __init__(self, model: str, weights: list[Path]):
        from neuralcompression.zoo import _msillm  # type: ignore[import-not-found]

        self._net = getattr(_msillm, model)(pretrained=False)
        self._net.load_state_dict(_state(weights[0]))
        self._net.eval()
        self._net.update()
        self._net.update_tensor_devices("compress")

    def compress(self, x: Any, height: int, width: int) -> list[bytes]:
        made = self._net.compress(x)
        return [made.latent_strings[0], made.hyper_latent_strings[0]]

    def decompress(self, strings: list[bytes], height: int, width: int) -> Any:
        from neuralcompression import HyperpriorCompressedOutput  # type: ignore[import-not-found]

        latent, hyper = strings
        return self._net.decompress(HyperpriorCompressedOutput([latent], [hyper], (height, width), (height, width)))


class LossyVAE(Peer):
    """QARV and QRes-VAE by `lvae.get_model`.

    `model`: a name of its registry; `lmb`: the rate of QARV; `arguments`: further ones of get_model.
    """

    version = 1
    libraries = ("torch", "compressai", "timm")

    def __init__(
        self,
        repository: str,
        model: str,
        weights: list[Path],
        lmb: float | None = None,
        arguments: dict[str, Any] | None = None,
        hint: str = "",
        device: str = "cpu",
    ):
        _enter(repository, hint)
        self._net = _named("lvae:get_model")(model, **(arguments or {}), pretrained=str(weights[0])).to(device).eval()
        self._net.compress_mode(True)
        self._lmb, self.device = lmb, device

    def compress(self, x: Any, height: int, width: int) -> list[bytes]:
        if self._lmb is not None:
            return [self._net.compress(x, lmb=self._lmb)]
        return [strings[0] for strings in self._net.compress(x)[:-1]]  # the last is the shape

    def decompress(self, strings: list[bytes], height: int, width: int) -> Any:
        if self._lmb is not None:
            return self._net.decompress(strings[0])
        shape = (1, -1, height // self.stride, width // self.stride)
        return self._net.decompress([*([string] for string in strings), shape])


class CoD(Peer):
    """CoD in pixels or latents, and CoD-Lite, by the functions of their inference scripts: on a GPU, in bfloat16.

    `weights`: checkpoint and configuration. `steps`: of the sampler AdamLM with guidance `guidance`; none for the one step of
    CoD-Lite.
    """

    version = 1
    libraries = ("torch", "diffusers")

    def __init__(
        self,
        repository: str,
        weights: list[Path],
        steps: int | None = None,
        guidance: float = 3.0,
        hint: str = "",
        device: str = "cpu",
    ):
        _need_gpu(True, device)
        _enter(repository, hint)
        import yaml  # type: ignore[import-not-found]
        from omegaconf import OmegaConf  # type: ignore[import-not-found]

        config = OmegaConf.create(yaml.safe_load(weights[1].read_text())).model
        make, load = _named("cod.utils.test_utils:instantiate_class"), _named("cod.utils.test_utils:load_model")
        self._steps, self._guidance, self.device = steps, guidance, device
        if steps is None:
            self._net = load(_state(weights[0]), make(config.net).to(device), prefix="net.")
        else:
            self._vae, self._conditioner = make(config.vae).to(device), make(config.conditioner).to(device)
            self._latent = config.latent
            self._net = load(_state(weights[0]), make(config.denoiser).to(device), prefix="ema_denoiser.")
        self._net.eval()

    def compress(self, x: Any, height: int, width: int) -> list[bytes]:
        with self._cast():
            return [bytes(self._net.compress(x if self._steps is None else self._conditioner(x)[0]))]

    def decompress(self, strings: list[bytes], height: int, width: int) -> Any:
        import torch

        with self._cast():
            if self._steps is None:
                condition = self._net.decompress(list(strings[0]), height, width, self.device)
                nothing = torch.zeros((1, 3, height, width), device=self.device, dtype=condition.dtype)
                return (self._net.inference(y=nothing, cond=condition) + 1) / 2
            size = (1, 4, height // 8, width // 8) if self._latent else (1, 3, height, width)
            noise = torch.randn(size).to(self.device)
            condition = self._net.decompress(
                list(strings[0]), height, width, self.device, uncond=self._conditioner(torch.rand_like(noise))[1]
            )
            sampler = _named("cod.inference:create_sampler")("adam2", self._steps, self._guidance)
            return (self._vae.decode(sampler(self._net, noise, None, None, codec_cond=condition)) + 1) / 2

    def _cast(self) -> Any:
        import torch

        return torch.autocast(device_type="cuda", dtype=torch.bfloat16)


class StableCodec(Peer):
    """StableCodec by the class of its repository, on a GPU, without its colour fix, which needs the original.

    `checkpoint`, `elic`: its files of weights; `sd_turbo`: folder of SD-Turbo.
    """

    version = 1
    libraries = ("torch", "diffusers", "transformers", "compressai")
    stride = 256

    def __init__(self, repository: str, checkpoint: str, elic: str, sd_turbo: str, hint: str = "", device: str = "cpu"):
        _need_gpu(True, device)
        root = _enter(repository, hint)
        _enter(str(root / "src"), hint)
        given = {"sd_path": _filled(sd_turbo, hint), "elic_path": str(_file(elic, hint))}
        given |= {"codec_path": str(_file(checkpoint, hint)), "img_path": "", "rec_path": "", "bin_path": ""}
        words = [f"--{name}={value}" for name, value in given.items()]
        options = _named("my_utils.testing_utils:parse_args_testing")(words)
        self._net = _named("StableCodec:StableCodec")(sd_path=given["sd_path"], args=options).to(device).eval()
        self._net.codec.update(force=True)
        self.device = device

    def compress(self, x: Any, height: int, width: int) -> list[bytes]:
        made = self._net.compress(x * 2 - 1)
        shape = struct.pack("<HH", *made["shape"])
        return [shape, *(batch[0] for batch in made["strings"])]

    def decompress(self, strings: list[bytes], height: int, width: int) -> Any:
        shape, *coded = strings
        return self._net.decompress([[string] for string in coded], struct.unpack("<HH", shape), [1]).float() / 2 + 0.5


class HiFiC:
    """HiFiC in PyTorch by the functions of its compress.py. The stream is the project's own file."""

    version = 1
    libraries = ("torch", "numpy", "autograd")

    def __init__(self, repository: str, checkpoint: str, hint: str = "", device: str = "cpu"):
        import logging

        root, file = _enter(repository, hint), _file(checkpoint, hint)
        os.chdir(root)  # its perceptual loss opens files by relative names
        mode = _named("default_config:ModelModes").EVALUATION
        load = _named("src.helpers.utils:load_model")
        with _quiet():
            self._args, self._net, _ = load(str(file), logging.getLogger("hific"), device, model_mode=mode)
            self._net.Hyperprior.hyperprior_entropy_model.build_tables()
        self._files, self.device = importlib.import_module("src.compression.compression_utils"), device

    def encode(self, image: np.ndarray) -> bytes:
        import torch

        x = torch.from_numpy(image.copy()).to(self.device).permute(2, 0, 1)[None].float() / 255
        x = x * 2 - 1 if self._args.normalize_input_image else x
        with torch.no_grad(), _quiet(), temporary_folder() as folder:
            path = folder / "stream.hfc"
            self._files.save_compressed_format(self._net.compress(x, silent=True), out_path=str(path))
            return path.read_bytes()

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        import torch

        torch.manual_seed(seed)
        with torch.no_grad(), _quiet(), temporary_folder() as folder:
            path = folder / "stream.hfc"
            path.write_bytes(stream)
            try:
                coded = self._files.load_compressed_format(str(path))
            except Exception as error:  # its reader checks two separators and fails in any way besides
                raise StreamError(f"not a file of HiFiC's compress.py: {error or type(error).__name__}") from None
            return _pixels(self._net.decompress(coded))


def _pixels(x: Any) -> np.ndarray:
    import torch

    return x[0].float().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def _filled(text: str, hint: str) -> str:
    for name in ENVIRONMENT.findall(text):
        if not os.environ.get(name):
            raise Unavailable(f"the environment variable {name} is not set", hint)
    return ENVIRONMENT.sub(lambda match: os.environ[match[1]], text)


def _enter(repository: str, hint: str) -> Path:
    """Let Python find a repository's modules, before those of the same name elsewhere."""
    root = Path(_filled(repository, hint))
    if not root.is_dir():
        raise Unavailable(f"{root}: no such folder", hint)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return root


def _file(text: str, hint: str) -> Path:
    path = Path(_filled(text, hint))
    if not path.is_file():
        raise Unavailable(f"{path}: no such file", hint)
    return path


def _named(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise UsageError(f"{reference}: the module has no such name; take the version that the card names") from None
    except ModuleNotFoundError as error:
        raise Unavailable(f"{reference}: no module {error.name}", "take the version that the card names") from None


def _state(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _need_gpu(needed: bool, device: str) -> None:
    if needed and device == "cpu":
        raise Unavailable("the project's code works on a GPU alone", "run it with --device cuda where there is one")


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Its projects print as they go."""
    return contextlib.redirect_stdout(io.StringIO())
