"""CompressAI's pretrained models with real entropy coding: bytes out of `compress()`, pixels out of `decompress()`.

Conventions: the image is padded to multiples of 64 on the right and at the bottom by repeating its border, and cropped
after decoding; the rate still divides by the original pixels. Everything runs on the CPU: the entropy parameters come
out of floating-point networks, so encoder and decoder must run the same arithmetic (same device, same library versions).

Stream: magic "cz", version, model, quality (a byte each), height, width, length of the first string (varints), the two
strings of the model (latent, hyper-latent), CRC-32 of all before. rANS decodes damaged bytes to noise, hence the CRC.

Weights are looked for in the folder HFDBENCH_COMPRESSAI (files named as CompressAI names them), in torch.hub's cache, then
downloaded by torch.hub.
"""

import os
import struct
import urllib.error
import urllib.request
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from hfdbench.errors import StreamError, Unavailable, UsageError, unknown

MAGIC, VERSION = b"cz", 1
MODELS = ("bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn")  # order: in streams
STRIDE = 64  # pixels per hyper-latent, along each side
PROBE_S = 5


class CompressAI:
    """A model of CompressAI's zoo, trained for MSE, at one of its qualities."""

    version = 1
    libraries = ("compressai", "torch")
    tolerance = 1

    def __init__(self, model: str, quality: int):
        if model not in MODELS:
            raise unknown("model of CompressAI's zoo", model, MODELS)
        import torch
        from compressai.zoo.image import model_architectures, model_urls
        from compressai.zoo.pretrained import load_pretrained

        if quality not in model_urls[model]["mse"]:
            raise UsageError(f"quality = {quality}: {model} has 1 to {max(model_urls[model]['mse'])}")
        state = _load_weights(model_urls[model]["mse"][quality])
        self._net = model_architectures[model].from_state_dict(load_pretrained(state)).eval()
        self._net.update()  # entropy tables; does nothing where the file brings them
        self._head = MAGIC + bytes([VERSION, MODELS.index(model), quality])
        self._torch = torch

    def encode(self, image: np.ndarray) -> bytes:
        height, width = image.shape[:2]
        padded = np.pad(image, ((0, -height % STRIDE), (0, -width % STRIDE), (0, 0)), mode="edge")
        x = self._torch.from_numpy(padded.astype(np.float32) / 255).permute(2, 0, 1)[None]
        with self._torch.inference_mode():
            coded = self._net.compress(x)
        (latent,), (hyper,) = coded["strings"]
        body = self._head + varint(height) + varint(width) + varint(len(latent)) + latent + hyper
        return body + struct.pack("<I", zlib.crc32(body))

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if stream[:3] != self._head[:3]:
            raise StreamError("not a stream of CompressAI's zoo, or of another version")
        if stream[3:5] != self._head[3:]:
            raise StreamError("stream of another model or quality of CompressAI's zoo")
        body = stream[:-4]
        if len(stream) < 12 or struct.pack("<I", zlib.crc32(body)) != stream[-4:]:
            raise StreamError("checksum differs: the stream is damaged or truncated")
        height, at = read_varint(body, 5)
        width, at = read_varint(body, at)
        length, at = read_varint(body, at)
        shape = (-(-height // STRIDE), -(-width // STRIDE))
        with self._torch.inference_mode():
            x = self._net.decompress([[body[at : at + length]], [body[at + length :]]], shape)["x_hat"]
        pixels = x[0, :, :height, :width].clamp(0, 1).mul(255).round().to(self._torch.uint8)
        return pixels.permute(1, 2, 0).contiguous().numpy()


def _load_weights(url: str) -> dict:
    import torch

    name = url.rsplit("/", 1)[-1]
    folder = os.environ.get("HFDBENCH_COMPRESSAI")
    local = Path(folder) / name if folder else None
    if local is not None and local.is_file():
        return torch.load(local, map_location="cpu", weights_only=True)
    cached = (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()
    if not cached and (silence := _silence(url.split("/")[2])):
        raise _no_weights(silence)
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as error:
        raise _no_weights(f"{name} cannot be downloaded: {error}") from None


@cache  # one probe per process: a card has up to eight points
def _silence(host: str) -> str:
    """Why a server cannot be reached, or "" when it answers. torch.hub itself would wait without limit."""
    try:
        urllib.request.urlopen(urllib.request.Request(f"https://{host}/", method="HEAD"), timeout=PROBE_S).close()
    except urllib.error.HTTPError:
        return ""  # a refusal is an answer
    except OSError as error:
        return f"the weights are not here and {host} cannot be reached: {error}"
    return ""


def _no_weights(reason: str) -> Unavailable:
    return Unavailable(reason, "download CompressAI's .pth.tar files to a folder and set HFDBENCH_COMPRESSAI to it")


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
