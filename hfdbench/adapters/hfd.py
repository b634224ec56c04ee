"""Codecs `elic-mse`, `hfd` and kin: one autoencoder's streams, decoded in different ways.

The stream is the container of hfdbench/hfd/container.py. Entropy coding runs on the CPU in exact arithmetic, so a stream made
anywhere decodes anywhere; the transforms and the sampler run on `device`.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import StreamError


class HFD:
    """One rate of the autoencoder and one way to decode it.

    weights: the autoencoder's file, then the decoder's (not for "mse"). decoder: "mse" is the reconstruction itself,
    "diffusion" samples with `steps` network evaluations, noise knob `gamma` and schedule `shift`, and adds `strength` of
    the sampled detail.
    Raises ValueError for options out of range.
    """

    def __init__(
        self,
        weights: list[Path],
        rate: int,
        decoder: Literal["mse", "diffusion"] = "mse",
        steps: int = 32,
        gamma: float = 0.0,
        shift: float = 1.0,
        strength: float = 1.0,
        tile: int = 896,
        device: str = "cpu",
    ):
        from ..hfd.decoder import Sampling
        from ..hfd.weights import read_autoencoder, read_decoder

        if decoder not in ("mse", "diffusion"):
            raise ValueError(f'decoder "{decoder}" is unknown; use "mse" or "diffusion"')
        files = 1 + (decoder == "diffusion")
        if len(weights) != files:
            raise ValueError(f'decoder "{decoder}" takes {files} weight file(s), got {len(weights)}')
        model = read_autoencoder(weights[0])
        self._model_id = model.id
        rates = len(model.module.config.lambdas)
        if not 0 <= rate < rates:
            raise ValueError(f"rate {rate} is not one of 0 to {rates - 1}")
        self._rate, self._device = rate, device
        self._coder = model.module  # exact coding stays on the CPU
        self._transforms = model.module if device == "cpu" else read_autoencoder(weights[0]).module.to(device)
        self._decoder = read_decoder(weights[1]).module.to(device) if decoder == "diffusion" else None
        self._sampling = Sampling(steps, gamma, shift, strength, tile)

    def encode(self, image: np.ndarray) -> bytes:
        """Raises ValueError for a side over 65,535 pixels."""
        import torch

        from ..hfd.autoencoder import pad
        from ..hfd.container import Coded, check_size

        height, width = image.shape[:2]
        check_size(height, width)
        with torch.inference_mode():
            x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self._device).float() / 255
            y = self._transforms.analyse(pad(x), torch.tensor([self._rate], device=self._device)).cpu()
            payload = self._coder.compress(y, self._rate)
        return Coded(self._model_id, self._rate, height, width, payload).pack()

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        """Raises StreamError for a stream that is damaged, foreign or of another model."""
        import torch

        from ..hfd.container import Coded

        coded = Coded.unpack(stream)
        if coded.model != self._model_id:
            raise StreamError(
                f"hfd stream of model {coded.model.hex()}, these weights are {self._model_id.hex()}; "
                "decode with the weights it was made with"
            )
        if coded.rate != self._rate:
            raise StreamError(f"hfd stream of rate {coded.rate}, this point decodes rate {self._rate}")
        shape = (-(-coded.height // 64) * 4, -(-coded.width // 64) * 4)
        with torch.inference_mode():
            y_hat = self._coder.decompress(coded.payload, shape, self._rate).to(self._device)
            x_hat = self._transforms.synthesise(y_hat, torch.tensor([self._rate], device=self._device))
            # Eight bits, as in training: the sampler then starts from what elic-mse shows.
            image = (x_hat[:, :, : coded.height, : coded.width].clamp(0, 1) * 255).round() / 255
            if self._decoder is not None:
                image = self._decoder.sample(image, self._rate, seed, self._sampling)
            return (image[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
