"""What decides the numbers of a codec's point, so that a stored result is used again exactly while none of it changed.

Conventions: keys are the first 16 hex digits of a sha256. No adapter is imported here, bundled or not: what its class
declares is read from its source, so that the measuring process never runs the code it measures.

    version     the integer that the adapter's class declares; raised when its output may change
    environment of a codec with a Python of its own: a hash of all that is installed there, in place of `libraries`
    code        for a class without one: a hash of its module's code and of the modules of the same place that it imports,
                without comments and docstrings
    tolerance   grey levels by which its pixels may differ between classes of processors; decides no key
    batch       streams that its `decode_batch` is given at once; decides no key
    libraries   versions of what the class lists in `libraries`, or of the installed packages that its modules import
    programs    hashes of the programs and files that the options name, and of all files in the folders that the option `repository`
                or a PYTHONPATH in the option `env` names
"""

import ast
import hashlib
import json
import os
import platform
import re
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.abc import FileLoader
from importlib.machinery import BuiltinImporter, ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from hfdbench.cards.find import PACKAGE
from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import environments
from hfdbench.codecs.environments import Environment
from hfdbench.codecs.protocol import adapter_name, base_card, beside, blueprint, search_path, verified
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.digest import file_sha256

_IDLE = {"hfdbench.codecs.command:Command": ("hint", "timeout_s")}  # options that no number depends on
MOST_AT_ONCE = 256  # streams of a batch
ENVIRONMENT = re.compile(r"\{env:([^{}]*)\}")


