"""Nine colour photographs that the scikit-image and scikit-learn wheels carry: no download, ever.

Every file is pinned by its sha256; the bytes are the same in scikit-image 0.24 to 0.26 and scikit-learn 1.5 to 1.9. They are read
where the packages are installed, without importing them.
"""

from importlib.util import find_spec
from pathlib import Path

from hfdbench.errors import Unavailable
from hfdbench.files.digest import file_sha256

PINNED = (
    ("skimage", "data/astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    ("skimage", "data/chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    ("sklearn", "datasets/images/china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    ("skimage", "data/coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    ("sklearn", "datasets/images/flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
    ("skimage", "data/hubble_deep_field.jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"),
    ("skimage", "data/ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
    ("skimage", "data/motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"),
    ("skimage", "data/rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
)
WHEELS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


def pictures() -> list[Path]:
    """Paths of the photographs. Raises Unavailable when a package is missing or carries other bytes."""
    return [_pinned(package, file, sha256) for package, file, sha256 in PINNED]


def _pinned(package: str, file: str, sha256: str) -> Path:
    spec = find_spec(package)
    hint = f"pip install --force-reinstall --no-deps {WHEELS[package]}"
    if spec is None or not spec.origin:
        raise Unavailable(
            f"dataset samples needs the Python package {WHEELS[package]}", f"pip install {WHEELS[package]}"
        )
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise Unavailable(f"dataset samples: {WHEELS[package]} as installed here lacks {file}", hint)
    if file_sha256(path) != sha256:
        raise Unavailable(f"dataset samples: {file} of {WHEELS[package]} is not the one that is pinned", hint)
    return path
