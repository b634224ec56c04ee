# pyright: basic
"""Training pairs of stage 2: a photograph's part, its reconstruction by the frozen base, the base's latents.

A base is what a decoder of stage 2 sits on: an autoencoder's weights, or points of any codec card. Pairs are made once, from
larger parts whose border is dropped, so that no pair shows what coding does at a picture's edge (HFD, arXiv:2305.18231, section
5.3: 640 pixels, of which a border of 64 is dropped).
"""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import Codec, load_codec
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.atomic import replacing
from hfdbench.hfd.autoencoder import Autoencoder
from hfdbench.training.photos import Photos

GRID = 16  # pixels per latent: crops start and end on it


class Base(Protocol):
    """What makes the reconstructions that a decoder starts from.

    Attributes
    ----------
    name : str
        Id of the codec card; "" for an autoencoder given as weights.
    points : tuple of str
        Names of the rates in order: the decoder's rate k is points[k].
    latents : int
        Channels of the latents, 0 where there are none.
    """

    name: str
    points: tuple[str, ...]
    latents: int

    def digest(self) -> bytes:
        """Whatever the reconstructions depend on, for naming files of pairs."""
        ...

    def reconstruct(self, image: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
        """Code and decode an image.

        Parameters
        ----------
        image : ndarray of uint8, H x W x 3
            H and W multiples of 16.
        rate : int
            Index into `points`.

        Returns
        -------
        reconstruction : ndarray of uint8, H x W x 3
        latents : ndarray of float16, C x H/16 x W/16
            C may be 0.
        """
        ...


class AutoencoderBase:
    """Stage 1 as a base; coded on the device that the autoencoder is on, without the entropy coder."""

    def __init__(self, autoencoder: Autoencoder):
        self._autoencoder = autoencoder
        self.name = ""
        self.points = tuple(f"q{k + 1}" for k in range(len(autoencoder.config.lambdas)))
        self.latents = autoencoder.config.latents

    def digest(self) -> bytes:
        items = self._autoencoder.state_dict().items()
        return b"".join(name.encode() + tensor.cpu().numpy().tobytes() for name, tensor in items)

    @torch.inference_mode()
    def reconstruct(self, image: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
        device = self._autoencoder.log_gain.device
        x = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1)[None].float() / 255
        x_hat, y = self._autoencoder.reconstruct(x, torch.tensor([rate], device=device))
        return (x_hat[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy(), y[0].half().cpu().numpy()


class CodecBase:
    """Points of a codec card as a base: the pairs are what the card's own encoder and decoder make."""

    latents = 0

    def __init__(self, card: CodecCard, points: tuple[str, ...] = ()):
        """
        Parameters
        ----------
        card : CodecCard
        points : tuple of str
            Ids of the card's points, all when empty.

        Raises
        ------
        ValueError
            For a point that the card does not have, or a codec that cannot run here.
        """
        self.name = card.id
        self.points = tuple(points) or tuple(point.id for point in card.points)
        try:
            self._made = [card.point(point) for point in self.points]
            self._codecs: list[Codec] = [load_codec(card, point) for point in self.points]
        except (UsageError, Unavailable) as error:
            raise ValueError(f"base {card.id}: {error}") from None

    def digest(self) -> bytes:
        return json.dumps([self.name, *(point.model_dump(mode="json") for point in self._made)]).encode()

    def reconstruct(self, image: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
        codec = self._codecs[rate]
        made = codec.decode(codec.encode(np.ascontiguousarray(image)), seed=0)
        if made.shape != image.shape or made.dtype != np.uint8:
            raise ValueError(
                f"base {self.name}, point {self.points[rate]}: decodes {image.shape[1]}x{image.shape[0]} pixels to "
                f"{made.dtype} {'x'.join(map(str, made.shape[1::-1]))}; a base must return the size it was given, uint8"
            )
        return made, np.empty((0, image.shape[0] // GRID, image.shape[1] // GRID), np.float16)


@dataclass(frozen=True)
class Pair:
    """A pair on disk; reading a crop of it reads little more than the crop.

    Parameters
    ----------
    path : Path
        Folder-less stem of its two files, `.pixels.npy` and `.latents.npy`.
    height, width : int
        Pixels.
    rate : int
        Index of the base's point.
    """

    path: Path
    height: int
    width: int
    rate: int

    @property
    def pixels(self) -> np.ndarray:
        """Photograph and reconstruction, uint8, H x W x 6, mapped from the file."""
        return np.load(f"{self.path}.pixels.npy", mmap_mode="r")

    @property
    def latents(self) -> np.ndarray:
        """Unscaled latents, float16, C x H/16 x W/16."""
        return np.load(f"{self.path}.latents.npy")


def make_pairs(
    photos: Photos, base: Base, side: int, border: int, cache: Path, first: int = 0, rates_each: int = 2
) -> list[Pair]:
    """A part of each photograph, at most side x side pixels, at `rates_each` of the base's rates, the rates taking turns.

    Kept in `cache`, named by data and base, so that an interrupted start goes on.
    first: index of the photograph to begin with. Processes that begin at different ones share the work: what is there is read.
    Raises ValueError for fewer photographs than rates, or a border off the grid of 16.
    """
    if side % GRID or border % GRID:
        raise ValueError(f"pair_side {side} and border {border} must be multiples of {GRID}")
    rates = len(base.points)
    if len(photos.images) < rates:
        raise ValueError(f"{len(photos.images)} photographs are too few for {rates} rates; give at least {rates}")
    digest = hashlib.sha256(f"{photos.sha256} {side} {border}".encode() + base.digest())
    folder = cache / f"pairs-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    count = len(photos.images)
    pairs: list[list[Pair]] = [[] for _ in range(count)]
    for turn in tqdm(range(count), desc="pairs", unit="photo", dynamic_ncols=True):
        index = (first + turn) % count
        photo = photos.images[index]
        rng = np.random.default_rng((17, index))
        height, width = (min(side, (length - 2 * border) // GRID * GRID) for length in photo.shape[:2])
        top = rng.integers(photo.shape[0] - height - 2 * border + 1)
        left = rng.integers(photo.shape[1] - width - 2 * border + 1)
        part = photo[top : top + height + 2 * border, left : left + width + 2 * border]
        for rate in sorted({(index + k * rates // rates_each) % rates for k in range(rates_each)}):
            path = folder / f"{index:06d}-{rate}"
            if not Path(f"{path}.pixels.npy").exists():  # written last
                made, y = base.reconstruct(part, rate)
                both = np.concatenate([part, made], 2)[border : border + height, border : border + width]
                inner = (slice(border // GRID, (border + length) // GRID) for length in (height, width))
                for kind, array in (("latents", y[(slice(None), *inner)]), ("pixels", both)):
                    with replacing(Path(f"{path}.{kind}.npy")) as temporary, open(temporary, "wb") as file:
                        np.save(file, np.ascontiguousarray(array))
            pairs[index].append(Pair(path, height, width, rate))
    return list(itertools.chain.from_iterable(pairs))


def crops(pairs: list[Pair], count: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops on the grid, flipped at random: pixels (uint8, N x 6 x side x side), rate (N), latents (float16).

    Large pairs are drawn more often.
    """
    sides = np.sqrt([pair.height * pair.width for pair in pairs])
    picked = rng.choice(len(pairs), size=count, p=sides / sides.sum())
    pixels, latents = [], []
    for pair, (down, right, flip) in zip((pairs[k] for k in picked), rng.random((count, 3)), strict=True):
        y = int(down * ((pair.height - side) // GRID + 1))
        x = int(right * ((pair.width - side) // GRID + 1))
        part = pair.pixels[y * GRID : y * GRID + side, x * GRID : x * GRID + side]
        below = pair.latents[:, y : y + side // GRID, x : x + side // GRID]
        if flip < 0.5:
            part, below = part[:, ::-1], below[:, :, ::-1]
        pixels.append(part)
        latents.append(below)
    rate = torch.tensor([pairs[k].rate for k in picked])
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), rate, torch.from_numpy(np.stack(latents))


def highpassed(x: Tensor, deviation: float) -> Tensor:
    """N x C x H x W less its Gaussian blur of this standard deviation in pixels; x itself at 0."""
    if not deviation:
        return x
    radius = math.ceil(3 * deviation)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device) / deviation) ** 2)
    line = (line / line.sum()).expand(x.shape[1], 1, 1, -1)
    low = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), line, groups=x.shape[1])
    low = F.conv2d(F.pad(low, (0, 0, radius, radius), mode="replicate"), line.transpose(2, 3), groups=x.shape[1])
    return x - low


def residual_roots(pairs: list[Pair], rates: int, highpass: float = 0.0) -> Tensor:
    """Symmetric square root of the covariance of x - x_hat (high-passed) over its colours, in [0, 1] pixels: rates x 3 x 3."""
    products, counts = np.zeros((rates, 3, 3)), np.zeros(rates)
    for pair in pairs:
        pixels = pair.pixels
        whole = torch.from_numpy((pixels[..., :3].astype(np.float32) - pixels[..., 3:]) / 255)
        kept = highpassed(whole.permute(2, 0, 1)[None], highpass)[0].permute(1, 2, 0)
        difference = kept.reshape(-1, 3).numpy()
        products[pair.rate] += difference.T.astype(np.float64) @ difference
        counts[pair.rate] += len(difference)
    values, vectors = np.linalg.eigh(products / counts[:, None, None])
    return torch.from_numpy((vectors * np.sqrt(values)[:, None]) @ vectors.transpose(0, 2, 1)).float()
