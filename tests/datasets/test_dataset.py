import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from helpers_images import noise, save
from PIL import Image

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import DatasetCard
from hfdbench.datasets import samples
from hfdbench.datasets.dataset import choice, cropped, open_dataset
from hfdbench.datasets.ids import parse_id
from hfdbench.errors import ImageError, Unavailable, UsageError
from hfdbench.files import places
from hfdbench.metrics.distribution.patches import patches

# --- crops of a card ----------------------------------------------------------------------------------------------------


def test_centre_crop():
    image = noise(301, 400, 3)
    assert np.array_equal(cropped(image, "center256", "a"), image[22 : 22 + 256, 72 : 72 + 256])
    with pytest.raises(ImageError, match="a: 400x200 pixels; its 256x256 crop"):
        cropped(noise(200, 400, 3), "center256", "a")


def test_resized_crop():
    image = noise(512, 800, 3)
    expected = Image.fromarray(image[:, 144 : 144 + 512].copy()).resize((256, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(cropped(image, "resize256", "a"), np.asarray(expected))
    assert cropped(noise(40, 90, 3), "resize256", "a").shape == (256, 256, 3)  # a small one is enlarged
    square = noise(256, 300, 3)
    assert np.array_equal(cropped(square, "resize256", "a"), square[:, 22 : 22 + 256])


# --- folders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "My Photos"
    place.mkdir()
    for name in ("b.png", "a.PNG", "c.jpg"):
        save(place / name, noise(20, 30, 3, seed=ord(name[0])))
    (place / "notes.txt").write_text("not a picture")
    (place / ".hidden.png").write_bytes(b"")
    (place / "inside").mkdir()
    save(place / "inside" / "d.png", noise(20, 30, 3))
    return place


def test_folder(folder):
    dataset = open_dataset(f"folder:{folder}")
    assert dataset.names == ("a.PNG", "b.png", "c.jpg")
    assert dataset.id == f"folder-my_photos-{dataset.sha256[:8]}"
    assert dataset.title == "My Photos, 3 pictures"
    assert (dataset.protocol, dataset.expected_patches, len(dataset)) == ("fid256", None, 3)
    assert np.array_equal(dataset.load(1), noise(20, 30, 3, seed=ord("b")))
    assert pickle.loads(pickle.dumps(dataset)) == dataset == open_dataset(f"folder:{folder}")
    assert len(pickle.dumps(dataset)) < 2000  # names and places, no pixels


def test_hash_follows_names_and_contents(folder):
    first = open_dataset(f"folder:{folder}").sha256
    limited = open_dataset(f"folder:{folder}", limit=2)
    assert limited.sha256 != first
    assert limited.id == f"folder-my_photos-{limited.sha256[:8]}@2"
    (folder / "b.png").rename(folder / "bb.png")
    renamed = open_dataset(f"folder:{folder}").sha256
    save(folder / "c.jpg", noise(20, 30, 3, seed=9))
    assert len({first, renamed, open_dataset(f"folder:{folder}").sha256}) == 3


def test_bad_picture_does_not_stop_the_others(folder):
    (folder / "b.png").write_bytes(b"no picture")
    dataset = open_dataset(f"folder:{folder}")
    assert dataset.load(0).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"b\.png"):
        dataset.load(1)
    (folder / "c.jpg").unlink()
    with pytest.raises(ImageError, match=r"c\.jpg: is not there"):
        dataset.load(2)


def test_no_folder_no_pictures_no_limit(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"nowhere\": no such folder; give one"):
        open_dataset(f"folder:{tmp_path}/nowhere")
    with pytest.raises(UsageError, match=r"empty\": no pictures in it; known suffixes: \.png"):
        open_dataset(f"folder:{tmp_path}/empty")
    with pytest.raises(UsageError, match="--limit 0"):
        open_dataset(f"folder:{folder}", limit=0)


# --- cards --------------------------------------------------------------------------------------------------------------


def write_card(tmp_path, text):
    (tmp_path / "cards" / "datasets").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "cards" / "datasets" / "mine.toml"
    path.write_text('id = "mine"\n' + text)
    return {"cards": [tmp_path / "cards"], "data_root": tmp_path}


def test_unknown_card_and_missing_pictures(tmp_path):
    with pytest.raises(UsageError, match='no dataset "kodac"; did you mean "kodak"'):
        open_dataset("kodac", data_root=tmp_path)
    with pytest.raises(UsageError, match=rf'no dataset "{tmp_path}"; for the folder of that name: folder:{tmp_path}$'):
        open_dataset(str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        open_dataset("kodak", data_root=tmp_path)
    assert caught.value.hint == "hfdbench fetch kodak"
    where = write_card(tmp_path, 'folder = "mine"')
    with pytest.raises(Unavailable, match=r"put its pictures into .*mine"):
        open_dataset("mine", **where)


def test_wrong_number_of_pictures(tmp_path):
    (tmp_path / "kodak").mkdir()
    save(tmp_path / "kodak" / "kodim01.png", noise(20, 30, 3))
    with pytest.raises(UsageError, match=r"kodak holds 1 pictures where 24 are expected; .*hfdbench fetch kodak"):
        open_dataset("kodak", data_root=tmp_path)


def test_subset_of_a_card(folder, tmp_path):
    where = write_card(tmp_path, 'folder = "mine"\ntitle = "Mine"\ncount = 3\npatches = 7')
    folder.rename(tmp_path / "mine")
    whole, subset = open_dataset("mine", **where), open_dataset("mine", limit=2, **where)
    assert (whole.id, whole.title, whole.expected_patches) == ("mine", "Mine, 3 pictures", 7)
    assert (subset.id, subset.title, subset.expected_patches) == ("mine@2", "Mine, subset of 2 pictures", None)
    assert subset.names == whole.names[:2]
    assert subset.sha256 != whole.sha256
    assert open_dataset("mine", limit=3, **where) == open_dataset("mine", limit=99, **where) == whole


def test_crop_is_part_of_the_hash(tmp_path):
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", noise(300, 300, 3))
    cut = open_dataset("mine", **write_card(tmp_path, 'folder = "mine"\ncrop = "center256"\nprotocol = "whole"'))
    resized = open_dataset("mine", **write_card(tmp_path, 'folder = "mine"\ncrop = "resize256"\nprotocol = "whole"'))
    assert cut.sha256 != resized.sha256
    assert cut.load(0).shape == resized.load(0).shape == (256, 256, 3)
    assert not np.array_equal(cut.load(0), resized.load(0))


def test_list_of_names(folder, tmp_path):
    names = "c\na.PNG\n"
    sha256 = hashlib.sha256(names.encode()).hexdigest()
    where = write_card(tmp_path, f'folder = "mine"\nnames = "mine.txt"\nnames_sha256 = "{sha256}"\ncount = 2')
    listing = tmp_path / "cards" / "datasets" / "mine.txt"
    folder.rename(tmp_path / "mine")
    with pytest.raises(UsageError, match=r'key "names": .*mine\.txt cannot be read'):
        open_dataset("mine", **where)
    listing.write_text(names)
    assert open_dataset("mine", **where).names == ("c.jpg", "a.PNG")  # the list's order; other pictures do not disturb
    (tmp_path / "mine" / "c.jpg").unlink()
    with pytest.raises(UsageError, match=r"mine lacks 1 of 2 pictures, c first"):
        open_dataset("mine", **where)
    listing.write_text("b\na\n")
    with pytest.raises(UsageError, match=r"sha256 of mine\.txt differs"):
        open_dataset("mine", **where)


def test_choice_from_a_pool(tmp_path):
    pool = tmp_path / "mine"
    pool.mkdir()
    for number in range(12):
        side = 200 if number % 4 == 0 else 256
        save(pool / f"a {number:02d}.png", np.full((side, 260, 3), number, np.uint8))
    large = [f"a {number:02d}.png" for number in range(12) if number % 4]
    expected = tuple(sorted(large, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:5])
    where = write_card(tmp_path, 'folder = "mine"\npool = 12\ncount = 5\nprotocol = "whole"\ncrop = "center256"')
    assert tuple(choice(pool.iterdir(), 5)) == expected
    first = open_dataset("mine", **where)
    assert first.names == expected
    record = tmp_path / "mine-5.txt"
    head, body = record.read_text().split("\n", 1)
    assert body.splitlines() == list(expected)
    assert head == f"# sha256 {hashlib.sha256(body.encode()).hexdigest()}"
    assert open_dataset("mine", **where) == first  # now from the record
    assert open_dataset("mine", limit=2, **where).id == "mine@2"
    record.write_text(record.read_text().replace(expected[0], large[-1]))
    with pytest.raises(UsageError, match=r"mine-5\.txt was altered .*delete it"):
        open_dataset("mine", **where)
    record.unlink()
    (pool / "a 01.png").unlink()
    with pytest.raises(UsageError, match="mine holds 11 pictures where 12 are expected"):
        open_dataset("mine", **where)


def test_pool_that_is_too_small(tmp_path):
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", noise(256, 256, 3))
    save(tmp_path / "mine" / "b.png", noise(255, 256, 3))
    with pytest.raises(UsageError, match="only 1 of 2 pictures are large enough"):
        open_dataset("mine", **write_card(tmp_path, 'folder = "mine"\npool = 2\ncount = 2'))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", 'give either "folder" or "package"'),
        ('folder = "../mine"', "should match pattern"),
        ('folder = ".."', "should match pattern"),
        ('folder = "mine"\npool = 4', '"pool" needs "folder" and "count"'),
        ('folder = "mine"\nnames = "mine.txt"', '"names" and "names_sha256" go together'),
        ('folder = "mine"\n[[sources]]\nurl = "file:///etc/passwd"', "should match pattern"),
        ('package = "no_such_module:f"', "No module named"),
        ('package = "hfdbench.datasets.samples:f"', "no attribute"),
        ('package = "hfdbench.datasets.samples:pictures"\ncount = 3', "9 pictures where 3 are expected"),
    ],
)
def test_bad_cards(tmp_path, text, cause):
    with pytest.raises(UsageError, match=cause):
        open_dataset("mine", **write_card(tmp_path, text))


