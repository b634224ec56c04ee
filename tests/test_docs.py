"""The documentation says what is so: every command parses, every link leads somewhere, tables come from the code.

The tutorial's codec is taken off its page and run.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard
from hfdbench.cli.app import app
from hfdbench.datasets.ids import parse_id

ROOT = Path(__file__).resolve().parent.parent


def _hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read(path: Path) -> str:
    """A page with the files that it shows in it."""
    return re.sub(r'--8<-- "(.+)"', lambda found: (ROOT / found[1]).read_text("utf-8"), path.read_text("utf-8"))


WRITTEN = {str(path.relative_to(ROOT)): _read(path) for path in sorted((ROOT / "docs").rglob("*.md"))}
GENERATED = {f"docs/{address}": text for address, text in _hooks().pages().items()}
PAGES = WRITTEN | GENERATED
README = {"README.md": (ROOT / "README.md").read_text("utf-8")}


def code_lines(markdown: str) -> list[str]:
    """Lines of code, fenced and indented, joined where they end in a backslash; and code between single backticks."""
    lines, fence = [], False
    for line in markdown.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
        elif fence or line.startswith("    "):
            lines.append(line.strip())
        else:
            lines += re.findall(r"`([^`]+)`", line)
    return lines


def commands(markdown: str) -> list[list[str]]:
    """The arguments of every call of hfdbench."""
    found = []
    for line in code_lines(markdown):
        line = line.removeprefix("# ").strip().removeprefix("- run: ").partition("  # ")[0]
        for part in re.split(r"&&|\||;", line):
            words = part.split()
            if words and words[0] == "hfdbench":
                found.append(shlex.split(part)[1:])
    return found


COMMANDS = sorted({(page, shlex.join(words)) for page, text in (PAGES | README).items() for words in commands(text)})


def test_there_are_commands():
    assert len(COMMANDS) > 30  # otherwise the search for them is broken


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_parses(page, command):
    words = shlex.split(command)
    if not words or words[0].startswith("-"):
        return  # hfdbench itself, hfdbench --help
    cli = get_command(app)
    assert words[0] in cli.commands, f"{page}: no verb {words[0]}"
    verb = cli.commands[words[0]]
    if len(words) == 1:
        return  # its name in running text
    context = verb.make_context(words[0], words[1:])  # raises for unknown options, wrong choices, missing arguments
    own = set(re.findall(r'^id = "([^"]+)"', PAGES.get(page, README.get(page, "")), re.MULTILINE)) | {"mycodec"}
    known = {
        "codec": set(find_cards(CodecCard, ())) | own,
        "dataset": set(find_cards(DatasetCard, ())),
        "figure": set(find_cards(FigureCard, ())),
    }
    for name in ("codec", "dataset", "figure"):
        values = context.params.get(name) or ()
        for value in [values] if isinstance(values, str) else values:
            known_as = parse_id(value).base if name == "dataset" else value  # "kodak@8": its first images
            assert known_as in known[name] or value.startswith("folder:") or value.isupper(), (
                f"{page}: no {name} {value}"
            )


@pytest.mark.parametrize("page", sorted(PAGES | README))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", (PAGES | README)[page]):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        here = ROOT / page
        goal = (here.parent / path).resolve() if path else here
        name = str(goal.relative_to(ROOT))
        assert name in PAGES or goal.exists(), f"{page}: {target}"
        if anchor and name in PAGES:
            heads = re.findall(r"^#+ (.*)$", PAGES[name], re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}, target


def test_nav_names_every_page_once():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]
    assert sorted(re.findall(r"[\w/-]+\.md", nav)) == sorted(page.removeprefix("docs/") for page in PAGES)


def test_tables_hold_every_metric_codec_and_dataset():
    from hfdbench.metrics.registry import METRICS

    assert re.findall(r"^\| `(\w+)` \|", PAGES["docs/tables/metrics.md"], re.MULTILINE) == list(METRICS)
    for page, kind in (("codecs", CodecCard), ("datasets", DatasetCard)):
        assert set(re.findall(r"^\| \[`([^`]+)`\]", PAGES[f"docs/tables/{page}.md"], re.MULTILINE)) == set(
            find_cards(kind, ())
        )


def test_reference_names_modules_that_exist():
    modules = re.findall(r"^::: (\S+)", "\n".join(PAGES.values()), re.MULTILINE)
    assert len(modules) == len(set(modules)) > 20
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def test_toml_on_the_pages_is_toml():
    blocks = [block for text in PAGES.values() for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    assert blocks
    for block in blocks:
        assert tomllib.loads(block)["id"]


def test_the_tutorial_s_codec_runs_as_it_stands(tmp_path):
    page = PAGES["docs/tutorials/your-codec.md"]
    (module,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (card,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mycodec.py").write_text(module)
    (tmp_path / "codecs").mkdir()
    (tmp_path / "codecs" / "mycodec.toml").write_text(card)
    words = ["run", "--cards", ".", "--codec", "mycodec", "--dataset", "samples"]
    assert ("docs/tutorials/your-codec.md", shlex.join([*words[:5], "--codec", "jpeg", *words[5:]])) in COMMANDS
    ran = subprocess.run(
        [sys.executable, "-c", "from hfdbench.cli import main; main()", *words, "--limit", "1", "--point", "q10"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "HFDBENCH_DATA"},  # FID is not at stake
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "mycodec" in ran.stdout and len(list((tmp_path / "results" / "points").iterdir())) == 1


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install 'hfdbench[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    index = (tmp_path / "site" / "index.html").read_text("utf-8")
    outside = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', index)
    assert not outside, outside  # nothing is loaded from elsewhere


def test_one_version_everywhere():
    """Of the package, the citation and the newest heading of the changes."""
    import hfdbench

    root = Path(hfdbench.__file__).parents[1]
    newest = re.search(r"^## ([0-9.]+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    assert newest and cited and {newest[1], cited[1]} == {hfdbench.__version__}
