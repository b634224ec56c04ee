# pyright: basic
"""A training from the names of its parts, and a campaign of several, each with a time limit."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from pydantic import Field

from hfdbench.cards.find import bundled_root, choose
from hfdbench.cards.schema import CodecCard, Id, Table, read_toml, validated
from hfdbench.errors import Unavailable, UsageError, no_folder, of_system
from hfdbench.files import places
from hfdbench.files.atomic import write_text
from hfdbench.files.digest import file_sha256
from hfdbench.files.temporary import temporary_folder
from hfdbench.hfd.weights import read_autoencoder
from hfdbench.metrics.networks.inception import find_inception
from hfdbench.training import pairs, photos
from hfdbench.training.loop import make_fabric, train
from hfdbench.training.objectives import DISTILLED, PERCEPTUAL
from hfdbench.training.recipe import Recipe
from hfdbench.training.tasks import AutoencoderTask, DecoderTask, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One training.

    Parameters
    ----------
    recipe : str
        Path of a recipe, or the bare name of a bundled one.
    data : Path
        Folder of photographs.
    out : Path
        Folder of checkpoint, logs and weights; a training continues from what it holds.
    autoencoder : Path, optional
        Stage-1 weights that stage 2 decodes.
    base : str, optional
        Codec card that stage 2 decodes, instead of the recipe's.
    init : Path, optional
        Weights to start from, of the same network.
    evaluations : int, optional
        Of the recipe's hfd-fast, instead of its own.
    perceptual : Path, optional
        Weights of the network of the perceptual loss.
    cache : Path, optional
        Folder for pixels and pairs that several trainings share; `out` by default.
    data_root : Path, optional
        Folder of datasets, where weights of feature networks are looked for.
    cards : tuple of Path
        Further folders of cards.
    device, devices, threads : str, int, int
        "cpu" or "cuda"; how many of them; CPU threads, torch's choice by default.
    stop_after_s, finish_after_s : float, optional
        As in `loop.train`.
    compiled : bool
        torch.compile the networks.
    """

    recipe: str
    data: Path
    out: Path
    autoencoder: Path | None = None
    base: str | None = None
    init: Path | None = None
    evaluations: int | None = None
    perceptual: Path | None = None
    cache: Path | None = None
    data_root: Path | None = None
    cards: tuple[Path, ...] = ()
    device: str = "cpu"
    devices: int = 1
    threads: int | None = None
    stop_after_s: float | None = None
    finish_after_s: float | None = None
    compiled: bool = False


def recipe_path(name: str) -> Path:
    """Path of a recipe, given as such or as the bare name of a bundled one."""
    path = Path(name)
    return path if path.exists() or path.name != name else bundled_root() / "codecs" / "recipes" / f"{name}.toml"


def read_recipe(job: Job) -> Recipe:
    """The recipe of a job, checked against what the job brings.

    Raises
    ------
    UsageError
        A wrong recipe, a stage 2 with no base or two, a stage 1 with one.
    """
    path = recipe_path(job.recipe)
    recipe = Recipe.read(path)
    if job.base:
        if recipe.stage_1:
            raise UsageError(f"{path}: stage 1 has no base: leave out --base")
        recipe = recipe.model_copy(update={"base": job.base})
    if not recipe.stage_1 and (job.autoencoder is None) == (not recipe.base):
        raise UsageError(
            f"{path}: stage 2 needs one base: the stage-1 weights with --autoencoder, or a codec with --base"
            + (f" (the recipe names {recipe.base})" if recipe.base else "")
        )
    if recipe.objective == DISTILLED and job.init is None:
        raise UsageError(
            f"{path}: {DISTILLED} is distilled from the decoder that it starts from: give its weights with --init"
        )
    if job.evaluations:
        recipe = recipe.model_copy(update={"evaluations": job.evaluations})
    if not job.data.is_dir():
        raise no_folder(job.data, "give one that holds photographs", f"--data {job.data}")
    return recipe


