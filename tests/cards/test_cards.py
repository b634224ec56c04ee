"""Cards: what is read, what is refused and in which words, where they are found."""

import hashlib
import subprocess
import sys
import textwrap

import pytest
from pydantic import Field

from hfdbench.cards import find
from hfdbench.cards import schema as cards
from hfdbench.cards.find import choose, find_cards
from hfdbench.cards.schema import CodecCard, DatasetCard, FigureCard, read_card, read_toml, validated
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import Unavailable, UsageError

GOOD = """
id = "mine"
title = "My codec"
kind = "classical"
adapter = "hfdbench.codecs.pillow:JPEG"
options = { chroma = "4:4:4", quality = 1 }

[[points]]
id = "q10"
options = { quality = 10 }

[[points]]
id = "low"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory, and a writer of cards below it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(root, text, name="mine.toml", kind="codecs"):
    path = root / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_points_receive_the_shared_options_and_their_own_win(folder):
    card = read_card(write(folder, GOOD), CodecCard)
    assert card.point("q10").options == {"chroma": "4:4:4", "quality": 10}
    assert card.point("low").options == {"chroma": "4:4:4", "quality": 1}
    assert card.source == folder / "codecs" / "mine.toml"


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('title = "My codec"', 'titel = "My codec"', r'key "titel": is unknown; known keys: id, title, kind'),
        ('kind = "classical"\n', "", r'key "kind": is missing; add it'),
        ('kind = "classical"', 'kind = "magic"', r'key "kind": Input should be .classical'),
        (
            "quality = 10 }",
            'quality = 10 }\nwieghts = ["w"]',
            r'key "points.0.wieghts": is unknown; known keys: id, options',
        ),
        ('id = "mine"', "id = 7", r'key "id": Input should be a valid string'),
        ('id = "mine"', 'id = "My Codec"', r'key "id": .*lower-case letters'),
        ('id = "mine"', 'id = "../up"', r'key "id": .*lower-case letters'),
        ('id = "low"', 'id = "q10"', r'point "q10" is given twice'),
        ('id = "low"', 'id = "low/"', r'key "points.1.id": .*lower-case letters'),
        ("pillow:JPEG", "pillow.JPEG", r'key "adapter": String should match'),
        ('title = "My codec"', 'title = "My codec', r"not valid TOML: .*line 3.*; fix that line"),
        ('title = "My codec"', 'source = "elsewhere"', r'key "source": is unknown; remove it'),
        ("quality = 1 }", "quality = 1 }\nweight = 3", r'key "weight": is unknown'),
        ("options = { quality = 10 }", "options = 10", r'key "points.0.options": Input should be a valid dict'),
        ('options = { chroma = "4:4:4", quality = 1 }', "options = 1", r'key "options": Input should be a valid dict'),
    ],
)
def test_bad_card_names_file_key_cause_and_hint(old, new, says, folder):
    assert old in GOOD
    path = write(folder, GOOD.replace(old, new))
    with pytest.raises(UsageError, match=says) as caught:
        read_card(path, CodecCard)
    assert str(caught.value).startswith(f"{path}: ")


def test_card_without_points_or_that_is_no_text(folder):
    with pytest.raises(UsageError, match=r'key "points": is missing'):
        read_card(write(folder, GOOD[: GOOD.index("[[points]]")]), CodecCard)
    with pytest.raises(UsageError, match=r'key "points": .*at least 1'):
        read_card(write(folder, GOOD[: GOOD.index("[[points]]")] + "points = []"), CodecCard)
    path = write(folder, "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"mine\.toml: cannot be read: .*; save it as UTF-8"):
        read_card(path, CodecCard)
    with pytest.raises(UsageError, match=r"gone\.toml: cannot be read: No such file"):
        read_card(folder / "gone.toml", CodecCard)


def test_card_of_a_windows_editor(folder):
    """Notepad opens a file with a byte-order mark and ends its lines with CR LF."""
    path = write(folder, "")
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read_card(path, CodecCard) == read_card(write(folder, GOOD, "plain.toml"), CodecCard).model_copy(
        update={"source": path}
    )


class Steps(cards.Table):
    steps: int = Field(gt=0)


class Recipe(cards.Table):
    """A model of somebody else's, not of a card."""

    seed: int = 0
    phases: tuple[Steps, ...] = ()


def test_anything_written_in_toml_is_validated_by_the_same_door(folder):
    path = write(folder, "seed = 3\n[[phases]]\nsteps = 10")
    assert validated(Recipe, read_toml(path), path) == Recipe(seed=3, phases=(Steps(steps=10),))
    with pytest.raises(UsageError, match=r'^r: key "phases.0.setps": is unknown; known keys: steps$'):
        validated(Recipe, {"phases": [{"setps": 1, "steps": 1}]}, "r")
    with pytest.raises(UsageError, match=r'^r: key "phases.0.steps": Input should be greater than 0; correct it$'):
        validated(Recipe, {"phases": [{"steps": 0}]}, "r")


