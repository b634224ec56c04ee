"""Several seeds of a point are one row: a mean, a count and a spread; everything else stays as it is."""

import numpy as np
import pandas as pd
import pytest
from helpers_results import write_codec

from hfdbench.analysis.estimate import Estimate
from hfdbench.analysis.intervals import estimate, intervals
from hfdbench.analysis.seeds import mean_of_seeds, with_spreads
from hfdbench.report.tables import render_points
from hfdbench.results.stored import Results


def test_rows_are_means_with_counts_and_spreads():
    rows = [
        {"codec": codec, "point": "q1", "dataset": "d", "device": "cpu", "status": "ok", "images": 4, "bytes": 9}
        | {"seed": seed, "fid": fid, "psnr_db": 30.0, "decode_s": fid, "host_peak_bytes": 10**9 + seed}
        for codec, seed, fid in [("b", 0, 1.0), ("a", 1, 4.0), ("b", 1, np.nan), ("a", 0, 2.0), ("c", 0, 5.0)]
    ]
    found = mean_of_seeds(pd.DataFrame(rows)).set_index("codec")
    assert list(found.index) == ["b", "a", "c"] and found["seeds"].to_dict() == {"a": 2, "b": 2, "c": 1}
    assert found.loc["a", "fid"] == 3.0 and found.loc["a", "fid_spread"] == pytest.approx(2**0.5)
    assert pd.isna(found.loc["b", "fid"]), "a mean of some of the seeds is another number"
    assert pd.isna(found.loc["c", "fid_spread"]) and found.loc["c", "fid"] == 5.0
    assert found.loc["a", "host_peak_bytes"] == 10**9 + 1 and "host_peak_bytes_spread" not in found
    assert found["seed"].eq(0).all() and "psnr_db_spread" not in found and "decode_s_spread" not in found
    assert with_spreads(["fid", "bpp"], found) == ["fid", "fid_spread", "bpp", "seeds"]


def test_what_differs_in_more_than_the_seed_stays():
    rows = pd.DataFrame(
        [
            {"codec": "a", "point": "q1", "dataset": "d", "device": "cpu", "status": "ok", "images": 4, "bytes": size}
            | {"seed": seed, "fid": 1.0}
            for size, seed in [(9, 0), (8, 1), (7, 0), (7, 0)]
        ]
    )
    assert mean_of_seeds(rows).equals(rows)


def test_times_of_several_classes_of_processors_are_not_averaged():
    same = {"codec": "a", "point": "q1", "dataset": "d", "device": "cpu", "status": "ok", "images": 4, "bytes": 9}
    rows = [
        same | {"seed": seed, "processor": name, "fid": 1.0, "decode_s": 1.0 + seed} for seed, name in enumerate("xxyy")
    ]
    assert mean_of_seeds(pd.DataFrame(rows))[["processor", "decode_s"]].to_numpy().tolist() == [["x", 1.5], ["y", 3.5]]


def test_intervals_hold_the_spread_of_the_seeds(tmp_path):
    """Four stored seeds of one point: their mean, and an interval wider than the images alone would make it."""
    for seed in range(4):
        write_codec(tmp_path, "noisy", bpps=(0.1,), sampled=seed)
    results = Results(tmp_path)
    (row,) = mean_of_seeds(results.points()).to_dict("records")
    values = [trial.row["fd_mini"] for trial in results.trials()]
    assert row["seeds"] == 4 and row["fd_mini"] == pytest.approx(np.mean(values))
    assert row["fd_mini_spread"] == pytest.approx(np.std(values, ddof=1))
    ((low, high),) = intervals(results, pd.DataFrame([row]), "fd_mini").to_numpy()
    alone = np.mean([estimate(trial, "fd_mini").standard_error for trial in results.trials()])
    assert low < row["fd_mini"] < high
    together = Estimate.over_seeds([estimate(trial, "fd_mini") for trial in results.trials()])
    assert (low, high) == together.interval()
    assert together.standard_error > (alone**2 * 0.5 + np.var(values, ddof=1) / 4) ** 0.5
    shown = render_points(pd.DataFrame([row]), "table", with_spreads(["codec", "fd_mini"], pd.DataFrame([row])))
    assert shown.split()[:4] == ["codec", "fd_mini", "fd_mini_spread", "seeds"]
