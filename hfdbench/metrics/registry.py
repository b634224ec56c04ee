"""The table of metrics and that of feature networks: schema, axes, intervals, gate, page and documentation derive from them.

Conventions
    column       name of a metric everywhere: in `points/`, on command lines, in cards.
    range        bounds of the values, None where there is none. `scale`: how the metric is interpolated and best drawn.
    identity     the column that holds the fingerprint of a value: values of different fingerprints are never drawn, ranked,
                 compared or gated together. Every metric on features has one.
    version      counted up when the values of a metric change; part of the key of a score.
    reference    what the tests compare the values with; "hand": cases worked out in the tests. `year`: of the paper.
    compute      "module:attribute", imported when first needed, so that a table of metrics costs no torch.

Other packages add rows by entry points of the groups `hfdbench.metrics` and `hfdbench.feature_networks`. An entry point is a
`Metric` (a `FeatureNetwork`), a tuple of them, or a function that returns either. One that cannot be loaded, or whose row does
not fit, is left out with a warning that names it; everything else keeps working.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, Literal

log = logging.getLogger(__name__)

Direction = Literal["higher", "lower"]
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
NAME = re.compile(r"[a-z][a-z0-9_]*")
RULE = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the points table.

    Parameters
    ----------
    name : str
        Its name.
    type : {"text", "int", "float"}
        Type of its values.
    meaning : str
        One line for the table of results/README.md, in Markdown.
    unit, range : str
        For the same table; empty where there is none.
    direction : {"higher", "lower"}, optional
        Where better codecs lie.
    required : bool
        Whether every file must have it. Others are null in files that were written before the column existed.
    """

    name: str
    type: Literal["text", "int", "float"]
    meaning: str
    unit: str = ""
    range: str = ""
    direction: Direction | None = None
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network whose features are compared as distributions.

    Parameters
    ----------
    name : str
        Its name, as in `--feature NAME`.
    rule : str
        Part of fingerprints: names the network and how a patch becomes its input. Lower-case letters and digits.
    description : str
        The rule in words.
    dimensions : int
        Length of a feature vector.
    build : str
        "module:Class". `Class(weights: Path, device: str)` gives a `networks.extractors.Network`.
    weights : str
        "module:attribute" of a `networks.weights.Weights`.
    always : bool
        Computed by every run, as far as its weights are there; others when asked for by `--feature`.
    """

    name: str
    rule: str
    description: str
    dimensions: int
    build: str
    weights: str
    always: bool = False


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Parameters
    ----------
    column, name, title : str
        Column of the points table; name in sentences and table heads; label of an axis, with the unit.
    unit : str
        "1" where it has none.
    direction : {"higher", "lower"}
        Where better codecs lie.
    meaning : str
        What is computed and how it is averaged: one line of results/README.md, in Markdown.
    computed : {"pipeline", "crop", "image", "distribution"}
        From the stages of a run (bytes, times); of each image in every run (stored in crops/); of each image when asked for by
        `--metric`, or `always` (stored in quality/); from the features of all patches.
    always : bool
        "image" alone: computed by every run where its library and weights are here; nothing is downloaded for it unasked.
    core_s : float, optional
        "image" alone: seconds that a megapixel takes one core of a CPU, about.
    compute : str
        "module:attribute" of what computes it.
        "image": a class, called with a `metrics.image.measure.Place`, which gives a `Measure`. Rows that share one class are
        asked for by the first of them.
        "distribution": `frechet` (see `interval`) by the pipeline, which streams the moments; any other by a function
        `(reference, test, image_of_patch) -> tuple of float or None`, one value for each row that names it, in order;
        features are float32, N x D, row i of both from one patch. ValueError where it has no value, and why.
    reference : str
        What tests compare it with.
    year : int, optional
        Year of the paper that proposed it.
    range : (float or None, float or None)
        Lowest and highest possible value.
    scale : {"linear", "log"}
        Scale on which it is interpolated between points.
    version : int
        Counted up when its values change.
    interval : {"ratio", "mean", "frechet", "kid"}, optional
        Bootstrap over images that gives its interval: of total bits over total pixels, of a mean of crops/, of a Fréchet
        distance, of a kernel distance. None: it has no interval.
    tolerance : float, optional
        How much worse the gate lets a point become unless its card says otherwise: a fraction of the baseline, or in the
        unit of the metric where `interval` is "mean". None: not gated.
    network, identity : str, optional
        Feature network; column of its fingerprint. Both or none.
    published : str
        Protocol of published numbers it may be drawn with, or `PATCHES`; empty: none.
    type : {"float", "int"}
        Of its values.
    decimals : int, optional
        Printed digits after the point; None: four significant digits.
    required : bool
        Whether every stored file must have the column.
    companions : tuple of Column
        Further columns that belong to it; the fingerprint need not be listed.
    """

    column: str
    name: str
    title: str
    direction: Direction
    meaning: str
    computed: Literal["pipeline", "crop", "image", "distribution"]
    reference: str
    compute: str = ""
    always: bool = False
    core_s: float | None = None
    unit: str = "1"
    year: int | None = None
    range: tuple[float | None, float | None] = (0, None)
    scale: Literal["linear", "log"] = "linear"
    version: int = 1
    interval: Literal["ratio", "mean", "frechet", "kid"] | None = None
    tolerance: float | None = None
    network: str | None = None
    identity: str | None = None
    published: str = ""
    type: Literal["float", "int"] = "float"
    decimals: int | None = None
    required: bool = False
    companions: tuple[Column, ...] = ()

    @property
    def unit_or_none(self) -> str:
        """The unit as it follows a number: empty for "1"."""
        return "" if self.unit == "1" else self.unit

    @property
    def module(self) -> str:
        """Where it is computed, for documentation."""
        return self.compute.partition(":")[0] or "hfdbench.pipeline.aggregate"