def test_dataset_needs_one_place(folder):
    for place in ("", 'folder = "a"\npackage = "b:c"\n'):
        with pytest.raises(UsageError, match='give either "folder" or "package"'):
            read_card(write(folder, f'id = "set"\n{place}', kind="datasets"), DatasetCard)


def test_cards_are_frozen(folder):
    card = read_card(write(folder, GOOD), CodecCard)
    with pytest.raises(ValueError, match="frozen"):
        card.title = "another"


def test_skips_give_their_reason(folder):
    card = read_card(
        write(folder, GOOD + '\n[[skip]]\nreason = "too slow"\npoint = "q10"\ndataset = "clic"\n'), CodecCard
    )
    assert card.skipped("q10", "clic") == "too slow"
    assert card.skipped("q10", "kodak") is None and card.skipped("low", "clic") is None


def test_cards_of_the_current_folder_and_of_cards_dir_join_the_bundled_ones(folder, tmp_path_factory):
    write(folder, GOOD)
    other = tmp_path_factory.mktemp("cards")
    write(other, GOOD.replace('"mine"', '"yours"'), "yours.toml")
    assert {"mine", "jpeg"} <= set(find_cards(CodecCard)) and "yours" not in find_cards(CodecCard)
    found = find_cards(CodecCard, [other])
    assert {"mine", "yours", "jpeg"} <= set(found) and list(found) == sorted(found)
    assert found["yours"].source == other / "codecs" / "yours.toml"


def test_cards_dir_that_is_not_there(folder):
    with pytest.raises(UsageError, match=r"--cards nowhere: no such folder; give one that holds codecs/"):
        find_cards(CodecCard, ["nowhere"])


def test_id_given_twice_is_refused_and_an_identical_twin_is_not(folder):
    bundled = find_cards(CodecCard)["jpeg"].source
    twin = write(folder, bundled.read_text(), "copy.toml")
    assert find_cards(CodecCard)["jpeg"].source == bundled
    twin.write_text(bundled.read_text() + "# changed\n")
    with pytest.raises(UsageError, match=r'copy\.toml: id "jpeg" is taken by .*jpeg\.toml; choose another id'):
        find_cards(CodecCard)


def test_unknown_codec_suggests_the_nearest(folder):
    with pytest.raises(UsageError, match=r'no codec "jpge"; did you mean "jpeg"\?'):
        choose(CodecCard, ["jpeg", "jpge"])
    with pytest.raises(UsageError, match='no codec "zzzzzz"; known: avif, '):
        choose(CodecCard, ["zzzzzz"])
    assert [card.id for card in choose(CodecCard, ["webp", "jpeg", "webp"])] == ["webp", "jpeg"]


def test_unknown_point_suggests_the_nearest(folder):
    with pytest.raises(UsageError, match=r'no point of mine "q11"; did you mean "q10"\?'):
        load_codec(read_card(write(folder, GOOD), CodecCard), "q11")


def test_borrowed_streams_must_exist_with_the_same_points(folder):
    path = write(folder, GOOD.replace('title = "My codec"', 'streams = "jpge"'))
    with pytest.raises(UsageError, match=r'key "streams": no codec "jpge"; did you mean "jpeg"'):
        find_cards(CodecCard)
    path.write_text(GOOD.replace('title = "My codec"', 'streams = "jpeg"'))
    with pytest.raises(UsageError, match=r'point "q10": jpeg has no such point; rename it'):
        find_cards(CodecCard)


@pytest.mark.parametrize(
    "adapter, error, says",
    [
        ("hfdbench.codecs.pilow:JPEG", UsageError, r'mine\.toml: key "adapter": no module "hfdbench.codecs.pilow"'),
        ("hfdbench.codecs.pillow:JPG", UsageError, r'hfdbench.codecs.pillow has no "JPG"; fix the card'),
        ("hfdbench.codecs.pillow:WebP", UsageError, r'point "q10": options do not fit WebP: .*chroma'),
        ("needs_more:Codec", Unavailable, r"mine needs the Python package not_installed_here; pip install"),
    ],
)
def test_adapter_that_does_not_fit(adapter, error, says, folder, monkeypatch):
    (folder / "needs_more.py").write_text("import not_installed_here")
    monkeypatch.syspath_prepend(str(folder))
    card = read_card(write(folder, GOOD.replace("hfdbench.codecs.pillow:JPEG", adapter)), CodecCard)
    with pytest.raises(error, match=says):
        load_codec(card, "q10")


