"""What commands print: progress and notes on stderr, results on stdout."""

import sys
from typing import TYPE_CHECKING, Any

import typer

from hfdbench.cli.options import Device
from hfdbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from tqdm import tqdm

    from hfdbench.pipeline.run import Summary
    from hfdbench.results.stored import Results


def filtered(points: "pd.DataFrame", codecs: list[str] | None, datasets: list[str] | None) -> "pd.DataFrame":
    """Rows of these codecs and datasets. Raises UsageError for one that has no rows."""
    from hfdbench.datasets.dataset import dataset_id
    from hfdbench.errors import unknown

    kept: Any = points
    for column, names in (("codec", codecs), ("dataset", [dataset_id(spec) for spec in datasets or ()])):
        for name in names or ():
            if name not in set(kept[column]):
                raise unknown(f"result of {column}", name, set(kept[column]))
        if names:
            kept = kept[kept[column].isin(names)]
    return kept


def without_older(results: "Results") -> None:
    """Say what a table or figure leaves out because the same point was measured again."""
    if older := results.older():
        first = older[0].row
        more = f" and {len(older) - 1} more" if len(older) > 1 else ""
        print(
            f"left out: measured again since: {first['codec']} {first['point']} on {first['dataset']}{more}; "
            "hfdbench show --older shows both",
            file=sys.stderr,
        )


def chosen(device: Device) -> str:
    """The device of an option; auto looks for a GPU."""
    from hfdbench.codecs.sandbox import gpu_devices

    nothing = sys.platform == "linux" and not gpu_devices()  # as torch would say, whose import takes seconds
    if device is Device.cpu or (device is Device.auto and nothing):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device is Device.cuda:
        raise UsageError("--device cuda: torch sees no GPU; use --device cpu")
    return "cpu"


def complain(summaries: "list[Summary]") -> None:
    """Say on stderr what was left out and what failed."""
    for summary in summaries:
        labels: dict[str, list[str]] = {}
        for label, reason in summary.skipped:
            labels.setdefault(reason, []).append(label)
        for reason, same in labels.items():
            others = f" and {len(same) - 1} more" if len(same) > 1 else ""
            print(f"skipped {same[0]}{others}: {reason}", file=sys.stderr)
        for label, errors in summary.failed:
            for error in errors:
                print(f"failed {label}: {error}", file=sys.stderr)


def tell(summaries: "list[Summary]") -> None:
    """Print the points on stdout, what was left out on stderr, and leave with the exit code."""
    import pandas as pd

    from hfdbench.analysis.seeds import mean_of_seeds, with_spreads
    from hfdbench.report.tables import render_points, shown_columns

    complain(summaries)
    for summary in summaries:
        print(
            f"{len(summary.done)} done, {len(summary.existing)} there already, "
            f"{len(summary.skipped)} skipped, {len(summary.failed)} failed",
            file=sys.stderr,
        )
    points = mean_of_seeds(pd.concat([summary.points for summary in summaries], ignore_index=True))
    if len(points):
        points = points.sort_values(["dataset", "codec", "bpp"])
        print(render_points(points, "table", with_spreads(shown_columns(points), points)), end="")
    raise typer.Exit(max(summary.exit_code for summary in summaries))


class Bar:
    """Progress on stderr: images done, rate, time left."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, total: int, what: str) -> None:
        from tqdm import tqdm

        self.__exit__()
        often = 0.1 if sys.stderr.isatty() else 30  # seconds: in a log every state stays
        self._bar = tqdm(total=total, desc=what, unit="image", dynamic_ncols=True, leave=False, mininterval=often)

    def advance(self, n: int = 1) -> None:
        if self._bar is not None:
            self._bar.update(n)

    def note(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
