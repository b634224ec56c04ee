"""Recipes and campaigns: read, refused, carried out as the command does."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from helpers_hfd import autoencoder, decoder, picture, write
from PIL import Image
from test_hfd_training import STAGE_1

from hfdbench.cards.find import bundled_root, choose
from hfdbench.cards.schema import CodecCard
from hfdbench.errors import UsageError
from hfdbench.hfd.decoder import Decoder
from hfdbench.hfd.weights import load_into, read_decoder
from hfdbench.training import launch, objectives, pairs, photos
from hfdbench.training import loop as training
from hfdbench.training.recipe import Recipe

CAMPAIGNS = sorted((bundled_root() / "codecs" / "recipes").glob("campaign*.toml"))

# Recipes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = 1", '"objective": is missing'),
        ('objective = "hfd"', '"steps": is missing'),
        ('objective = "hfd"\nsteps = 1\nlerning_rate = 1', '"lerning_rate": is unknown'),
        ('objective = "gan"\nsteps = 1', "autoencoder., .hfd"),
        ('objective = "hfd"\nsteps = 1\ncrop = 100', "multiple of 16"),
        ('objective = "autoencoder"\nsteps = 1\ncrop = 96', "multiple of 64"),
        ('objective = "hfd"\nsteps = "many"', '"steps": .*integer'),
        ('objective = "hfd"\nsteps = 0', "greater than or equal to 1"),
        ('objective = "hfd"\nsteps = 1\nschedule = "linear"', "cosine. or .wsd"),
        ('objective = "hfd"\nsteps = 1\nsmooth = 2.0', "less than or equal to 1"),
        ('objective = "hfd"\nsteps = 1\n[model]\nlatents = 4', 'no key "latents"'),
        ('objective = "hfd"\nsteps = 1\n[model]\ngroups = [4]', 'no key "groups"'),
        ("objective = ", "not valid TOML"),
        ('objective = "autoencoder"\nsteps = 1\nbase = "jpeg"', "stage 1 has no base"),
        ('objective = "hfd"\nsteps = 1\nbase = "jpeg"\npoints = [6]', "points"),
        ('objective = "hfd"\nsteps = 1\nheld_out = 1', "held_out 1"),
    ],
)
def test_recipes_say_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        Recipe.read(path)


RECIPES = sorted(set((bundled_root() / "codecs" / "recipes").glob("*.toml")) - set(CAMPAIGNS))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_bundled_recipes_can_be_read(path):
    wanted = Recipe.read(path)
    of_name = re.sub("-(paper|jpeg|avif)$", "", path.stem)
    assert wanted.objective == ("autoencoder" if path.stem.startswith("elic") else of_name)
    if wanted.base:
        (card,) = choose(CodecCard, [wanted.base])
        assert pairs.CodecBase(card, wanted.points).points == wanted.points
    assert wanted.learning_rate_at(wanted.warmup, 0.0) == pytest.approx(wanted.learning_rate)
    assert wanted.learning_rate_at(wanted.steps, 1.0) == pytest.approx(wanted.learning_rate / 50)


def test_every_objective_has_a_recipe():
    assert {Recipe.read(path).objective for path in RECIPES} == {"autoencoder", *objectives.OBJECTIVES}


def test_rivals_share_everything_but_the_objective():
    """The comparison of decoders: same data, same crops, same network, same seed; some go on for longer."""
    rivals = [Recipe.read(path) for path in RECIPES if path.stem not in ("hfd-paper", "hfd-gan")]
    rivals = [wanted for wanted in rivals if not wanted.stage_1 and not wanted.base]
    assert len({wanted.model_dump_json(exclude={"objective", "steps", "seed"}) for wanted in rivals}) == 1
    # The squared error was trained earlier, with a seed of its own: the others decode what it makes.
    assert len({wanted.seed for wanted in rivals if wanted.objective != "mse"}) == 1


# From a recipe, as the command does


@pytest.fixture(scope="module")
def recipe_files(tmp_path_factory):
    """Tiny recipes and stage-1 weights, by name."""
    place = tmp_path_factory.mktemp("recipes")
    common = "steps = 2\nbatch = 2\ncrop = 64\nwarmup = 1\nbf16 = false\npair_side = 64\nborder = 32\n"
    network = "[model]\nwidths = [8, 16]\nblocks = [1, 1]\nembedding = 16\n"
    for objective in ("hfd", "hific", "hfd-fast"):
        (place / f"{objective}.toml").write_text(f'objective = "{objective}"\n{common}{network}')
    model = "".join(f"{name} = {value}\n" for name, value in STAGE_1.items())
    (place / "elic.toml").write_text(f'objective = "autoencoder"\n{common}[model]\n{model}')
    write(autoencoder(), place / "ae.safetensors", "autoencoder")
    return place


def test_train_recipe_leaves_a_record(recipe_files, folder, cache, tmp_path):
    out = tmp_path / "out"
    first = recipe_files / "ae.safetensors"
    made = launch.run(launch.Job(str(recipe_files / "hfd.toml"), folder, out, autoencoder=first, cache=cache))
    assert made == out / "weights.safetensors"
    assert (out / "data.txt").read_text().splitlines() == [f"{k}.png" for k in range(8)]
    said = (out / "train.log").read_text()
    assert "8 photographs" in said and "2 left out" in said and "narrow.png: left out" in said
    assert not list(out.glob("pairs-*"))


def test_a_decoder_on_a_codec_starts_from_one_of_other_rates(recipe_files, folder, cache, tmp_path):
    """Rates that the start does not have lie between those it has; base and points are in the weights."""
    wanted = 'base = "jpeg"\npoints = ["q8", "q25", "q50"]\nheld_out = 4\n' + (recipe_files / "hfd.toml").read_text()
    (tmp_path / "hfd.toml").write_text(wanted)
    start = write(decoder(), tmp_path / "start.safetensors", "hfd")
    made = launch.run(launch.Job(str(tmp_path / "hfd.toml"), folder, tmp_path / "out", init=start, cache=cache))
    assert made is not None
    model = read_decoder(made)
    assert model.metadata["base"] == "jpeg" and json.loads(model.metadata["points"]) == ["q8", "q25", "q50"]
    named = (tmp_path / "out" / "data.txt").read_text().split()
    assert 0 < len(named) < 8 and not any(photos.held_out(name, 4) for name in named)
    fresh = Decoder(replace(model.module.config, latents=0))
    load_into(fresh, start, by_rate=("network.rate.weight", "root"))
    old, new = decoder().network.rate.weight, fresh.network.rate.weight
    assert torch.allclose(new[[0, 2]], old) and torch.allclose(new[1], old.mean(0)) and fresh.root.shape == (3, 3, 3)


def test_the_record_says_when_bfloat16_is_not_used(recipe_files, folder, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    wanted = (recipe_files / "hfd.toml").read_text().replace("bf16 = false", "bf16 = true")
    (tmp_path / "hfd.toml").write_text(wanted)
    first = recipe_files / "ae.safetensors"
    launch.run(launch.Job(str(tmp_path / "hfd.toml"), folder, tmp_path / "out", autoencoder=first, cache=cache))
    assert "training in float32" in (tmp_path / "out" / "train.log").read_text()


def test_a_dry_run_keeps_nothing(recipe_files, folder, tmp_path):
    for name, options in (("elic", {}), ("hfd", {"autoencoder": recipe_files / "ae.safetensors"})):
        out = tmp_path / "out"
        (line,) = launch.try_out(launch.Job(str(recipe_files / f"{name}.toml"), folder, out, **options))
        assert not out.exists()
        assert line.startswith(f"{name}: model of") and line.endswith("one step done")


def test_a_job_says_what_is_missing(recipe_files, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "empty").mkdir()
    for name in ("recipe.toml", "taken"):
        (tmp_path / name).write_text("objective = 1")

    def job(name, data=folder, **options):
        return launch.Job(str(recipe_files / f"{name}.toml"), data, tmp_path / "out", **options)

    wrong = {
        "--autoencoder, or a codec with --base": job("hfd"),
        "stage 1 has no base": job("elic", base="jpeg"),
        'did you mean "jpeg"': job("hfd", base="jpge"),
        "no such folder": job("elic", tmp_path / "nowhere"),
        "no picture to train on": job("elic", tmp_path / "empty"),
        r"recipe.toml: no weights of a training: .*; give its weights": job("elic", init=tmp_path / "recipe.toml"),
        "taken: File exists; it is a file; choose another path": replace(job("elic"), out=tmp_path / "taken"),
        "hfd-fast is distilled from .* --init": job("hfd-fast", autoencoder=recipe_files / "ae.safetensors"),
        r"perceptual loss has no network.*--perceptual FILE": job(
            "hific", autoencoder=recipe_files / "ae.safetensors", data_root=tmp_path / "empty"
        ),
    }
    for message, asked in wrong.items():
        with pytest.raises(UsageError, match=message):
            launch.run(asked)


def test_weights_that_are_not_finite_are_not_exported(recipe_files, folder, cache, tmp_path, monkeypatch):
    """A training that diverged leaves no weights to be benchmarked."""
    monkeypatch.setattr(training.Pass, "step", lambda self, *_: {"loss": self.clipped[0].data.fill_(math.nan).sum()})
    with pytest.raises(UsageError, match=r"holds NaN or infinity; the training diverged"):
        launch.run(launch.Job(str(recipe_files / "elic.toml"), folder, tmp_path / "out", cache=cache))
    assert not (tmp_path / "out" / "weights.safetensors").exists()


# Campaigns


@pytest.fixture
def campaign(recipe_files, tmp_path):
    """Stage 1, then hfd on it, then hfd again from the first's weights."""
    for name in ("elic", "hfd"):
        text = (recipe_files / f"{name}.toml").read_text().replace("steps = 2", "steps = 1000000")
        (tmp_path / f"{name}.toml").write_text(text)
    path = tmp_path / "campaign.toml"
    path.write_text(
        """
training = [
  { name = "first", recipe = "elic.toml", minutes = 0.02 },
  { name = "second", recipe = "hfd.toml", minutes = 0.02, autoencoder = "first" },
  { name = "third", recipe = "hfd.toml", minutes = 0.02, autoencoder = "first", init = "second" },
]
"""
    )
    return path