def run(job: Job) -> Path | None:
    """Carry out a training; what it logs goes to out/train.log, too.

    Returns
    -------
    Path or None
        The weights; None when `stop_after_s` ran out first.

    Raises
    ------
    UsageError
        As `read_recipe`, or weights, photographs or a checkpoint that cannot be used.
    """
    recipe = read_recipe(job)
    with _usage_errors():
        job.out.mkdir(parents=True, exist_ok=True)
        with logged_to(job.out / "train.log"):
            task, fabric = _prepare(job, recipe)
            return train(
                task,
                job.out,
                fabric,
                stop_after_s=job.stop_after_s,
                finish_after_s=job.finish_after_s,
                compiled=job.compiled,
            )


def try_out(job: Job) -> list[str]:
    """Take one step on one crop of a few photographs, in a folder that is thrown away.

    Returns
    -------
    list of str
        A line for each network.
    """
    recipe = read_recipe(job).model_copy(update={"steps": 1, "batch": job.devices})
    with _usage_errors(), temporary_folder() as folder:
        job = replace(job, out=folder, cache=None)
        task, fabric = _prepare(job, recipe, few=True)
        train(task, job.out, fabric, compiled=job.compiled)
        return [
            f"{recipe_path(job.recipe).stem}: {name} of {sum(p.numel() for p in module.parameters()):,} parameters: one step done"
            for name, module in task.modules.items()
        ]