PATCHES = "patches"  # `published`: the protocol by which patches are cut, with the published weights
_OF_INCEPTION = partial(Metric, computed="distribution", network="inception", identity="fid_id")
_FRECHET = partial(
    Metric,
    direction="lower",
    computed="distribution",
    compute="hfdbench.metrics.distribution.frechet:frechet_distance",
    interval="frechet",
    scale="log",
)
_PIXEL = "hfdbench.metrics.image.pixel:"
_KID = "hfdbench.metrics.distribution.kid:of_features"
_PRECISION = "hfdbench.metrics.distribution.precision_recall:of_features"
_BUTTERAUGLI = "hfdbench.metrics.image.libjxl:Butteraugli"
_PER_MPX = "total seconds / total megapixels"
_ONE_CALL = "median over images of the one call, process start and loading excluded; the first call may warm up"

_NETWORKS = (
    FeatureNetwork(
        name="inception",
        rule="tf1",
        description="Inception, bilinear resize of TensorFlow 1, without half-pixel centres",
        dimensions=2048,
        build="hfdbench.metrics.networks.inception:Inception",
        weights="hfdbench.metrics.networks.weights:INCEPTION",
        always=True,
    ),
    FeatureNetwork(
        name="mini",
        rule="mini",
        description="the small network of hfdbench, no resize",
        dimensions=256,
        build="hfdbench.metrics.networks.fd_mini:Mini",
        weights="hfdbench.metrics.networks.weights:MINI",
        always=True,
    ),
    FeatureNetwork(
        name="dinov2",
        rule="dinov2",
        description="DINOv2 ViT-B/14, bilinear resize to 224 x 224 of TensorFlow 1, class token",
        dimensions=768,
        build="hfdbench.metrics.networks.vit:DINOv2",
        weights="hfdbench.metrics.networks.weights:DINOV2",
    ),
    FeatureNetwork(
        name="clip",
        rule="clip",
        description="CLIP ViT-B/32, bilinear resize to 224 x 224 of TensorFlow 1, image embedding",
        dimensions=512,
        build="hfdbench.metrics.networks.vit:CLIP",
        weights="hfdbench.metrics.networks.weights:CLIP",
    ),
)