def test_a_campaign_trains_in_order_within_its_minutes(campaign, folder, cache, tmp_path):
    out = tmp_path / "out"
    job = launch.Job("", folder, out, cache=cache)
    stopped = 0
    while (made := launch.run_campaign(campaign, replace(job, stop_after_s=0.5))) is None:
        stopped += 1
        assert stopped < 200
    assert stopped > 1 and made == [out / name / "weights.safetensors" for name in ("first", "second", "third")]
    for name in ("first", "second", "third"):
        rates = [json.loads(line)["learning_rate"] for line in (out / name / "log.jsonl").read_text().splitlines()]
        assert rates[-1] < 0.9 * 4e-4  # the schedule ran by time, not by its million steps
        saved = torch.load(out / name / "checkpoint.pt", weights_only=True)
        assert saved["spent_s"] >= 1.2 and saved["step"] < 1000000
    assert "starting from weights.safetensors" in (out / "third" / "train.log").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert launch.run_campaign(campaign, job) == made
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_a_campaign_halves_the_steps_of_a_sampler(recipe_files, folder, cache, tmp_path):
    """Each from the one before; how many evaluations each has is in its weights."""
    path = tmp_path / "campaign.toml"
    trainings = "".join(
        f'[[training]]\nname = "fast-{n}"\nrecipe = "{recipe_files / "hfd-fast.toml"}"\nminutes = 1\n'
        f'autoencoder = "ae.safetensors"\ninit = "{init}"\nevaluations = {n}\n'
        for n, init in ((4, "start.safetensors"), (2, "fast-4"))
    )
    path.write_text(trainings)
    shutil.copy(recipe_files / "ae.safetensors", tmp_path)
    write(decoder(), tmp_path / "start.safetensors", "hfd")
    made = launch.run_campaign(path, launch.Job("", folder, tmp_path / "out", cache=cache))
    assert made is not None
    recipes = [json.loads(read_decoder(weights).metadata["recipe"]) for weights in made]
    assert [(each["objective"], each["evaluations"]) for each in recipes] == [("hfd-fast", 4), ("hfd-fast", 2)]