def test_bundled_cards_state_what_they_promise():
    cards = find_cards(DatasetCard)
    assert {"samples", "kodak", "clic", "clic2025-val", "div2k", "coco", "coco-crop", "coco-val"} <= cards.keys()
    stated = {name: (card.count, card.patches) for name, card in cards.items()}
    assert stated["kodak"] == (24, 192)
    assert stated["clic"] == (428, 28650)
    assert stated["div2k"] == (100, 6573)
    assert stated["coco"] == stated["coco-crop"] == (30000, 30000)
    assert len(cards["kodak"].sources) == 24
    for card in cards.values():
        assert card.licence, card.id
        assert card.note, card.id
        # A subset keeps the title: no title may name the whole.
        assert "30" not in card.title, card.id


def test_coco_cards_share_pictures_and_differ_in_crop():
    cards = find_cards(DatasetCard)
    one, other = cards["coco"], cards["coco-crop"]
    assert (one.folder, one.pool, one.sources, one.protocol) == (other.folder, 40504, other.sources, "whole")
    assert {one.crop, other.crop} == {"resize256", "center256"}


def test_names_of_bundled_lists_fit_their_cards():
    from hfdbench.datasets.dataset import listed_names

    for card in find_cards(DatasetCard).values():
        if card.names:
            assert len(set(listed_names(card))) == card.count