_METRICS = (
    Metric(
        column="bpp",
        name="rate",
        title="Rate (bits per pixel)",
        unit="bits per pixel",
        direction="lower",
        decimals=4,
        meaning="total bits / total pixels",
        computed="pipeline",
        reference="hand",
        scale="log",
        interval="ratio",
        tolerance=0.01,
        required=True,
    ),
    Metric(
        column="bpp_mean",
        name="mean rate",
        title="Rate, mean over images (bits per pixel)",
        unit="bits per pixel",
        direction="lower",
        decimals=4,
        meaning="mean over images of each image's bits / pixels",
        computed="pipeline",
        reference="hand",
        scale="log",
        required=True,
    ),
    Metric(
        column="psnr_db",
        name="PSNR",
        title="PSNR, mean over images (dB)",
        unit="dB",
        direction="higher",
        decimals=2,
        meaning="mean over images of each image's PSNR; null when an image is identical (its PSNR is infinite)",
        computed="crop",
        compute=_PIXEL + "psnr_db",
        reference="scikit-image",
        interval="mean",
        tolerance=0.05,
        published="rgb-mean",  # of 8-bit RGB, mean over images of each image's dB
        required=True,
    ),
    Metric(
        column="psnr_pooled_db",
        name="pooled PSNR",
        title="PSNR of pooled MSE (dB)",
        unit="dB",
        direction="higher",
        decimals=2,
        meaning="PSNR of the error pooled over all pixels; null when all are identical",
        computed="crop",
        compute=_PIXEL + "psnr_pooled_db",
        reference="scikit-image",
        required=True,
    ),
    Metric(
        column="ms_ssim",
        name="MS-SSIM",
        title="MS-SSIM",
        direction="higher",
        range=(0, 1),
        decimals=4,
        meaning="mean over the images that have one: both sides at least 161 pixels",
        computed="crop",
        compute=_PIXEL + "ms_ssim",
        version=2,  # 2: in float64
        reference="pytorch-msssim, in float64",
        year=2003,
        interval="mean",
        published="rgb-mean",  # of 8-bit RGB, mean over images, not in dB
        required=True,
    ),
    Metric(
        column="ms_ssim_db",
        name="MS-SSIM in dB",
        title="MS-SSIM, mean of dB (dB)",
        unit="dB",
        direction="higher",
        decimals=2,
        meaning="mean over the same images of each image's -10 log10(1 - MS-SSIM); null when one of them is 1",
        computed="crop",
        compute=_PIXEL + "ms_ssim_db",
        version=2,
        reference="hand",
        year=2003,
        required=True,
        companions=(
            Column(
                name="ms_ssim_images",
                type="int",
                unit="images",
                range="≥ 0",
                meaning="number of images with an MS-SSIM",
            ),
        ),
    ),
    _FRECHET(
        column="fid",
        name="FID",
        title="FID",
        decimals=2,
        meaning="squared Fréchet distance of Inception features, all patches of all images pooled; null when an image failed",
        reference="torch-fidelity",
        year=2017,
        network="inception",
        identity="fid_id",
        tolerance=0.03,
        published=PATCHES,
        required=True,
        companions=(
            Column(
                name="fid_label",
                type="text",
                meaning='what this distance may be called; "FID" for the published Inception weights alone',
            ),
            Column(name="fid_patches", type="int", unit="patches", range="≥ 0", meaning="patches on each side"),
            Column(
                name="fid_protocol",
                type="text",
                meaning="`fid256`: 256 x 256 patches of two grids; `whole`: the image is the patch",
            ),
        ),
    ),
    _OF_INCEPTION(
        column="kid",
        name="KID",
        title="KID",
        direction="lower",
        range=(None, None),
        decimals=5,
        meaning=(
            "squared maximum mean discrepancy of the same features, seed 0: mean over 100 subsets of 1,000, or one estimate "
            "over fewer; unbiased, hence slightly below 0 for equal distributions"
        ),
        compute=_KID,
        reference="torch-fidelity",
        year=2018,
        interval="kid",
        published=PATCHES,
        required=True,
    ),
    _OF_INCEPTION(
        column="kid_std",
        name="KID deviation",
        title="KID, deviation over subsets",
        direction="lower",
        decimals=5,
        meaning="standard deviation over those subsets; null when there are none",
        compute=_KID,
        reference="torch-fidelity",
        year=2018,
        required=True,
    ),
    _OF_INCEPTION(
        column="precision",
        name="precision",
        title="Precision of features",
        direction="higher",
        range=(0, 1),
        meaning=(
            "share of the decoded patches' features among the originals' (Kynkäänniemi 2019, 3 neighbours); depends on the "
            "number of patches as FID does"
        ),
        compute=_PRECISION,
        reference="torch-fidelity",
        year=2019,
    ),
    _OF_INCEPTION(
        column="recall",
        name="recall",
        title="Recall of features",
        direction="higher",
        range=(0, 1),
        meaning="share of the originals' features among the decoded patches', by the same rule",
        compute=_PRECISION,
        reference="torch-fidelity",
        year=2019,
    ),
    _OF_INCEPTION(
        column="fid_infinity",
        name="FID∞",
        title="FID∞",
        direction="lower",
        range=(None, None),
        meaning="FID extrapolated to infinitely many patches (Chong & Forsyth 2020); null under 10,000 patches",
        compute="hfdbench.metrics.distribution.fid_infinity:of_features",
        reference="known distances",
        year=2020,
    ),
    _FRECHET(
        column="fd_mini",
        name="fd_mini",
        title="fd_mini",
        meaning=(
            "squared Fréchet distance of the features of a small bundled network, same patches as `fid`; never FID "
            "(docs/fd_mini.md)"
        ),
        reference="rank of FID",
        network="mini",
        identity="fd_mini_id",
        tolerance=0.03,
    ),
    _FRECHET(
        column="fd_dinov2",
        name="FD-DINOv2",
        title="FD-DINOv2",
        meaning="`--feature dinov2`: the same distance of DINOv2 ViT-B/14",
        reference="facebookresearch/dinov2",
        year=2023,
        network="dinov2",
        identity="fd_dinov2_id",
    ),
    _FRECHET(
        column="fd_clip",
        name="FD-CLIP",
        title="FD-CLIP",
        meaning="`--feature clip`: the same distance of CLIP ViT-B/32",
        reference="torch-fidelity",
        year=2021,
        network="clip",
        identity="fd_clip_id",
    ),
    Metric(
        column="lpips",
        name="LPIPS",
        title="LPIPS (AlexNet)",
        direction="lower",
        meaning=(
            "where AlexNet's weights are at hand, or `--metric lpips`: mean over the images that have one, both sides at "
            "least 31 pixels; AlexNet, whole images"
        ),
        computed="image",
        always=True,
        core_s=1,
        compute="hfdbench.metrics.image.perceptual:Lpips",
        reference="lpips",
        year=2018,
        published="alex",
    ),
    Metric(
        column="lpips_vgg",
        name="LPIPS (VGG)",
        title="LPIPS (VGG-16)",
        direction="lower",
        meaning="where VGG-16's weights are at hand, or `--metric lpips_vgg`: mean over images; VGG-16, whole images",
        computed="image",
        always=True,
        core_s=22,
        compute="hfdbench.metrics.image.perceptual:LpipsVgg",
        reference="lpips",
        year=2018,
        published="vgg",
    ),
    Metric(
        column="dists",
        name="DISTS",
        title="DISTS",
        direction="lower",
        range=(0, 1),
        meaning="`--metric dists`: mean over images; VGG-16, whole images, never shrunk",
        computed="image",
        compute="hfdbench.metrics.image.perceptual:Dists",
        reference="DISTS-pytorch",
        year=2020,
        published="mean",
    ),
    Metric(
        column="ssimulacra2",
        name="SSIMULACRA 2",
        title="SSIMULACRA 2",
        direction="higher",
        range=(None, 100),
        meaning="`--metric ssimulacra2`: mean over the images that have one, both sides at least 8 pixels",
        computed="image",
        compute="hfdbench.metrics.image.libjxl:Ssimulacra2",
        reference="libjxl",
        year=2022,
    ),
    Metric(
        column="butteraugli",
        name="Butteraugli",
        title="Butteraugli, maximum",
        direction="lower",
        meaning="`--metric butteraugli`: mean over the same images of each image's maximum, for 80 nits",
        computed="image",
        compute=_BUTTERAUGLI,
        reference="libjxl",
        year=2017,
    ),
    Metric(
        column="butteraugli_3norm",
        name="Butteraugli 3-norm",
        title="Butteraugli, 3-norm",
        direction="lower",
        meaning="`--metric butteraugli`: mean over the same images of libjxl's 3-norm",
        computed="image",
        compute=_BUTTERAUGLI,
        reference="libjxl",
        year=2017,
    ),
    Metric(
        column="encode_s",
        name="encoding time",
        title="Encoding time (s per image)",
        unit="seconds",
        direction="lower",
        meaning=_ONE_CALL,
        computed="pipeline",
        reference="clock",
        scale="log",
        tolerance=1.0,
        required=True,
    ),
    Metric(
        column="decode_s",
        name="decoding time",
        title="Decoding time (s per image)",
        unit="seconds",
        direction="lower",
        meaning=_ONE_CALL,
        computed="pipeline",
        reference="clock",
        scale="log",
        tolerance=1.0,
        required=True,
    ),
    Metric(
        column="encode_s_per_mpx",
        name="encoding cost",
        title="Encoding time (s per megapixel)",
        unit="seconds per megapixel",
        direction="lower",
        meaning=_PER_MPX,
        computed="pipeline",
        reference="clock",
        scale="log",
        required=True,
    ),
    Metric(
        column="decode_s_per_mpx",
        name="decoding cost",
        title="Decoding time (s per megapixel)",
        unit="seconds per megapixel",
        direction="lower",
        meaning=_PER_MPX,
        computed="pipeline",
        reference="clock",
        scale="log",
        required=True,
    ),
    Metric(
        column="network_evaluations",
        name="network evaluations",
        title="Network evaluations per image",
        unit="passes",
        direction="lower",
        meaning="of the decoder's network over each pixel, as the card says; null without one",
        computed="pipeline",
        reference="hand",
        scale="log",
        type="int",
    ),
    Metric(
        column="macs_per_pixel",
        name="multiply-adds",
        title="Multiply–adds of the decoder per pixel",
        unit="multiply-adds per pixel",
        direction="lower",
        meaning="of the decoder's networks, all evaluations together, as the card says: of a large picture, without padding and "
        "the overlaps of tiles; null where the card does not say",
        computed="pipeline",
        reference="torch",
        scale="log",
    ),
    Metric(
        column="host_peak_bytes",
        name="memory",
        title="Peak memory of the decoder (bytes)",
        unit="bytes",
        direction="lower",
        meaning="largest resident memory of the decoder's process while it decoded an image, Python, libraries and weights "
        "included, or of the largest program that it ran; maximum over images",
        computed="pipeline",
        reference="hand",
        scale="log",
        type="int",
    ),
    Metric(
        column="device_peak_bytes",
        name="device memory",
        title="Peak GPU memory of the decoder (bytes)",
        unit="bytes",
        direction="lower",
        meaning="most that torch had allocated on the GPU while it decoded an image, weights included; maximum over images; null "
        "on a CPU",
        computed="pipeline",
        reference="hand",
        scale="log",
        type="int",
    ),
)
BUNDLED = MappingProxyType({row.column: row for row in _METRICS})  # without those of other packages