def test_a_campaign_refuses_a_folder_that_changes_between_resumes(campaign, folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "photos")
    job = launch.Job("", place, tmp_path / "out", stop_after_s=0.0001)
    while not (tmp_path / "out" / "first" / "checkpoint.pt").exists():
        launch.run_campaign(campaign, replace(job, stop_after_s=0.3))
    Image.fromarray(picture(130, 160, seed=9)).save(place / "3.png")
    with pytest.raises(UsageError, match="made by another recipe or other data"):
        launch.run_campaign(campaign, replace(job, stop_after_s=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"elic.toml"', '"elick.toml"'), 'training "first": no recipe elick.toml'),
        (('"second"', '"first"'), 'two trainings are named "first"'),
        (
            ('autoencoder = "first"', 'autoencoder = "third"'),
            "third is neither an earlier training nor a file; known: first",
        ),
        (("minutes = 0.02", "minutes = 0"), "greater than 0"),
        (("minutes = 0.02 }", "minutes = 0.02, hours = 1 }"), "is unknown"),
        (("minutes = 0.02 }", "minutes = 0.02, evaluations = 8 }"), "evaluations is an option of hfd-fast"),
    ],
)
def test_campaigns_say_what_is_wrong(campaign, change, message):
    campaign.write_text(campaign.read_text().replace(*change))
    with pytest.raises(UsageError, match=message):
        launch.read_campaign(campaign)


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_bundled_campaigns_can_be_read(path):
    assert launch.read_campaign(path).training


def test_the_campaign_of_a_gpu_takes_half_an_hour():
    (path,) = (path for path in CAMPAIGNS if path.stem == "campaign")
    assert sum(stage.minutes for stage in launch.read_campaign(path).training) <= 30
