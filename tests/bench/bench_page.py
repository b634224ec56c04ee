"""Size of the page and time to load it from disk, of stored results: under 60 MB and 3 s for Kodak and ten codecs.

    python tests/bench/bench_page.py RESULTS [--quality 80] [--max-mb 60] [--rounds 5]

Load: from the navigation to the end of the load event, curves drawn and first pictures asked for, in a fresh profile of a
headless Chromium; the best of the rounds, and the seconds the page's own thread computed, which busy neighbours do not
stretch. Exit code 1 over a limit, by that thread's seconds.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S, LIMIT_MB = 3.0, 60.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("results", type=Path)
    options.add_argument("--quality", type=int, default=80)
    options.add_argument("--max-mb", type=float, default=LIMIT_MB)
    options.add_argument("--rounds", type=int, default=5)
    options = options.parse_args()

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from helpers_page import browser

    from hfdbench.cards.find import find_cards
    from hfdbench.cards.schema import FigureCard
    from hfdbench.report.page.page import Choice, write_page

    with tempfile.TemporaryDirectory() as folder:
        choice = Choice(quality=options.quality, max_mb=options.max_mb)
        start = time.perf_counter()
        page = write_page(options.results, Path(folder), find_cards(FigureCard).values(), choice)
        written_s = time.perf_counter() - start
        for note in page.notes:
            print(note, file=sys.stderr)
        with browser() as running:
            rounds = [load(running, page.path) for _ in range(options.rounds)]
    wall_s, own_s, counts = (min(column) for column in zip(*rounds, strict=True))
    print(
        f"{counts[0]} codecs, {counts[1]} points, {counts[2]} with pictures of {counts[3]} images; written in {written_s:.0f} s"
    )
    print(
        f"{page.bytes / 1e6:.1f} MB (limit {LIMIT_MB:g}); loads in {wall_s:.2f} s, {own_s:.2f} s of its own (limit {LIMIT_S:g})"
    )
    return int(page.bytes > LIMIT_MB * 1e6 or own_s > LIMIT_S)


def load(running, path: Path) -> tuple[float, float, tuple]:
    """Seconds on the wall, seconds of the page's thread; codecs, points, points with pictures, images."""
    context = running.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(path.as_uri(), wait_until="load", timeout=300_000)
    wall_s = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1e3
    metrics = {entry["name"]: entry["value"] for entry in session.send("Performance.getMetrics")["metrics"]}
    counts = page.evaluate(
        """() => [Object.keys(D.codecs).length, set().points.length, pictured().length, set().pictures]"""
    )
    context.close()
    return wall_s, metrics["TaskDuration"], tuple(counts)


if __name__ == "__main__":
    sys.exit(main())