def _prepare(job: Job, recipe: Recipe, few: bool = False) -> tuple[Task, Fabric]:
    if job.threads:
        torch.set_num_threads(job.threads)
    perceptual = job.perceptual
    if recipe.objective in PERCEPTUAL and perceptual is None:
        perceptual = default_perceptual(recipe, job.data_root)
    fabric = make_fabric(job.device, job.devices, recipe.bf16)
    fabric.launch()
    cache = job.cache or job.out
    with fabric.rank_zero_first():
        found = photos.read_photos(job.data, recipe.crop + (0 if recipe.stage_1 else 2 * recipe.border), cache)
    if recipe.held_out:
        found = photos.without_held_out(found, recipe.held_out)
    log.info(
        *("%s: %d photographs, sha256 %s, %d left out", job.recipe, len(found.names), found.sha256, len(found.left_out))
    )
    if job.init:
        log.info("starting from %s, sha256 %s", job.init.name, file_sha256(job.init))
    write_text(job.out / "data.txt", "".join(f"{name}\n" for name in found.names))
    if recipe.stage_1:
        return AutoencoderTask(recipe, found, job.init), fabric
    if job.autoencoder:
        base: pairs.Base = pairs.AutoencoderBase(read_autoencoder(job.autoencoder).module.to(fabric.device))
    else:
        (card,) = choose(CodecCard, [recipe.base], job.cards)
        base = pairs.CodecBase(card, recipe.points)
    if few:
        kept = range(min(len(base.points), len(found.names)))
        found = replace(found, names=found.names[: len(kept)], images=found.images.select(list(kept)))
    first = len(found.images) * fabric.global_rank // fabric.world_size
    return DecoderTask(recipe, found, base, cache, job.init, perceptual, first), fabric


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """Whatever a training cannot work with is the user's to correct."""
    try:
        yield
    except OSError as error:
        raise (UsageError(str(error)) if error.filename is None else of_system(error)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def default_perceptual(recipe: Recipe, data_root: Path | None) -> Path:
    """Inception's weights where FID finds them. Raises UsageError when there are none, or for another network."""
    if recipe.perceptual != "inception":
        raise UsageError(f"the perceptual loss needs the weights of {recipe.perceptual}; give --perceptual FILE")
    try:
        return find_inception(None, places.data_root(data_root))
    except Unavailable as error:
        raise UsageError(f"the perceptual loss has no network: {error}; or give --perceptual FILE") from None


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """What hfdbench logs goes to the file, too."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package = logging.getLogger("hfdbench")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()


# Campaigns


class Stage(Table):
    """One training of a campaign.

    Parameters
    ----------
    name : str
        Folder of its results below the campaign's.
    recipe : str
        Path of a recipe, relative to the campaign's file, or the bare name of a bundled one.
    minutes : float
        Time limit over all calls; the schedule of the learning rate runs by it where it is ahead of the recipe's steps.
    autoencoder, init : str
        Name of an earlier training whose weights are meant, or a path relative to the campaign's file; empty: none.
    base : str
        Codec card that stage 2 decodes; empty: the recipe's.
    evaluations : int, optional
        Of hfd-fast, instead of the recipe's: halving after halving, each from the one before.
    """

    name: Id
    recipe: str
    minutes: float = Field(gt=0)
    autoencoder: str = ""
    init: str = ""
    base: str = ""
    evaluations: int | None = Field(None, ge=1)


class Campaign(Table):
    """Trainings in order."""

    training: tuple[Stage, ...] = Field(min_length=1)


def read_campaign(path: Path) -> Campaign:
    """Read a campaign (TOML) and check what it names before anything is trained.

    Raises
    ------
    UsageError
        An unknown recipe, two trainings of one name, weights of a training that does not come before.
    """
    campaign = validated(Campaign, read_toml(path), path)
    known: set[str] = set()
    for stage in campaign.training:
        if stage.name in known:
            raise UsageError(f'{path}: two trainings are named "{stage.name}"; rename one')
        recipe = _beside(path, stage.recipe) or recipe_path(stage.recipe)
        if not recipe.exists():
            raise UsageError(
                f'{path}: training "{stage.name}": no recipe {stage.recipe}; give a path or a bundled name'
            )
        if Recipe.read(recipe).objective != DISTILLED and stage.evaluations:
            raise UsageError(f'{path}: training "{stage.name}": evaluations is an option of {DISTILLED}; remove it')
        for weights in filter(None, (stage.autoencoder, stage.init)):
            if weights not in known and not _beside(path, weights):
                raise UsageError(
                    f'{path}: training "{stage.name}": {weights} is neither an earlier training nor a file; known: '
                    f"{', '.join(sorted(known)) or 'none'}"
                )
        known.add(stage.name)
    return campaign


def run_campaign(path: Path, job: Job) -> list[Path] | None:
    """Carry out the trainings of a campaign in order; what is finished is not done again.

    Parameters
    ----------
    path : Path
        The campaign.
    job : Job
        What its trainings share: data, device, threads; `out` holds a folder for each, `stop_after_s` is for all together.

    Returns
    -------
    list of Path or None
        The weights of all; None when `stop_after_s` ran out first.
    """
    campaign = read_campaign(path)
    deadline = None if job.stop_after_s is None else time.monotonic() + job.stop_after_s
    made: dict[str, Path] = {}
    for stage in campaign.training:
        out = job.out / stage.name
        weights: Path | None = out / "weights.safetensors"
        if not (out / "weights.safetensors").exists():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            weights = run(
                replace(
                    job,
                    recipe=str(_beside(path, stage.recipe) or stage.recipe),
                    out=out,
                    autoencoder=made.get(stage.autoencoder) or _beside(path, stage.autoencoder),
                    init=made.get(stage.init) or _beside(path, stage.init),
                    base=stage.base or None,
                    evaluations=stage.evaluations,
                    cache=job.cache or job.out,
                    stop_after_s=left,
                    finish_after_s=60 * stage.minutes,
                )
            )
        if weights is None:
            return None
        made[stage.name] = weights
    return list(made.values())


def _beside(campaign: Path, name: str) -> Path | None:
    """A file named relative to the campaign's, if there is one."""
    return found if name and (found := campaign.parent / name).is_file() else None