# --- samples and real sets ----------------------------------------------------------------------------------------------


def test_samples_need_nothing_but_the_installed_packages(tmp_path):
    dataset = open_dataset("samples", data_root=tmp_path)
    assert len(dataset) == 9
    images = [dataset.load(index) for index in range(9)]
    assert sum(len(patches(image, dataset.protocol)) for image in images) == dataset.expected_patches == 45
    assert all(image.std(axis=-1).mean() > 1 for image in images)  # colour, all of them
    assert open_dataset("samples", data_root=tmp_path).sha256 == dataset.sha256


def test_altered_sample_is_named(tmp_path, monkeypatch):
    package = tmp_path / "altered_skimage"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "data" / "astronaut.png").write_bytes(b"other bytes")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(samples.WHEELS, "altered_skimage", "scikit-image")
    with pytest.raises(Unavailable, match=r"astronaut\.png of scikit-image is not the one that is pinned; pip install"):
        samples._pinned("altered_skimage", "data/astronaut.png", "0" * 64)
    with pytest.raises(Unavailable, match=r"lacks data/rocket\.jpg"):
        samples._pinned("altered_skimage", "data/rocket.jpg", "0" * 64)


@pytest.fixture
def real_root():
    if not os.environ.get("HFDBENCH_DATA"):
        pytest.skip("HFDBENCH_DATA is not set: no downloaded datasets to open")
    return Path(os.environ["HFDBENCH_DATA"])