def key(*parts: object) -> str:
    """16 hex digits of values that JSON can hold.

    Parameters
    ----------
    *parts : object
        Strings, numbers, lists, dicts; anything else by its ``str``.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def stream_key(encodes: dict[str, Any], dataset_sha256: str) -> str:
    """Key of the streams that a point makes of a dataset.

    Parameters
    ----------
    encodes : dict
        `identity` of the point that encodes.
    dataset_sha256 : str
        Hash of names and contents of the images.
    """
    return key("streams", encodes, dataset_sha256)


def trial_key(stream_key: str, decodes: dict[str, Any], seed: int, device: str) -> str:
    """Key of what is decoded from those streams.

    Parameters
    ----------
    stream_key : str
        Key of the streams.
    decodes : dict
        `identity` of the point that decodes.
    seed : int
        Seed of decoders that sample.
    device : str
        Class of the device: "cpu" or "cuda".
    """
    return key("trial", stream_key, decodes, seed, device)


def identity(card: CodecCard, point_id: str) -> dict[str, Any]:
    """What decides the behaviour of a card's point.

    Parameters
    ----------
    card : CodecCard
        The card; what only describes it (title, settings, paper) has no influence.
    point_id : str
        One of its points.

    Returns
    -------
    dict
        Plain values: adapter, version or code, libraries, programs, options, weights.

    Raises
    ------
    Unavailable
        Weights, a package or a program are missing, or the Python of its own was not made.
    UsageError
        Weights were altered, or the card names no such module or class.
    """
    point = card.point(point_id)
    plan = blueprint(card, point_id)
    weights = [verified(plan, entry) for entry in plan.weights]
    digests = [entry.sha256 or _file_sha256(path) for entry, path in zip(plan.weights, weights, strict=True)]
    reference = adapter_name(card.adapter)
    idle = _IDLE.get(reference, ("hint",) if reference.startswith("hfdbench.codecs.peers:") else ())
    options = {name: value for name, value in point.options.items() if name not in idle}
    own = environments.found(card.id, card.python) if card.python else None
    found = _adapter_identity(card, reference, point.options, own)
    if card.base is not None and (base := base_card(card)).streams is not None:
        found["base"] = identity(base, point_id)  # a base that encodes is in the key of the streams
    return found | {"options": options, "weights": digests}


def tolerance(card: CodecCard) -> int:
    """Grey levels by which a card's pixels may differ between classes of processors: what its adapter declares, else 0.

    Raises
    ------
    UsageError
        The card names no such module.
    """
    return _of_card(card).tolerance


def batch(card: CodecCard) -> int:
    """Streams of pictures of one size that a card's decoder is given at once: what its adapter declares, else 1.

    Raises
    ------
    UsageError
        The card names no such module, or the number is not one from 1 to MOST_AT_ONCE.
    """
    return _of_card(card).batch


def _of_card(card: CodecCard) -> "_Declared":
    own = environments.found(card.id, card.python) if card.python else None
    module, _, name = adapter_name(card.adapter).partition(":")
    return _declared(module, name, _search_path(card, own), str(card.source))


def provide(card: CodecCard, point_id: str) -> None:
    """Make the Python that a card asks for, if it is not there, once all else that it names is. Raises as `identity` does."""
    if card.python:
        require_named(card, point_id)
        plan = blueprint(card, point_id)
        for entry in plan.weights:
            verified(plan, entry)
        environments.make(card.id, card.python)


def require_named(card: CodecCard, point_id: str) -> None:
    """Look for what a point's options take from environment variables, before anything is downloaded for it.

    Parameters
    ----------
    card : CodecCard
    point_id : str
        One of its points.

    Raises
    ------
    Unavailable
        A variable is not set, or the file or folder that it leads to is not there.
    """
    options = card.point(point_id).options
    own, hint = options.get("env"), str(options.get("hint", ""))
    environment = {**(own if isinstance(own, dict) else {}), **os.environ}
    for word in _words(options):
        for name in ENVIRONMENT.findall(word):
            if not environment.get(name):
                raise Unavailable(f"{card.id}: the environment variable {name} is not set", hint)
        path = ENVIRONMENT.sub(lambda match: environment[match[1]], word)
        if path != word and os.path.isabs(path) and not {"{", os.pathsep} & {*path} and not os.path.exists(path):
            raise Unavailable(f"{card.id}: {path}: no such file or folder", hint)


def _adapter_identity(
    card: CodecCard, reference: str, options: dict[str, Any], own: Environment | None
) -> dict[str, Any]:
    module, _, name = reference.partition(":")
    declared = _declared(module, name, _search_path(card, own), str(card.source))
    found: dict[str, Any] = {"adapter": reference, **declared.deciding}
    if own is not None:
        found["environment"] = own.digest
    elif declared.libraries:
        found["libraries"] = {library: _library_version(card, library) for library in declared.libraries}
    path = os.environ.get("PATH", "")
    if programs := programs_of(options, path if own is None else f"{own.bin}{os.pathsep}{path}"):
        found["programs"] = {word: _file_sha256(path) for word, path in programs.items()}
    if folders := _repositories(options):
        found["repositories"] = [_folder_sha256(folder) for folder in folders]
    inner = options.get("adapter")
    if module == "hfdbench.codecs.mixed" and isinstance(inner, str):
        found["mixes"] = _adapter_identity(card, adapter_name(inner), {}, own)
    return found


def _search_path(card: CodecCard, own: Environment | None) -> tuple[str, ...]:
    if own is None:
        return tuple(search_path(card))
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    folder = beside(card)
    hfdbench = [str(PACKAGE.parent)] if card.adapter.startswith("hfdbench.") else []
    return (*hfdbench, str(own.site_packages), *standard, *([folder] if folder else []))


def programs_of(options: dict[str, Any], path: str | None = None) -> dict[str, Path]:
    """Programs that a point's `encode` and `decode` begin with, and existing files that any option names absolutely.

    Parameters
    ----------
    options : dict
        Options of a point; ``{env:NAME}`` in a word stands for an environment variable, as in `hfdbench.codecs.command`.
    path : str, optional
        PATH that programs are looked for on, instead of this process's.

    Returns
    -------
    dict of str to Path
        The word as the options write it, and the file.

    Raises
    ------
    Unavailable
        A program is not on PATH.
    """
    extra = options.get("env")
    environment = {
        **os.environ,
        **({} if path is None else {"PATH": path}),
        **(extra if isinstance(extra, dict) else {}),
    }

    def filled(word: str) -> str:
        return ENVIRONMENT.sub(lambda match: environment.get(match[1], ""), word)

    found: dict[str, Path] = {}
    for role in ("encode", "decode"):
        words = options.get(role)
        if isinstance(words, list | tuple) and words and isinstance(words[0], str) and (program := filled(words[0])):
            where = shutil.which(program, path=environment.get("PATH"))
            if where is None:
                raise Unavailable(f'the program "{program}" is not here', str(options.get("hint", "")))
            found[words[0]] = Path(where).resolve()
    for word in _words(options):
        path = filled(word)
        if os.path.isabs(path) and os.path.isfile(path):
            found[word] = Path(path).resolve()
    return found


def _repositories(options: dict[str, Any]) -> list[Path]:
    """Folders of code that no package manager installed."""
    extra = options.get("env")
    named = [options.get("repository"), extra.get("PYTHONPATH") if isinstance(extra, dict) else None]
    filled = [ENVIRONMENT.sub(lambda m: os.environ.get(m[1], ""), words) for words in named if isinstance(words, str)]
    folders = [folder for text in filled for folder in text.split(os.pathsep)]
    return [Path(folder).resolve() for folder in folders if os.path.isabs(folder) and os.path.isdir(folder)]


def named_files(options: dict[str, Any]) -> list[str]:
    """Files and folders that a point's options name, and the folders of its programs: what its codec must see."""
    try:
        programs = programs_of(options)
    except Unavailable:
        programs = {}
    extra = options.get("env")
    environment = {**os.environ, **extra} if isinstance(extra, dict) else dict(os.environ)
    words = [ENVIRONMENT.sub(lambda match: environment.get(match[1], ""), word) for word in _words(options)]
    return [*(str(path.parent) for path in programs.values()), *(word for word in words if os.path.isabs(word))]


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _words(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner)


