"""hfdbench from Python: run codecs, use one, measure two folders, read results.

Conventions: images are uint8, H x W x 3, sRGB. Names of codecs, points, datasets and metrics are those of the command line,
and so are the errors: `UsageError` for what can be corrected, `Unavailable` for what is missing here (both in
`hfdbench.errors`). Nothing is printed; what a user must know stands in the `notes` of what is returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs.protocol import Codec, load_codec
from hfdbench.errors import UsageError, no_folder
from hfdbench.files.remote import located
from hfdbench.pipeline import run as pipeline
from hfdbench.pipeline.measure import Measurement, Value, measure
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import Summary
from hfdbench.progress import Progress
from hfdbench.results.stored import Results

__all__ = ["Measurement", "OpenCodec", "Results", "Summary", "Value", "codec", "load_results", "measure", "run"]


@dataclass(frozen=True)
class OpenCodec:
    """A codec at one operating point, ready to be used in this process.

    Attributes
    ----------
    id, point : str
        Ids of its card and of its point.
    """

    id: str
    point: str
    _codec: Codec

    def encode(self, image: np.ndarray) -> bytes:
        """Encode an image.

        Parameters
        ----------
        image : ndarray of uint8, H x W x 3
            sRGB.

        Returns
        -------
        bytes
            The whole stream: its length is the rate.

        Raises
        ------
        UsageError
            The array is no such image, or the codec only decodes.
        """
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise UsageError(f"encode takes an array of uint8, H x W x 3, not {what}; numpy.asarray(picture) makes one")
        return bytes(self._codec.encode(np.ascontiguousarray(image)))

    def decode(self, stream: bytes, *, seed: int = 0) -> np.ndarray:
        """Decode a stream.

        Parameters
        ----------
        stream : bytes
            What `encode` returned.
        seed : int
            Of a decoder that samples.

        Returns
        -------
        ndarray of uint8, H x W x 3

        Raises
        ------
        StreamError
            The stream is damaged, or another codec's.
        """
        return self._codec.decode(stream, seed=seed)


def codec(id: str, point: str, *, device: str = "cpu", cards: Sequence[Path | str] = ()) -> OpenCodec:
    """Open a codec. Its code runs in this process, without a sandbox.

    A codec that decodes another's streams opens with that codec as its encoder.

    Parameters
    ----------
    id : str
        Id of its card; `hfdbench list codecs` shows them.
    point : str
        Id of one of its points.
    device : str
        "cpu" or "cuda".
    cards : sequence of Path or str
        Further folders of cards.

    Returns
    -------
    OpenCodec

    Raises
    ------
    UsageError
        There is no such codec or point.
    Unavailable
        It cannot work here: a program, a package or weights are missing.
    """
    (card,) = choose(CodecCard, [id], cards)
    decoder = load_codec(card, point, device)
    if card.streams is None:
        return OpenCodec(id, point, decoder)
    (encoder,) = choose(CodecCard, [card.streams], cards)
    return OpenCodec(id, point, _Decoding(load_codec(encoder, point, device), decoder))


@dataclass
class _Decoding:
    """One codec's streams decoded by another."""

    encoder: Codec
    decoder: Codec
    version: int = 1

    def encode(self, image: np.ndarray) -> bytes:
        return self.encoder.encode(image)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        return self.decoder.decode(stream, seed=seed)


def run(
    codecs: Sequence[str],
    datasets: Sequence[str],
    *,
    points: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    out: Path | str = "results",
    device: str = "cpu",
    workers: int = 1,
    metrics: Sequence[str] = (),
    features: Sequence[str] = (),
    inception: Path | None = None,
    data_root: Path | None = None,
    cards: Sequence[Path | str] = (),
    progress: Progress | None = None,
) -> Summary:
    """Encode, decode and measure, as `hfdbench run` does. What is measured already is not done again.

    Parameters
    ----------
    codecs, datasets : sequence of str
        Ids; a dataset may be "folder:PATH" or "kodak@4", its first four images.
    points : sequence of str
        Only these points; all by default.
    limit : int, optional
        Only the first images of each dataset, as a set of its own.
    seed : int
        Of decoders that sample.
    out : Path or str
        Folder of results.
    device : str
        "cpu" or "cuda".
    workers : int
        Images coded at once, each in processes of its own.
    metrics : sequence of str
        Metrics on request, such as "dists"; "none": not even those that are measured unasked.
    features : sequence of str
        Further feature networks, NAME or NAME=FILE; "none": not even those that are always computed.
    inception : Path, optional
        Weights of Inception for FID; looked for, then downloaded, by default.
    data_root : Path, optional
        Folder of datasets and weights.
    cards : sequence of Path or str
        Further folders of cards.
    progress : Progress, optional
        Told how many images are done.

    Returns
    -------
    Summary
        `points`, a DataFrame with a row per point, and what was skipped or failed, and why.

    Raises
    ------
    UsageError
        The request cannot be carried out; nothing was encoded then.
    """
    request = Request(
        codecs=tuple(choose(CodecCard, codecs, cards)),
        datasets=tuple(datasets),
        out=located(out),
        points=tuple(points),
        limit=limit,
        seed=seed,
        device=device,
        workers=workers,
        inception=inception,
        features=tuple(features),
        data_root=data_root,
        cards=tuple(map(Path, cards)),
        metrics=tuple(metrics),
    )
    return pipeline.run(request, progress)


def load_results(folder: Path | str = "results") -> Results:
    """Open a folder of results, packed or not.

    Parameters
    ----------
    folder : Path or str
        As `run` leaves it.

    Returns
    -------
    Results
        `points()` is the table of all points, a DataFrame; `trials()` gives each with its images and metadata.

    Raises
    ------
    UsageError
        There is no such folder.
    """
    if not located(folder).is_dir():
        raise no_folder(folder, "hfdbench.run(..., out=FOLDER) makes one")
    return Results(folder)
