"""Codecs `elic-mse`, `hfd` and kin: one autoencoder's streams, decoded in different ways; and `hfd-jpeg` and kin: any codec's.

The autoencoder's stream is the container of hfdbench/hfd/container.py. Entropy coding runs on the CPU in exact arithmetic, so a
stream made anywhere decodes anywhere; the transforms and the decoder run on `device`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfdbench.codecs.protocol import BasePoint
from hfdbench.errors import CodecError, StreamError, UsageError

if TYPE_CHECKING:
    from hfdbench.hfd.decoder import Sampling
    from hfdbench.hfd.weights import Model


class HFD:
    """One rate of the autoencoder and one way to decode it.

    weights: the autoencoder's file, then the decoder's; with the autoencoder's alone the reconstruction itself is the result.
    sampling: how the decoder is run, by the names of hfdbench.hfd.decoder.Sampling. Raises UsageError for anything unknown
    or out of range, for files that are not such weights, and for a solver that does not suit the decoder's objective.
    """

    version = 1
    libraries = ("torch",)
    tolerance = 1

    def __init__(self, weights: list[Path], rate: int, sampling: dict | None = None, device: str = "cpu"):
        try:
            self._open(weights, rate, sampling, device)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _open(self, weights: list[Path], rate: int, sampling: dict | None, device: str) -> None:
        from hfdbench.hfd.weights import read_autoencoder

        if len(weights) not in (1, 2):
            raise ValueError(
                f"{len(weights)} weight files; give the autoencoder's and, unless for its own reconstruction, the decoder's"
            )
        if (sampling is None) != (len(weights) == 1):
            raise ValueError("sampling goes with the weights of a decoder: give both or neither")
        model = read_autoencoder(weights[0])
        self._model_id = model.id
        rates = len(model.module.config.lambdas)
        if not 0 <= rate < rates:
            raise ValueError(f"rate {rate} is not one of 0 to {rates - 1}")
        self._rate, self._device = rate, device
        self._coder = model.module  # exact coding stays on the CPU
        self._transforms = model.module if device == "cpu" else read_autoencoder(weights[0]).module.to(device)
        self._decoder = None
        if len(weights) > 1:
            decoder, self._sampling = _open_decoder(weights[1], sampling or {})
            if base := decoder.metadata.get("base"):
                raise ValueError(f"{weights[1].name} decodes {base}, not an autoencoder's streams; name it as base")
            self._decoder = decoder.module.to(device)

    def encode(self, image: np.ndarray) -> bytes:
        """Raises CodecError for a side over 65,535 pixels."""
        from hfdbench.hfd import coding
        from hfdbench.hfd.container import Coded, check_size

        height, width = image.shape[:2]
        try:
            check_size(height, width)
        except ValueError as error:
            raise CodecError(str(error)) from None
        payload = coding.encode(image, self._rate, self._transforms, self._coder)
        return Coded(self._model_id, self._rate, height, width, payload).pack()

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        """Raises StreamError for a stream that is damaged, foreign or of another model."""
        import torch

        from hfdbench.hfd import coding

        coded = self._unpack(stream)
        image, latents = coding.decode(
            coded.payload, coded.height, coded.width, self._rate, self._transforms, self._coder
        )
        if self._decoder is None:
            return image
        if self._decoder.config.latents:
            with torch.inference_mode():
                latents = self._coder.unscale(latents, torch.tensor([self._rate]))
        else:
            latents = None  # and their memory is free while the decoder samples
        at_once = 1 if self._device == "cpu" else 8
        return self._decoder.sample(image, self._rate, seed, self._sampling, latents, at_once)

    def ledger(self, stream: bytes) -> dict[str, int]:
        """Bytes of a stream by what they are for. Latents share their rANS stream with the hyper-latents: they are the rest."""
        from hfdbench.hfd import coding
        from hfdbench.hfd.container import HEADER

        coded = self._unpack(stream)
        boxes = list(coding.boxes(coded.height, coded.width, coding.SLICE))
        hyper = 0
        for (top, bottom, left, right), part in zip(boxes, coding.split(coded.payload, len(boxes)), strict=True):
            hyper += self._coder.hyper_bytes(part, ((bottom - top) // 16, (right - left) // 16))
        header = HEADER.size + coding.LENGTH.size * (len(boxes) - 1)
        return {"header": header, "hyper-latents": hyper, "latents": len(stream) - header - hyper}

    def _unpack(self, stream: bytes):
        from hfdbench.hfd.container import Coded

        coded = Coded.unpack(stream)
        if coded.model != self._model_id:
            raise StreamError(
                f"hfd stream of model {coded.model.hex()}, these weights are {self._model_id.hex()}; "
                "decode with the weights it was made with"
            )
        if coded.rate != self._rate:
            raise StreamError(f"hfd stream of rate {coded.rate}, this point decodes rate {self._rate}")
        return coded


class BaseDecoder:
    """A decoder of stage 2 on another codec: the base's streams, decoded by the base, then sampled.

    Parameters
    ----------
    base : BasePoint
        The base's point; the rate is its place among the points that the weights were trained on.
    weights : list of Path
        The decoder's file, alone.
    sampling : dict
        How the decoder is run, by the names of hfdbench.hfd.decoder.Sampling.
    device : str
        Of the decoder; the base is built for it, too.

    Raises
    ------
    UsageError
        For weights of another base or without the base's point, options that are unknown or out of range, files that are
        not such weights, and a solver that does not suit the decoder's objective.
    """

    version = 1
    libraries = ("torch",)
    tolerance = 1

    def __init__(self, base: BasePoint, weights: list[Path], sampling: dict, device: str = "cpu"):
        try:
            if len(weights) != 1:
                raise ValueError(f"{len(weights)} weight files; give the decoder's alone, the base is {base.id}")
            decoder, self._sampling = _open_decoder(weights[0], sampling)
            trained_on, points = decoder.metadata.get("base"), json.loads(decoder.metadata.get("points", "[]"))
            if trained_on != base.id:
                raise ValueError(f"{weights[0].name} decodes {trained_on or 'an autoencoder'}, not {base.id}")
            if base.point not in points:
                raise ValueError(f"{weights[0].name} knows {base.id} at {', '.join(points)}, not at {base.point}")
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._rate: int = points.index(base.point)
        self._base, self._device = base.codec, device
        self._decoder = decoder.module.to(device)

    def encode(self, image: np.ndarray) -> bytes:
        """The base's stream."""
        return self._base.encode(image)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        """Raises whatever the base raises for a stream that it cannot honour."""
        image = self._base.decode(stream, seed=seed)
        at_once = 1 if self._device == "cpu" else 8
        return self._decoder.sample(image, self._rate, seed, self._sampling, None, at_once)


def _open_decoder(path: Path, sampling: dict) -> "tuple[Model, Sampling]":
    """Raises ValueError for options that are unknown or do not suit the decoder's objective."""
    from hfdbench.hfd.decoder import AT_ONCE, Sampling
    from hfdbench.hfd.weights import configured, read_decoder

    decoder, how = read_decoder(path), configured(Sampling, sampling)
    once = decoder.metadata.get("objective") in AT_ONCE
    if how.solver != "none" and once != (how.solver == "once"):
        needs = 'solver "once"' if once else "a solver that samples"
        raise ValueError(f'{path.name} was trained for {needs}, not for "{how.solver}"')
    return decoder, how