def processor() -> str:
    """Class of this machine's processor: results of one class are equal to the bit, of two to a grey level.

    Floating-point kernels (oneDNN, ATen) are chosen by the instruction set; the variables that limit it count.
    """
    limits = [os.environ[name] for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA") if os.environ.get(name)]
    return " ".join([platform.machine(), _instruction_set(), *limits])


@cache
def _instruction_set() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.system().lower()
    flags = next((set(line.split()) for line in lines if line.startswith(("flags", "Features"))), set())
    for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "sse4_1", "sve", "asimd"):
        if name in flags:
            return name
    return "baseline"


# ---- what a class declares, read from the source


@dataclass(frozen=True)
class _Declared:
    deciding: dict[str, Any]  # version or code
    libraries: tuple[str, ...]
    tolerance: int
    batch: int


def _declared(module: str, name: str, path: tuple[str, ...], card: str) -> _Declared:
    spec = _find(module, path)
    if spec is None or not spec.origin:
        raise UsageError(
            f'{card}: key "adapter": no module "{module}"; fix the card, install it or put it beside codecs/'
        )
    values: dict[str, Any] = {}
    if spec.origin.endswith(".py"):
        try:
            tree = _tree(spec.origin, os.stat(spec.origin).st_mtime_ns)
        except SyntaxError as error:
            raise UsageError(f"{spec.origin}:{error.lineno}: {error.msg}; fix the adapter's source") from None
        values = dict(
            _constants(next((n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), []))
        )
    number, listed = values.get("version"), values.get("libraries")
    tolerance, batch = int(values.get("tolerance", 0)), values.get("batch", 1)
    if type(batch) is not int or not 1 <= batch <= MOST_AT_ONCE:
        raise UsageError(f"{spec.origin}: {name}.batch: must be a number from 1 to {MOST_AT_ONCE}; correct it")
    libraries = tuple(map(str, listed)) if isinstance(listed, list | tuple) else None
    if isinstance(number, int) and libraries is not None:
        return _Declared({"version": number}, libraries, tolerance, batch)
    files, imported = _closure(module, path)
    if libraries is None:
        known, own = _distributions(), {module.partition(".")[0], "hfdbench"}
        libraries = tuple(sorted({found for top in imported - own for found in known.get(top, ())}))
    if isinstance(number, int):
        return _Declared({"version": number}, libraries, tolerance, batch)
    digests = sorted((module_name, code_sha256(file)) for module_name, file in files.items())
    return _Declared({"code": hashlib.sha256(json.dumps(digests).encode()).hexdigest()}, libraries, tolerance, batch)


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@lru_cache(maxsize=256)
def _tree(path: str, stamp: int) -> ast.Module:
    return ast.parse(Path(path).read_bytes())


def _constants(body: Iterable[ast.stmt]) -> Iterator[tuple[str, Any]]:
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign):
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name) and value is not None:
            try:
                yield target.id, ast.literal_eval(value)
            except ValueError:
                continue