def test_bad_option_names_card_and_point(folder):
    card = read_card(write(folder, GOOD.replace("quality = 10", "quality = 1000")), CodecCard)
    with pytest.raises(UsageError, match=r'mine\.toml: point "q10": quality = 1000: must lie in 0 to 100'):
        load_codec(card, "q10")


def test_weights_are_verified(folder, monkeypatch):
    """A codec written beside its card: ten lines, no registration."""
    (folder / "ten_lines.py").write_text(
        textwrap.dedent("""
        class Paint:
            def __init__(self, weights, device):
                self.level, self.device = weights[0].read_bytes()[0], device
            def encode(self, image):
                return bytes([self.level])
            def decode(self, stream, *, seed):
                return stream
        """)
    )
    monkeypatch.syspath_prepend(str(folder))
    weights = folder / "codecs" / "weights" / "paint.bin"
    text = textwrap.dedent(f"""
        id = "paint"
        kind = "autoencoder"
        adapter = "ten_lines:Paint"
        [[points]]
        id = "p"
        weights = [{{ file = "weights/paint.bin", sha256 = "{hashlib.sha256(b"A").hexdigest()}" }}]
    """)
    card = read_card(write(folder, text), CodecCard)
    with pytest.raises(Unavailable, match=r'point "p": weights/paint\.bin is missing'):
        load_codec(card, "p")
    weights.parent.mkdir()
    weights.write_bytes(b"A")
    codec = load_codec(card, "p")
    assert codec.encode(None) == b"A" and codec.device == "cpu"
    weights.write_bytes(b"B")
    says = (
        r"mine\.toml: point \"p\": sha256 of weights/paint\.bin differs \(expected 559aead08264…, got df7e70e50215…\)"
    )
    with pytest.raises(UsageError, match=says):
        load_codec(card, "p")


def installed(site, place, name="third", value="third_party_cards:place"):
    """Install a package into `site` as pip would leave it: a module and its dist-info with an entry point."""
    (site / "third_party_cards.py").write_text(place)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hfdbench.cards]\n{name} = {value}\n")


@pytest.mark.parametrize("place", ["def place(): return {!r}", "place = {!r}"], ids=["function", "path"])
def test_entry_points_bring_cards(place, folder, tmp_path_factory, monkeypatch):
    site, root = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("third")
    write(root, GOOD.replace('"mine"', '"theirs"'))
    installed(site, place.format(str(root)))
    monkeypatch.delitem(sys.modules, "third_party_cards", raising=False)
    monkeypatch.syspath_prepend(str(site))
    find._entry_point_roots.cache_clear()
    try:
        assert find_cards(CodecCard)["theirs"].source == root / "codecs" / "mine.toml"
    finally:
        find._entry_point_roots.cache_clear()


def test_broken_entry_point_is_named_and_the_other_cards_are_found(folder, tmp_path_factory, monkeypatch, caplog):
    site = tmp_path_factory.mktemp("site")
    installed(site, "raise RuntimeError('half installed')")
    monkeypatch.delitem(sys.modules, "third_party_cards", raising=False)
    monkeypatch.syspath_prepend(str(site))
    find._entry_point_roots.cache_clear()
    try:
        assert "jpeg" in find_cards(CodecCard)
        assert 'entry point "third" of third_party_cards:place are left out: half installed; fix or' in caplog.text
    finally:
        find._entry_point_roots.cache_clear()


def test_bundled_cards_say_what_a_reader_must_know(folder):
    for card in find_cards(CodecCard).values():
        assert card.title and len(card.settings) > 60, card.id
        assert "  " not in card.settings and "\n" not in card.settings, card.id
        assert card.source.stem == card.id
    for kind in (DatasetCard, FigureCard):
        assert all(card.title for card in find_cards(kind).values())


def test_finding_cards_runs_no_code_that_they_name(folder, monkeypatch):
    """A folder that somebody sent holds a card and a module: looking at the card must not run the module."""
    monkeypatch.syspath_prepend(str(folder))
    (folder / "trap.py").write_text("from pathlib import Path; Path('sprung').touch()")
    write(folder, GOOD.replace("hfdbench.codecs.pillow:JPEG", "trap:JPEG"))
    write(folder, 'id = "set"\npackage = "trap:paths"', kind="datasets")
    assert choose(CodecCard, ["mine"])[0].point("q10") and choose(DatasetCard, ["set"])
    assert not (folder / "sprung").exists()


def test_cards_and_codec_import_without_torch():
    code = (
        "import sys, hfdbench.cards.find, hfdbench.codecs.protocol; "
        "print([m for m in ('torch', 'compressai', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