def test_kodak_gives_192_patches(real_root):
    if not (real_root / "kodak").is_dir():
        pytest.skip("HFDBENCH_DATA holds no kodak")
    dataset = open_dataset("kodak", data_root=real_root)
    assert sum(len(patches(dataset.load(index), dataset.protocol)) for index in range(24)) == 192
    assert dataset.names[0] == "kodim01.png"
    assert open_dataset("kodak", data_root=real_root, limit=4).id == "kodak@4"


def test_kodak_card_pins_the_files(real_root):
    if not (real_root / "kodak").is_dir():
        pytest.skip("HFDBENCH_DATA holds no kodak")
    for source in find_cards(DatasetCard)["kodak"].sources:
        content = (real_root / "kodak" / source.url.rpartition("/")[2]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (source.bytes, source.sha256)


def test_other_real_sets(real_root):
    for name, shape in (("coco-val", (256, 256, 3)), ("clic2025-val", None)):
        if not (real_root / name).is_dir():
            pytest.skip(f"HFDBENCH_DATA holds no {name}")
        dataset = open_dataset(name, data_root=real_root)
        assert shape in (None, dataset.load(0).shape)


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HFDBENCH_DATA", str(tmp_path / "named"))
    assert places.data_root(tmp_path / "given") == tmp_path / "given"
    assert places.data_root(None) == tmp_path / "named"
    monkeypatch.delenv("HFDBENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert places.data_root(None) == tmp_path / "cache" / "hfdbench" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.data_root(None) == tmp_path / ".cache" / "hfdbench" / "data"


# --- what a folder leaves out, and names ------------------------------------------------------------------------------------


def test_folder_names_what_it_leaves_out(tmp_path, caplog):
    place = tmp_path / "pictures"
    place.mkdir()
    for name, kind in (
        ("a.png", "PNG"),
        ("b.jfif", "JPEG"),
        ("c.jpe", "JPEG"),
        ("d.j2k", "JPEG2000"),
        ("e.pnm", "PPM"),
    ):
        save(place / name, noise(20, 30, 3), format=kind)
    save(place / "f.gif", noise(20, 30), format="GIF")
    (place / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (place / "inside").mkdir()
    dataset = open_dataset(f"folder:{place}")
    assert dataset.names == ("a.png", "b.jfif", "c.jpe", "d.j2k", "e.pnm")
    assert all(dataset.load(index).shape == (20, 30, 3) for index in range(5))
    (message,) = (record.getMessage() for record in caplog.records)
    assert "3 entries are left out: broken.png (a broken link), f.gif (not an image file" in message
    assert "inside (a folder)" in message


def test_name_that_is_not_utf_8(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    os.rename(save(place / "ok.png", noise(20, 30, 3)), os.fsencode(place) + b"/caf\xe9.png")
    dataset = open_dataset(f"folder:{place}")
    assert dataset.names == (r"caf\xe9.png",)
    assert dataset.load(0).shape == (20, 30, 3)
    assert choice(place.iterdir(), 1) == []  # too small, but its name is no hindrance


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("x" * 200, "x" * 40),
        ("写真", "写真"),
        ("Фото 1", "фото_1"),
        ("Café", "cafe"),
        ("***", "root"),
        ("My Photos", "my_photos"),
    ],
)
def test_id_of_a_folder_is_short_stable_and_readable(tmp_path, name, readable):
    place = tmp_path / name
    place.mkdir()
    save(place / "a.png", noise(20, 30, 3))
    dataset = open_dataset(f"folder:{place}")
    assert dataset.id == f"folder-{readable}-{dataset.sha256[:8]}" == open_dataset(f"folder:{place}").id


def test_ids_are_taken_apart_in_one_way(tmp_path):
    assert parse_id("kodak@4") == ("kodak", 4) and str(parse_id("kodak@4")) == "kodak@4"
    assert parse_id("kodak") == ("kodak", None) and parse_id("folder:/a@4") == ("folder:/a@4", None)
    assert parse_id("kodak@4").title("Kodak") == "Kodak, first 4 images" and parse_id("kodak").title("Kodak") == "Kodak"
    for wrong in ("kodak@", "kodak@x", "kodak@0", "kodak@²"):
        with pytest.raises(UsageError, match="is not a number of images; write kodak@4"):
            parse_id(wrong)
    assert open_dataset("samples@2", data_root=tmp_path).id == "samples@2" == open_dataset("samples", limit=2).id
