"""Whole datasets from a real HTTP server on loopback."""

import hashlib
from pathlib import Path

import pytest
from helpers_site import PLEASANT, QUICK, Site, contents, make_zip, picture, served, source

from hfdbench.cards.schema import DatasetCard
from hfdbench.datasets.dataset import open_dataset
from hfdbench.datasets.fetch import fetch
from hfdbench.errors import Unavailable, UsageError


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(Site()) as running:
        yield running


def card(site, *sources, tmp_path=None, **keys):
    options = {"id": "mine", "folder": "mine", "source": (tmp_path or Path(".")) / "mine.toml", "sources": sources}
    return DatasetCard(**(options | keys))


def quick(given, root, **options):
    return fetch(given, root, progress=False, patience=QUICK, **options)


def test_dataset_of_single_files(site, tmp_path):
    pictures = {f"/p/kodim{n:02d}.png": picture(n) for n in range(3)}
    site.files = dict(pictures)
    given = card(site, *(source(site, path, content) for path, content in pictures.items()), count=3)
    result = quick(given, tmp_path / "root")
    assert str(result) == f"mine: 3 pictures in {tmp_path / 'root' / 'mine'}"
    assert result.fresh
    assert contents(tmp_path / "root" / "mine") == {path[3:]: content for path, content in pictures.items()}
    asked = len(site.asked)
    again = quick(given, tmp_path / "root")
    assert str(again).endswith("(already there)")
    assert not again.fresh
    assert len(site.asked) == asked


def test_dataset_of_two_archives_opens_afterwards(site, tmp_path):
    for number, names in enumerate((("a/x.png", "a/y.png"), ("b/z.png",))):
        archive = make_zip(tmp_path / "scratch.zip", {name: picture(ord(name[-5])) for name in names})
        site.files[f"/{number}/test.zip"] = archive.read_bytes()  # one file name, two addresses
    sources = [source(site, path, content, unpack="zip") for path, content in site.files.items()]
    site.cuts = [30]
    root = tmp_path / "root"
    assert quick(card(site, *sources, count=3), root).pictures == 3
    assert sorted(path.name for path in (root / "mine").iterdir()) == ["x.png", "y.png", "z.png"]
    assert list((root / ".fetch").iterdir()) == []  # the archives are gone
    (tmp_path / "cards" / "datasets").mkdir(parents=True)
    (tmp_path / "cards" / "datasets" / "mine.toml").write_text('id = "mine"\nfolder = "mine"\ncount = 3\n')
    dataset = open_dataset("mine", cards=[tmp_path / "cards"], data_root=root)
    assert dataset.load(0).shape == (20, 30, 3)


def test_failure_leaves_no_dataset_and_keeps_what_is_right(site, tmp_path):
    site.files = {"/a.png": picture(1), "/b.png": picture(2)}
    sources = [source(site, "/a.png", picture(1)), source(site, "/b.png", picture(3))]
    with pytest.raises(Unavailable, match=r"/b\.png: "):
        quick(card(site, *sources), tmp_path)
    assert not (tmp_path / "mine").exists()
    site.files["/b.png"] = picture(3)
    site.asked.clear()
    assert quick(card(site, *sources), tmp_path).fresh
    assert [path for path, _ in site.asked] == ["/b.png"]


def test_hostile_archive_leaves_no_dataset(site, tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"good.png": picture(), "../../evil.png": b"evil"})
    site.files["/a.zip"] = archive.read_bytes()
    root = tmp_path / "root"
    with pytest.raises(Unavailable, match="points outside"):
        quick(card(site, source(site, "/a.zip", unpack="zip")), root)
    assert not (root / "mine").exists()
    assert not list(tmp_path.rglob("evil.png")) + list(tmp_path.rglob("good.png"))


def test_wrong_number_of_pictures(site, tmp_path):
    site.files["/a.zip"] = make_zip(tmp_path / "a.zip", PLEASANT).read_bytes()
    with pytest.raises(Unavailable, match=r"its sources hold 2 of its pictures, expected 5; the official files"):
        quick(card(site, source(site, "/a.zip", unpack="zip"), count=5), tmp_path / "root")
    assert not (tmp_path / "root" / "mine").exists()


def test_card_with_a_list_takes_those_alone(site, tmp_path):
    site.files["/a.zip"] = make_zip(tmp_path / "a.zip", PLEASANT | {"three.png": picture(3)}).read_bytes()
    names = b"three\ntwo\n"
    (tmp_path / "mine.txt").write_bytes(names)
    pinned = {"names": "mine.txt", "names_sha256": hashlib.sha256(names).hexdigest(), "count": 2}
    given = card(site, source(site, "/a.zip", unpack="zip"), tmp_path=tmp_path, **pinned)
    assert quick(given, tmp_path / "root").pictures == 2
    assert contents(tmp_path / "root" / "mine").keys() == {"three.png", "two.PNG"}


def test_folder_that_holds_something_else_is_left_alone(site, tmp_path):
    (tmp_path / "mine").mkdir()
    site.files["/a.png"] = picture()
    given = card(site, source(site, "/a.png"), count=1)
    (tmp_path / "mine" / "own.png").write_bytes(b"mine")
    (tmp_path / "mine" / "other.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="holds 2 pictures where 1 are expected; move the folder away"):
        quick(given, tmp_path)
    assert len(contents(tmp_path / "mine")) == 2
    assert site.asked == []


def test_empty_folder_does_not_stand_in_the_way(site, tmp_path):
    (tmp_path / "mine").mkdir()
    site.files["/a.png"] = picture()
    assert quick(card(site, source(site, "/a.png")), tmp_path).fresh


def test_full_disk_is_told_before_the_first_byte(site, tmp_path):
    with pytest.raises(UsageError, match=r"dataset mine needs 2000000000\.0 GB below .*, where [\d.]+ GB are free"):
        quick(card(site, source(site, "/a.zip", bytes=10**18, unpack="zip")), tmp_path)
    assert site.asked == []


def test_nothing_to_fetch(site, tmp_path):
    with pytest.raises(Unavailable, match="mine has no official address; put its pictures into"):
        quick(card(site), tmp_path)
    packaged = card(site, folder=None, package="hfdbench.datasets.samples:pictures")
    assert str(quick(packaged, tmp_path)) == "mine: 9 pictures come with installed packages; nothing to fetch"


def test_data_root_that_cannot_be_made(site, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot be made: .*; give another --data-root"):
        quick(card(site, source(site, "/a.png")), tmp_path / "file")


def test_a_file_that_is_no_image_is_refused_at_once(site, tmp_path):
    """A text may be called 1.png: whoever opened it would find out, long after."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>'
    site.files = {
        "/a.zip": make_zip(tmp_path / "a.zip", {"0.png": picture(), "1.png": svg}).read_bytes(),
        "/1.png": svg,
    }
    for path, unpack in (("/a.zip", "zip"), ("/1.png", None)):
        with pytest.raises(
            Unavailable,
            match=r"hold a file that is no image: 1\.png: is not a picture of a known kind; the official files have changed",
        ):
            quick(card(site, source(site, path, unpack=unpack)), tmp_path / "root")
        assert not (tmp_path / "root" / "mine").exists()
