"""Our own targets, tried on results made so that they are met, missed or cannot be measured."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers_results import write_codec

from hfdbench.analysis.targets import targets
from hfdbench.results.stored import Results

GOLDEN = Path(__file__).parents[2] / "results" / "golden" / "kodak"


def by_claim(results, dataset):
    found = targets(results, dataset)
    assert [each.number for each in found] == list(range(10, 27))
    return {
        word: next(v for v in found if word in v.claim)
        for word in ("AVIF", "ELIC's", "lowest rates, PSNR", "hfd-fast: ", "grain")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """hfd has half the distances of its base and less than grain; stage 1 lies 1 dB above AVIF at its middle rates."""
    out = tmp_path_factory.mktemp("targets")
    write_codec(out, "avif", (0.05, 0.1, 0.2, 0.4, 0.8), images=24)
    write_codec(out, "elic-mse", (0.1, 0.2), 1, 4.0, images=24)
    write_codec(out, "hfd", (0.1, 0.2), -1, 1.0, images=24, streams="elic-mse")
    write_codec(out, "elic-grain", (0.1, 0.2), -1, 3.0, images=24, streams="elic-mse")
    return out


def test_what_keeps_to_its_target_is_met(made):
    found = by_claim(made, "made")
    assert found["AVIF"].verdict == "met" and len(found["AVIF"].numbers) == 2
    gains = [float(line.split(": ")[1].removesuffix(" dB")) for line in found["AVIF"].numbers]
    assert gains == pytest.approx([1, 1], abs=0.5)
    assert found["lowest rates, PSNR"].verdict == "met"
    assert found["grain"].verdict == "met", found["grain"].numbers
    assert all("[" in line for line in found["grain"].numbers)
    assert found["ELIC's"].verdict == "not measured" and "was not published" in found["ELIC's"].numbers[0]


def test_nothing_stored_is_not_measured(made):
    for verdict in targets(made, "elsewhere"):
        assert verdict.verdict == "not measured" and len(verdict.numbers) == 1


def test_golden_results_give_the_known_differences():
    """The numbers of docs/models.md: 0.4 dB and more under AVIF, 0.44 of the base's KID at q1."""
    found = by_claim(GOLDEN, "kodak")
    met = [name for name, verdict in found.items() if verdict.verdict == "met"]
    assert met == ["lowest rates, PSNR", "hfd-fast: "]
    points = Results(GOLDEN).points().query("dataset == 'kodak'").set_index(["codec", "point"])
    avif = points.loc["avif"].sort_values("bpp")
    ours = points.loc[("elic-mse", "q2")]
    gain = ours["psnr_db"] - np.interp(np.log(ours["bpp"]), np.log(avif["bpp"]), avif["psnr_db"])
    assert f"elic-mse q2, {ours['bpp']:.3f} bpp: {gain:+.2f} dB" in found["AVIF"].numbers
    better = next(verdict for verdict in targets(GOLDEN, "kodak") if verdict.claim == "the same: mse-unet")
    assert better.verdict == "met" and len(better.numbers) >= 4  # above AVIF at every rate
    ratio = points.loc[("hfd", "q1"), "kid"] / points.loc[("elic-mse", "q1"), "kid"]
    assert found["lowest rates, PSNR"].numbers[0].startswith(f"q1: KID {ratio:.2f} of elic-mse's")
    ratio = points.loc[("hfd-fast", "q1"), "kid"] / points.loc[("hfd", "q1"), "kid"]
    assert found["hfd-fast: "].numbers[0] == f"q1: 5 evaluations, KID {ratio:.2f} of hfd's"


def test_a_point_without_kid_is_named(made, monkeypatch):
    real = Results.points

    def without(self) -> pd.DataFrame:
        points = real(self)
        return points.assign(kid=points["kid"].where(points["codec"] != "hfd"))

    monkeypatch.setattr(Results, "points", without)
    found = by_claim(made, "made")["lowest rates, PSNR"]
    assert found.verdict == "not measured" and "hfd has no kid at " in found.numbers[0]