# ---- rows of other packages


def _checked_network(row: FeatureNetwork, networks: Mapping[str, FeatureNetwork]) -> None:
    """Raise ValueError for a row that does not fit the table."""
    if row.name in networks or row.rule in {other.rule for other in networks.values()}:
        raise ValueError(f'there is a feature network "{row.name}" or one of rule "{row.rule}" already')
    for value, pattern, what in (
        (row.name, NAME, "name"),
        (row.rule, RULE, "rule"),
        (row.build, REFERENCE, "build"),
        (row.weights, REFERENCE, "weights"),
    ):
        if not pattern.fullmatch(value):
            raise ValueError(f'{what} "{value}" does not match {pattern.pattern}')
    if row.dimensions < 1:
        raise ValueError(f"dimensions {row.dimensions}: must be at least 1")


def _checked_metric(row: Metric, metrics: Mapping[str, Metric], networks: Mapping[str, FeatureNetwork]) -> None:
    """Raise ValueError for a row that does not fit the table."""
    taken = {column.name for metric in metrics.values() for column in _own_columns(metric, ())}
    for name in (row.column, *(column.name for column in row.companions)):
        if name in taken:
            raise ValueError(f'there is a column "{name}" already')
        if not NAME.fullmatch(name):
            raise ValueError(f'column "{name}" does not match {NAME.pattern}')
    if row.computed in ("pipeline", "crop"):
        raise ValueError(f'"{row.computed}" metrics are computed by hfdbench alone; choose "image" or "distribution"')
    if not REFERENCE.fullmatch(row.compute):
        raise ValueError(f'compute "{row.compute}" does not match {REFERENCE.pattern}')
    if (row.network is None) != (row.computed == "image") or (row.network is None) != (row.identity is None):
        raise ValueError("a metric of a distribution needs network and identity, any other has neither")
    if row.network is not None and row.network not in networks:
        raise ValueError(f'no feature network "{row.network}"; known: {", ".join(networks)}')
    if row.interval == "frechet" and any(
        other.network == row.network and other.interval == "frechet" for other in metrics.values()
    ):
        raise ValueError(f'feature network "{row.network}" has a Fréchet distance already')
    if row.interval in ("ratio", "mean") or (row.interval is not None and row.network is None):
        raise ValueError(f'interval "{row.interval}" is for metrics of hfdbench; choose "frechet", "kid" or none')
    if row.required:
        raise ValueError("a column of another package cannot be required: files written without it are valid")


