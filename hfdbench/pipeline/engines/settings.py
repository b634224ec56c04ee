"""An engine and what its workers take, as options and as a file."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from hfdbench.cards.schema import Table, read_toml, validated
from hfdbench.errors import UsageError

Name = Literal["local", "processes", "ray"]


class Engine(Table):
    """What does the work.

    engine: "local" codes several images at once and measures them in this process; "processes" gives units of work to
    processes of this machine; "ray" to actors of a Ray cluster. The others are of these two. workers: at most; devices: ids
    of GPUs, in turn those of the processes; address: of the Ray cluster; cpus, gpus: what an actor takes; unit_s: seconds
    that a unit is to take; losses: how many workers a unit may cost before its images become error rows.
    """

    engine: Name = "local"
    workers: int | None = Field(default=None, ge=1)
    devices: tuple[str, ...] = ()
    address: str = "auto"
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)
    unit_s: float = Field(default=90, gt=0)
    losses: int = Field(default=3, ge=1)

    @field_validator("devices")
    @classmethod
    def _named_once(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(devices)) < len(devices):
            raise ValueError("names a device twice")
        return devices


def read_engine(path: Path) -> Engine:
    """Read an engine file. Raises UsageError naming the key that is wrong."""
    return validated(Engine, read_toml(path), path)


def chosen(path: Path | None, engine: str | None, devices: str | None, address: str | None) -> Engine:
    """The engine of a command line.

    Parameters
    ----------
    path : Path, optional
        An engine file.
    engine, devices, address : str, optional
        Options, which count more than the file. Devices: "2,3" names GPUs, "8" is the first eight.

    Raises
    ------
    UsageError
        The file or a device is none, or the options exclude one another.
    """
    settings = read_engine(path) if path else Engine()
    named = tuple(name.strip() for name in (devices or "").split(",") if name.strip())
    if devices is not None and not named:
        raise UsageError(f'--devices "{devices}": names no GPU; give a number of GPUs, or ids by commas')
    if len(named) == 1 and named[0].isdecimal() and "," not in str(devices):
        named = tuple(map(str, range(int(named[0]))))
    if devices is not None and not named:
        raise UsageError("--devices 0: give at least one GPU, or --device cpu")
    if named and engine is None and settings.engine == "local":
        engine = "processes"
    given = {"engine": engine, "devices": named or None, "address": address}
    made = {**settings.model_dump(), **{key: value for key, value in given.items() if value is not None}}
    found = validated(Engine, made, path or "command line")
    if found.devices and found.engine != "processes":
        raise UsageError(f"--devices are for --engine processes; with {found.engine}, say gpus in an engine file")
    if address is not None and found.engine != "ray":
        raise UsageError("--address is of a Ray cluster: give --engine ray, too")
    return found
