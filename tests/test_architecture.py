"""The order of the packages: each imports only from those below it, without cycles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hfdbench

ROOT = Path(hfdbench.__file__).parent
# From the ground up; packages of one floor do not import one another.
FLOORS = (
    ("errors", "progress", "hfdbench"),
    ("files",),
    ("cards", "hfd"),
    ("metrics",),
    ("codecs", "datasets"),
    ("results",),
    ("training", "checks"),
    ("analysis",),
    ("pipeline",),
    ("report",),
    ("api",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ["hfdbench", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> list[tuple[int, str, bool]]:
    """Line, module and whether it is needed at run time, of every import of hfdbench in a file, function-level ones included."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; use the module's full name"
            base = node.module or ""
            names = [full if (full := f"{base}.{a.name}") in MODULES else base for a in node.names]
        else:
            continue
        found += [
            (node.lineno, name, id(node) not in typing_only) for name in names if name.split(".")[0] == "hfdbench"
        ]
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "hfdbench"


def test_every_module_lies_in_a_room():
    assert {room(module) for module in MODULES} <= set(FLOOR)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module):
    for line, imported, runs in imports(MODULES[module]):
        if (module, imported, runs) == ("hfdbench", "hfdbench.api", False):
            continue  # the face of the package: its types here, itself when a name is first used
        here, there = room(module), room(imported)
        assert here == there or FLOOR[there] < FLOOR[here], f"{MODULES[module]}:{line}: {here} imports {imported}"


def test_no_cycle_between_modules():
    graph = {
        module: {imported for _, imported, runs in imports(path) if runs and imported != module and imported in MODULES}
        for module, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_report_does_not_import_the_pipeline():
    for module, path in MODULES.items():
        if room(module) == "report":
            assert not [name for _, name, _ in imports(path) if room(name) == "pipeline"], module
