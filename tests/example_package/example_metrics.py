"""Rows that a package adds to hfdbench's tables: a metric of images, a feature network, and the distance of its features.

This module is imported whenever hfdbench starts: it holds rows alone. What computes is in `example_computation`.
"""

from hfdbench.metrics.registry import FeatureNetwork, Metric

BLOCKS = FeatureNetwork(
    name="blocks",
    rule="blocks",
    description="mean colours of a grid of blocks",
    dimensions=48,
    build="example_computation:Blocks",
    weights="example_computation:WEIGHTS",
)
METRICS = (
    Metric(
        column="mae",
        name="MAE",
        title="Mean absolute error (grey levels)",
        unit="grey levels",
        direction="lower",
        range=(0, 255),
        meaning="`--metric mae`: mean over images of the mean absolute error of 8-bit RGB",
        computed="image",
        compute="example_computation:MeanAbsoluteError",
        reference="hand",
    ),
    Metric(
        column="fd_blocks",
        name="FD-blocks",
        title="FD-blocks",
        direction="lower",
        meaning="`--feature blocks`: squared Fréchet distance of mean colours",
        computed="distribution",
        compute="hfdbench.metrics.distribution.frechet:frechet_distance",
        reference="hand",
        scale="log",
        interval="frechet",
        tolerance=0.05,
        network="blocks",
        identity="fd_blocks_id",
    ),
)