def _load(entry: EntryPoint, kind: type) -> tuple[Any, ...]:
    found = entry.load()
    if not isinstance(found, (kind, tuple)) and callable(found):
        found = found()
    rows = found if isinstance(found, tuple) else (found,)
    for row in rows:
        if not isinstance(row, kind):
            raise TypeError(f"gives {type(row).__name__}, not {kind.__name__}")
    return rows


def _extend(group: str, kind: type, add: Callable[[Any], None]) -> None:
    """Add the rows of every entry point of a group; one that fails is left out with a warning."""
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        try:
            for row in _load(entry, kind):
                add(row)
        except Exception as error:  # whatever code of others raises
            cause = str(error) or type(error).__name__
            log.warning(
                'entry point "%s" of %s (%s) is left out: %s; fix or uninstall that package',
                *(entry.name, entry.value, group, cause),
            )


def _own_columns(metric: Metric, seen: Iterable[str]) -> list[Column]:
    """The column of a metric, its fingerprint's unless that is in `seen`, and its companions."""
    own = Column(
        name=metric.column,
        type=metric.type,
        unit=metric.unit,
        range=_bounds(*metric.range),
        direction=metric.direction,
        meaning=metric.meaning,
        required=metric.required,
    )
    meaning = f"fingerprint of `{metric.column}`: only values of equal id may be compared"
    fingerprint = (
        [Column(name=metric.identity, type="text", meaning=meaning, required=metric.required)]
        if metric.identity and metric.identity not in seen
        else []
    )
    return [own, *fingerprint, *metric.companions]


