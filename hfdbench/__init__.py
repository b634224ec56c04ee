"""hfdbench: rate-distortion-realism benchmarks of image codecs, and the HFD decoder they were built for.

The functions of `hfdbench.api` are here, too, imported when they are first used: `import hfdbench` costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfdbench.api import OpenCodec, codec, load_results, measure, run

__version__ = "0.2.0"
__all__ = ["OpenCodec", "__version__", "codec", "load_results", "measure", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("hfdbench.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
