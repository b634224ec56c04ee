"""Where hfdbench keeps files of the user: one spelling of every cache and data folder.

Conventions
    caches   platformdirs' user cache folder: XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on macOS, LOCALAPPDATA on
             Windows. A folder of an earlier version (~/.cache/hfdbench, on any system) goes on being used where it is there.
    torch    weights are shared with torch.hub: TORCH_HOME, else torch in the XDG cache folder on every system, as torch does.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path

from hfdbench.files.remote import located

DATA_VARIABLE = "HFDBENCH_DATA"


def xdg_cache() -> Path:
    """The cache folder of programs that follow XDG on every system, torch and Hugging Face among them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def cache_folder() -> Path:
    """hfdbench's own cache folder; it need not exist."""
    earlier = xdg_cache() / "hfdbench"
    return earlier if earlier.is_dir() else user_cache_path("hfdbench", appauthor=False)


def data_root(given: Path | str | None = None) -> Path:
    """Folder of datasets and weights.

    Parameters
    ----------
    given : Path, str or None
        What the user asked for, --data-root for example.

    Returns
    -------
    Path
        The given folder, else the one HFDBENCH_DATA names, else `data` in the cache folder; it need not exist.
    """
    chosen = given or os.environ.get(DATA_VARIABLE)
    return located(chosen).expanduser() if chosen else cache_folder() / "data"


def torch_hub_checkpoints() -> Path:
    """Where torch.hub keeps downloaded weights, found without importing torch."""
    return Path(os.environ.get("TORCH_HOME") or xdg_cache() / "torch").expanduser() / "hub" / "checkpoints"
