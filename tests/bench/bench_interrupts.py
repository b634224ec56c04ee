"""How long a run lives on after Ctrl-C, pressed once or twice, at moments by chance.

    python tests/bench/bench_interrupts.py [--moments 100] [--presses 1]

Each moment is a line as soon as it is over; the summary comes at the end, or when the script is interrupted or terminated.
Limits, on an idle machine: 2 s after one press, 0.5 s after the second of two, which comes at most 0.1 s after the first. Each
run codes pictures in two workers; moments lie between the first line of hfdbench (before it, Ctrl-C is the interpreter's) and
the end of an undisturbed run. Times on a busy machine are longer: its load is printed beside them, the share of a processor
that other processes leave (idle_share, of all cores), and the processor time that the run still used, which depends less on it.
Exit 1 over a limit, for another exit code than 130 (0: it had ended when the press came; -2: the system ended it by the
signal, which a shell calls 130, because a library held the interpreter), or where a process, a folder or a
temporary file was left behind. What such a run said (with faulthandler's stacks) is printed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from helpers_processes import processes  # noqa: E402

CARD = """
id = "slow"
kind = "classical"
adapter = "helpers_codec:Quantiser"
points = [{ id = "p", options = { step = 16, pause_s = 0.2 } }]
"""
SCRIPT = """
import os, signal, sys
signal.signal(2, signal.default_int_handler)  # a background job of a shell is deaf to it
from hfdbench.cli import interrupts, main
interrupts.install()
os.write(1, b"ready")
main()
"""
WORDS = ["run", "--cards", ".", "--codec", "slow", "--dataset", "folder:images", "--workers", "2"]
LIMITS_S = {1: 2.0, 2: 0.5}
GAP_S = 0.1


def start(folder: Path, out: str) -> subprocess.Popen:
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "MARKED": str(folder), "PYTHONFAULTHANDLER": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-c", SCRIPT, *WORDS, "--out", out]
    errors = open(folder / f"{out}.txt", "wb")  # noqa: SIM115  (for the run's whole life)
    run = subprocess.Popen(command, cwd=folder, env=environment, stderr=errors, stdout=subprocess.PIPE)
    assert run.stdout is not None and run.stdout.read(5) == b"ready"
    return run


def processor_s(process: int) -> float:
    """Of user and system that a process has used so far; 0 when it is gone."""
    try:
        used = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def lives_on_s(run: subprocess.Popen, presses: int) -> tuple[float, float] | None:
    """Seconds, and seconds of the processor, from the last press to the end; None where the run had ended before."""
    for press in range(presses):
        time.sleep(random.uniform(0, GAP_S) if press else 0)
        pressed, used = time.perf_counter(), processor_s(run.pid)
        if run.poll() is not None:
            return None
        run.send_signal(signal.SIGINT)
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - pressed, usage.ru_utime + usage.ru_stime - used


def left(folder: Path, out: str) -> list:
    """Processes, folders and temporary files of the run, once their supervisors have had 5 s."""
    deadline = time.monotonic() + 5
    while True:
        found = [*processes(str(folder)), *(folder / "tmp").glob("hfdbench-*"), *(folder / out).glob("**/.*.tmp")]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def idle_s() -> float:
    """Seconds that all cores together have been idle since the machine started; 0 where Linux does not say."""
    with suppress(OSError):
        return int(Path("/proc/stat").read_text().split()[4]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def summary(
    presses: int, ends: list[tuple[float, float] | None], codes: list[int], wrong: int, idle_share: float
) -> int:
    """Print it for what was pressed so far; how many moments were over the limit."""
    met = [took for took, code in zip(ends, codes, strict=True) if took is not None and code]
    times, used = np.transpose(met or [(0, 0)])
    late = sum(times > LIMITS_S[presses])
    print(
        f"{presses} press{'es' * (presses > 1)}: {len(met)} of {len(ends)} met the run; median {np.median(times):.2f} s, "
        f"95 % {np.quantile(times, 0.95):.2f} s, longest {max(times):.2f} s; {late} over {LIMITS_S[presses]} s; of the "
        f"processor median {np.median(used):.2f} s, longest {max(used):.2f} s; {wrong} with another end; exit codes "
        f"{dict(Counter(codes))}; load {os.getloadavg()[0]:.1f}, idle share {idle_share:.2f}",
        flush=True,
    )
    return late


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--moments", type=int, default=100)
    options.add_argument("--presses", type=int, nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    options = options.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # both end it with a summary
        signal.signal(number, signal.default_int_handler)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("codecs", "images", "tmp"):
            (folder / part).mkdir()
        (folder / "codecs" / "slow.toml").write_text(CARD)
        for number in range(8):
            Image.fromarray(np.full((40, 56, 3), number, np.uint8)).save(folder / "images" / f"{number}.png")
        run = start(folder, "whole")
        began = time.perf_counter()
        assert run.wait() == 0
        whole_s = time.perf_counter() - began
        print(f"an undisturbed run: {whole_s:.1f} s; load {os.getloadavg()[0]:.1f}", flush=True)
        for presses in options.presses:
            ends, codes, wrong = [], [], 0
            began, idle = time.perf_counter(), idle_s()
            try:
                for number in range(options.moments):
                    out, moment_s = f"out-{presses}-{number}", random.uniform(0, whole_s)
                    run = start(folder, out)
                    time.sleep(moment_s)
                    took = lives_on_s(run, presses)
                    ends.append(took)
                    codes.append(run.returncode)
                    lived = f"{took[0]:.2f} s more" if took and run.returncode else "it had ended"
                    print(f"{number + 1:3} at {moment_s:5.2f} s: exit code {run.returncode}, {lived}", flush=True)
                    if (behind := left(folder, out)) or run.returncode not in (0, 130, -signal.SIGINT):
                        wrong += 1
                        print(f"left {behind}\n{(folder / f'{out}.txt').read_text()}", flush=True)
            finally:
                share = (idle_s() - idle) / (time.perf_counter() - began) / (os.cpu_count() or 1)
                bad += summary(presses, ends, codes, wrong, share) + wrong
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
