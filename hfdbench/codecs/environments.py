"""A Python of its own for a codec whose packages exclude ours: made once from its card's requirements, and kept.

Conventions
    place      environments/KEY in hfdbench's cache folder. KEY hashes the requirements and this Python's version and machine.
    made by    `uv` where it is on PATH, else Python's venv and pip. Either reads its own configuration: indexes, proxies.
    whole      `environment.json` is written last: a folder without it was interrupted and is made anew.
    packages   NAME==VERSION of what lies there now, and of what was installed from a repository its commit. They are part of the
               codec's key: another numpy is another result.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from hfdbench.errors import Unavailable, without_controls
from hfdbench.files import places
from hfdbench.files.atomic import write_text

WHOLE = "environment.json"
LAST_LINES, LAST_CHARACTERS = 12, 1500  # of pip's output, in an error


@dataclass(frozen=True)
class Environment:
    """A Python with packages of its own."""

    prefix: Path

    @property
    def bin(self) -> Path:
        """Folder of its programs."""
        return self.prefix / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.bin / ("python.exe" if os.name == "nt" else "python")

    @property
    def site_packages(self) -> Path:
        """Where its packages lie."""
        scheme = {"base": str(self.prefix), "platbase": str(self.prefix)}
        return Path(sysconfig.get_path("purelib", "venv", scheme))

    @property
    def packages(self) -> tuple[str, ...]:
        """NAME==VERSION of every installed package, sorted; with the commit or hash of one that was not from an index."""
        return tuple(sorted({_named(found) for found in distributions(path=[str(self.site_packages)])}))

    @property
    def digest(self) -> str:
        """16 hex digits of `packages`."""
        return hashlib.sha256("\n".join(self.packages).encode()).hexdigest()[:16]


def find(requirements: Sequence[str]) -> Environment | None:
    """The environment of these requirements, if it was made before."""
    environment = Environment(_folder(requirements))
    return environment if (environment.prefix / WHOLE).is_file() and environment.python.exists() else None


def found(card_id: str, requirements: Sequence[str]) -> Environment:
    """The environment of a card. Raises Unavailable when it was not made yet."""
    environment = find(requirements)
    if environment is None:
        raise Unavailable(f"{card_id}: its Python was not made yet", f"hfdbench fetch {card_id}")
    return environment


def make(card_id: str, requirements: Sequence[str]) -> Environment:
    """The environment of a card, made if it is not there. What is being done is said on stderr.

    Raises
    ------
    Unavailable
        It cannot be made; the message ends with the last lines of pip's or uv's output.
    """
    if environment := find(requirements):
        return environment
    folder = _folder(requirements)
    log = folder.with_suffix(".log")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if environment := find(requirements):  # by whom we waited for
                return environment
            print(f"{card_id}: making its Python: {', '.join(requirements)}", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                with open(log, "wb") as out:
                    _install(folder, _with_numpy(requirements), out)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            write_text(folder / WHOLE, json.dumps({"requirements": list(requirements)}))
            log.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(
            f"{card_id}: its Python cannot be made in {folder.parent}: {error}", "make room there"
        ) from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(
            f"{card_id}: its Python cannot be made: {Path(error.cmd[0]).name} ended with code {error.returncode}:\n"
            f"{_last_lines(log)}\n",
            f'the whole output is in {log}; correct "python" in the card, or check the network, and run it again',
        ) from None
    return Environment(folder)


def _install(folder: Path, requirements: Sequence[str], out: IO[bytes]) -> None:
    uv, python = shutil.which("uv"), str(Environment(folder).python)
    if uv:
        _run([uv, "venv", "--python", sys.executable, str(folder)], out)
        _run([uv, "pip", "install", "--python", python, *requirements], out)
        return
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], out)
    base = getattr(sys, "_base_executable", sys.executable)
    ours = sys.executable if find_spec("pip") else base
    _run([ours, "-m", "pip", "--python", python, "install", "--no-input", *requirements], out)


def _run(command: list[str], out: IO[bytes]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, check=True)


def _with_numpy(requirements: Sequence[str]) -> list[str]:
    """The worker hands over arrays: numpy is needed, of any version unless the card names one."""
    names = {re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0].lower() for text in requirements}
    return [*requirements, *(() if "numpy" in names else ("numpy",))]


def _last_lines(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return without_controls("\n".join(lines[-LAST_LINES:])[-LAST_CHARACTERS:])


def _folder(requirements: Sequence[str]) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    parts = [sorted(set(requirements)), version, platform.machine(), sys.base_prefix]
    return places.cache_folder() / "environments" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _named(distribution) -> str:
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    commit = origin.get("vcs_info", {}).get("commit_id") or origin.get("archive_info", {}).get("hash", "")
    return f"{name}=={distribution.version}" + (f"@{commit}" if commit else "")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make an environment; the kernel frees the lock of one that dies."""
    with open(path, "wb") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        except (ImportError, OSError):
            pass  # no locks here: two processes would disturb one another, and the next run makes it anew
        yield
