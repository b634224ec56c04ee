# pyright: basic
"""Recipes: everything that shapes a training, in one TOML file that is stored with the weights."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hfdbench.cards.schema import Table, read_toml, validated
from hfdbench.hfd.autoencoder import STRIDE, AutoencoderConfig
from hfdbench.hfd.network import NetworkConfig
from hfdbench.training.pairs import GRID

Objective = Literal[
    "autoencoder", "hfd", "hfd-rf", "hfd-plus", "hfd-fast", "dirac", "mse", "hific", "po-elic", "hfd-gan"
]


class Recipe(Table):
    """A training.

    Parameters
    ----------
    objective : str
        "autoencoder" for stage 1, else an objective of stage 2 (objectives.py).
    steps, batch, crop : int
        Steps; crops per step, over all devices; pixels of a crop's side.
    learning_rate, warmup : float, int
        Peak, reached after `warmup` steps.
    schedule, decay : str, float
        "cosine" from the peak to 1/50 of it; "wsd" stays at the peak until, over its last `decay` share, it falls linearly
        to 1/50.
    ema, clip : float
        Decay of the averaged weights, which are what is kept; largest norm of a gradient.
    bf16 : bool
        Run the networks in bfloat16 where the device has kernels for it.
    seed : int
        Of crops, noise and initial weights.
    held_out : int
        One photograph in so many is kept out of the training (`photos.held_out` says which); 0: none.
    stored : {"float16", "int8"}
        How the weights are stored.
    model : dict
        Options of the network.
    smooth, smallest_scale, block_means : float
        Stage 1: share of crops that are synthetic smooth fields; smallest factor that photographs are scaled by; weight of
        the error of means of blocks of 8, 16 and 32 pixels beside the squared error.
    only : tuple of str
        Stage 1: what is trained, by the beginnings of parameters' names; everything when empty. Where all of it belongs to the
        entropy model of single groups, the loss is of their latents alone and steps cost a fraction.
    base, points : str, tuple of str
        Stage 2: the codec card whose streams are decoded, and which of its points are the decoder's rates; all when empty.
    pair_side, border : int
        Stage 2: pixels of the parts of photographs that are coded, and around them that are coded with them and dropped.
    pair_rates : int
        Stage 2: at how many of the rates each part is coded.
    evaluations : int
        Stage 2, objective hfd-fast: steps of the distilled sampler; its teacher, which it starts from, takes twice as many.
    perceptual : str
        Stage 2, adversarial objectives: the network of the perceptual loss.
    """

    objective: Objective
    steps: int = Field(ge=1)
    batch: int = Field(8, ge=1)
    crop: int = Field(128, ge=1)
    learning_rate: float = Field(4e-4, gt=0)
    warmup: int = Field(200, ge=0)
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay: float = Field(0.15, ge=0, le=1)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: float = Field(1.0, gt=0)
    bf16: bool = True
    seed: int = Field(0, ge=0)
    held_out: int = Field(0, ge=0)
    stored: Literal["float16", "int8"] = "float16"
    model: dict[str, Any] = Field(default_factory=dict)
    smooth: float = Field(0.0, ge=0, le=1)
    smallest_scale: float = Field(1.0, gt=0, le=1)
    block_means: float = Field(0.0, ge=0)
    only: tuple[str, ...] = ()
    base: str = ""
    points: tuple[str, ...] = ()
    pair_side: int = Field(384, ge=GRID, multiple_of=GRID)
    border: int = Field(64, ge=0, multiple_of=GRID)
    pair_rates: int = Field(2, ge=1)
    evaluations: int = Field(8, ge=1)
    perceptual: str = "inception"

    @property
    def stage_1(self) -> bool:
        return self.objective == "autoencoder"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kind = AutoencoderConfig if self.stage_1 else NetworkConfig
        options = sorted({field.name for field in fields(kind)} - {"rates", "latents"})
        for key in self.model:
            if key not in options:
                raise ValueError(f'[model] has no key "{key}"; known: {", ".join(options)}')
        multiple = STRIDE if self.stage_1 else GRID
        if self.crop % multiple:
            raise ValueError(f"crop {self.crop} is not a multiple of {multiple}")
        if self.held_out == 1:
            raise ValueError("held_out 1 leaves nothing to train on; use 0 for none, or one photograph in 2 or more")
        if self.only and not self.stage_1:
            raise ValueError("only is an option of stage 1; remove it")
        if self.stage_1 and (self.base or self.points):
            raise ValueError("stage 1 has no base; remove base and points")
        return self

    @staticmethod
    def read(path: Path) -> "Recipe":
        """Read a recipe. Raises UsageError naming file and key for anything unknown, missing or out of range."""
        return validated(Recipe, read_toml(path), path)

    def at(self, step: int) -> float:
        """How much of the schedule lies behind a step, 0 to 1; a cosine begins after the warm-up."""
        skipped = self.warmup if self.schedule == "cosine" else 0
        return min(1, max(0, step - skipped) / max(1, self.steps - skipped))

    def learning_rate_at(self, step: int, progress: float) -> float:
        """Learning rate of a step, counted from 0, at a progress of 0 to 1: linear warm-up, then the schedule."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "wsd":
            left = min(1, (1 - progress) / self.decay) if self.decay else 1
        else:
            left = 0.5 * (1 + math.cos(math.pi * progress))
        return self.learning_rate * (0.02 + 0.98 * left)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made by. A training at a constant rate may be made longer, or decay earlier."""
        return self.model_dump(mode="json", exclude={"steps", "decay"} if self.schedule == "wsd" else set())