def _bounds(low: float | None, high: float | None) -> str:
    if low is None:
        return "" if high is None else f"≤ {high:g}"
    return f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"


def _tables() -> tuple[Mapping[str, Metric], Mapping[str, FeatureNetwork]]:
    networks = {row.name: row for row in _NETWORKS}
    metrics = dict(BUNDLED)

    def add_network(row: FeatureNetwork) -> None:
        _checked_network(row, networks)
        networks[row.name] = row

    def add_metric(row: Metric) -> None:
        _checked_metric(row, metrics, networks)
        metrics[row.column] = row

    _extend("hfdbench.feature_networks", FeatureNetwork, add_network)
    _extend("hfdbench.metrics", Metric, add_metric)
    return MappingProxyType(metrics), MappingProxyType(networks)


METRICS, NETWORKS = _tables()

# ---- what others ask of the tables


def columns(metrics: Mapping[str, Metric] = METRICS) -> tuple[Column, ...]:
    """Columns of the points table that belong to metrics, in order: each metric, its fingerprint, its companions."""
    found: dict[str, Column] = {}
    for metric in metrics.values():
        found |= {column.name: column for column in _own_columns(metric, found)}
    return tuple(found.values())


def frechet_column(network: str) -> str:
    """Column of the Fréchet distance of a network's features; empty for a network that has none."""
    return next((m.column for m in METRICS.values() if m.network == network and m.interval == "frechet"), "")