def _closure(module: str, path: tuple[str, ...]) -> tuple[dict[str, Path], set[str]]:
    """Modules by name that belong to the adapter, itself first, and the top-level names of all others it imports.

    To it belong the modules of its own top-level package, adapters of hfdbench and its model that it builds on, and
    whatever is neither installed nor part of Python.
    """
    top = module.partition(".")[0]
    files: dict[str, Path] = {}
    others: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = None if name in files else _find(name, path)
        if spec is None or spec.origin is None or not isinstance(spec.loader, FileLoader | ExtensionFileLoader):
            continue  # seen, not a module, or built into Python
        origin, own = Path(spec.origin), name.partition(".")[0]
        if own == "hfdbench":
            belongs = name == module or (
                name not in _MACHINERY and name.startswith(("hfdbench.codecs", "hfdbench.hfd"))
            )
        else:
            belongs = own == top or not _installed(origin)
            if not belongs:
                others.add(own)
        if not belongs:
            continue
        files[name] = origin
        if origin.suffix == ".py":
            package = name if spec.submodule_search_locations else name.rpartition(".")[0]
            waiting.extend(_imports(str(origin), package))
    return files, others


_MACHINERY = frozenset(
    f"hfdbench.codecs{name}" for name in ("", ".protocol", ".identity", ".pool", ".worker", ".sandbox", ".environments")
)


def _imports(source: str, package: str) -> Iterator[str]:
    """Names of modules that a source may import, relative ones made absolute; some may not exist."""
    try:
        tree = _tree(source, os.stat(source).st_mtime_ns)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:  # importing a.b.c runs a and a.b, too
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _find(name: str, path: tuple[str, ...]) -> ModuleSpec | None:
    """Spec of a module, found without importing its parent packages."""
    if name.partition(".")[0] in sys.builtin_module_names:
        return BuiltinImporter.find_spec(name)
    parts = name.split(".")
    places: list[str] | None = list(path)
    spec = None
    for end in range(1, len(parts) + 1):
        if places is None:
            return None
        try:
            spec = PathFinder.find_spec(".".join(parts[:end]), places)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        places = list(spec.submodule_search_locations) if spec.submodule_search_locations else None
    return spec


def _installed(origin: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    text = str(origin)
    if "site-packages" in text or "dist-packages" in text:
        return True
    places = {os.path.dirname(os.__file__), *site.getsitepackages()}
    return any(text.startswith(place + os.sep) for place in places)


@lru_cache(maxsize=1024)
def _code_sha256(path: str, stamp: int) -> str:
    content = Path(path).read_bytes()
    if path.endswith(".py"):
        tree = ast.parse(content)  # not the shared one: it is changed
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        content = ast.unparse(tree).encode()
    return hashlib.sha256(content).hexdigest()


def code_sha256(path: Path) -> str:
    """Hash of a Python module's code: comments, docstrings and layout do not count.

    Parameters
    ----------
    path : Path
        A .py file; any other file is hashed as it is.
    """
    return _code_sha256(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _bytes_sha256(path: str, stamp: tuple[int, int]) -> str:
    return file_sha256(Path(path))


def _file_sha256(path: Path) -> str:
    stat = path.stat()
    return _bytes_sha256(str(path), (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _tree_sha256(folder: str, stamp: tuple[tuple[str, int, int], ...]) -> str:
    files = [(name, file_sha256(Path(folder, name))) for name, _, _ in stamp]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _folder_sha256(folder: Path) -> str:
    """Hash of a folder's files and their names, without hidden ones and what Python compiles."""
    stamp = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                stamp.append((str(path.relative_to(folder)), path.stat().st_mtime_ns, path.stat().st_size))
    return _tree_sha256(str(folder), tuple(sorted(stamp)))


def _library_version(card: CodecCard, library: str) -> str:
    """Version of "distribution" or of "pillow:feature", a library that Pillow was built with."""
    distribution, _, feature = library.partition(":")
    if feature:
        from PIL import features

        return str(features.version(feature)) if features.check(feature) else "absent"
    try:
        return version(distribution)
    except PackageNotFoundError:
        raise Unavailable(f"{card.id} needs the Python package {distribution}", f"pip install {distribution}") from None