def of_network(network: str) -> tuple[Metric, ...]:
    """The metrics on a network's features."""
    return tuple(metric for metric in METRICS.values() if metric.network == network)


def network_columns(network: str) -> tuple[str, ...]:
    """Every column that comes from a network's features: metrics, fingerprints, companions."""
    return tuple(dict.fromkeys(column.name for metric in of_network(network) for column in _own_columns(metric, ())))


def on_request() -> Mapping[str, tuple[Metric, ...]]:
    """Metrics of `--metric NAME`: by name, the columns that it gives. Rows that share `compute` share the first one's name."""
    groups: dict[str, list[Metric]] = {}
    for metric in METRICS.values():
        if metric.computed == "image":
            groups.setdefault(metric.compute, []).append(metric)
    return {rows[0].column: tuple(rows) for rows in groups.values()}


def identity(column: str) -> str | None:
    """Column of the fingerprint of a metric; None for any other column and for metrics without one."""
    return METRICS[column].identity if column in METRICS else None


def resolve(reference: str) -> Any:
    """Import what "module:attribute" names."""
    return resolve_name(reference)


def small_sample_note(column: str, patches: int | None) -> str:
    """The warning that a Fréchet distance over few patches needs, or "" where it needs none.

    With no more patches than dimensions the covariances are singular, and the distance is far above its value at many
    patches. Pairs of original and decoded patches then make it reward fidelity rather than realism.

    Parameters
    ----------
    column : str
        Any column of the points table.
    patches : int or None
        Patches on each side.
    """
    metric = METRICS.get(column)
    if metric is None or metric.interval != "frechet" or metric.network is None or patches is None:
        return ""
    enough = NETWORKS[metric.network].dimensions
    if patches >= enough:
        return ""
    see = "; KID has no such bias" if metric.network == "inception" else ""
    return (
        f"{metric.name} over {patches:,} patches (fewer than {enough:,}) is biased upwards and rewards fidelity more than "
        f"realism: compare only at equal patches{see}"
    )
