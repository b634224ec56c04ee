"""Downloads from a real HTTP server on loopback that can misbehave in every way that matters."""

import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.schema import DatasetCard, Source
from hfdbench.datasets.dataset import open_dataset
from hfdbench.datasets.fetch import Patience, download, fetch, unpack
from hfdbench.errors import Unavailable, UsageError

QUICK = Patience(tries=3, pause_s=0.01, timeout_s=5)


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # of the next answers
    redirects: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    announce: bool = True
    wrong_range: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked_range = request.headers.get("Range")
        self.asked.append((request.path, asked_range))
        if self.silent:
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if self.statuses:
            return request.send_error(self.statuses.pop(0))
        if request.path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[request.path])
            request.send_header("Content-Length", "0")
            return request.end_headers()
        content = self.files.get(request.path)
        if content is None:
            return request.send_error(404)
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = 0
        if asked_range and self.ranges and request.headers.get("If-Range") in (None, etag):
            start = 0 if self.wrong_range else int(asked_range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return request.send_error(416)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        if self.etag:
            request.send_header("ETag", etag)
        if self.announce:
            request.send_header("Content-Length", str(len(content) - start))
        request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(content[start : start + self.cuts.pop(0)] if self.cuts else content[start:])


@contextmanager
def served(site):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.close_connection = True
            site.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(Site()) as running:
        yield running


CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


def picture(seed=0):
    out = io.BytesIO()
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def source(site, path, content=None, **changes):
    checks = {} if content is None else {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Source(url=site.address + path, **(checks | changes))


def part_of(file):
    return file.with_name(file.name + ".part")


# --- one file -----------------------------------------------------------------------------------------------------------


def test_download(site, tmp_path, capsys):
    site.files["/a.bin"] = CONTENT
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "a.bin: 100%" in shown.err
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert len(site.asked) == 1  # it is there and right: nothing is asked again


def test_no_progress_bar_when_not_wanted(site, tmp_path, capsys):
    site.files["/a.bin"] = CONTENT
    download(source(site, "/a.bin"), tmp_path / "a.bin", progress=False, patience=QUICK)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("etag", [True, False])
def test_truncated_download_goes_on(site, tmp_path, etag):
    site.files["/a.bin"], site.etag, site.cuts = CONTENT, etag, [100_000, 50_000]
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_next_run_goes_on_where_this_one_gave_up(site, tmp_path):
    site.files["/a.bin"], site.cuts = CONTENT, [70_000, 0, 0, 0]
    with pytest.raises(Unavailable, match=r"broke after 70,000 of 300,000 bytes; check the network .* it resumes"):
        download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert not (tmp_path / "a.bin").exists()
    site.cuts.clear()
    site.asked.clear()
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert site.asked == [("/a.bin", "bytes=70000-")]


def test_server_without_ranges_starts_over(site, tmp_path):
    site.files["/a.bin"], site.ranges, site.cuts = CONTENT, False, [100_000]
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_file_that_changed_between_two_runs_starts_over(site, tmp_path):
    site.files["/a.bin"], site.cuts = CONTENT, [100_000, 0, 0, 0]
    with pytest.raises(Unavailable):
        download(source(site, "/a.bin"), tmp_path / "a.bin", patience=QUICK)
    site.cuts.clear()
    site.files["/a.bin"] = CONTENT[::-1]
    download(source(site, "/a.bin"), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_without_tag_or_checksum_two_halves_are_never_joined(site, tmp_path):
    site.files["/a.bin"], site.etag, site.cuts = CONTENT, False, [100_000]
    download(source(site, "/a.bin"), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, None]


def test_answer_of_another_range_is_not_appended(site, tmp_path):
    site.files["/a.bin"], site.cuts, site.wrong_range = CONTENT, [100_000], True
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_rubbish_left_by_an_earlier_run_is_thrown_away(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    part_of(tmp_path / "a.bin").write_bytes(bytes(1000))
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    part_of(tmp_path / "b.bin").write_bytes(bytes(len(CONTENT) + 5))  # longer than the file: the server answers 416
    download(source(site, "/a.bin", CONTENT), tmp_path / "b.bin", patience=QUICK)
    assert (tmp_path / "b.bin").read_bytes() == CONTENT


def test_wrong_checksum(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    with pytest.raises(Unavailable, match=r"a\.bin: sha256 differs \(expected 000000000000…, got [0-9a-f]{12}…\); "):
        download(source(site, "/a.bin", CONTENT, sha256="0" * 64), tmp_path / "a.bin", patience=QUICK)
    assert list(tmp_path.iterdir()) == []  # a wrong file is not kept, nor gone on with
    assert len(site.asked) == 1


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size(site, tmp_path, change, announce):
    site.files["/a.bin"], site.announce = CONTENT, announce
    size = len(CONTENT) + change
    with pytest.raises(Unavailable, match=rf"a\.bin: .*{size:,} are expected|broke after 300,000 of {size:,} bytes"):
        download(source(site, "/a.bin", bytes=size), tmp_path / "a.bin", patience=QUICK)
    assert not (tmp_path / "a.bin").exists()


def test_missing_file_is_not_asked_for_again(site, tmp_path):
    with pytest.raises(Unavailable, match=r"/gone\.zip: the server answered 404 Not Found; the address may have moved"):
        download(source(site, "/gone.zip"), tmp_path / "a", patience=QUICK)
    assert len(site.asked) == 1


def test_stumbling_server_is_asked_again(site, tmp_path):
    site.files["/a.bin"], site.statuses = CONTENT, [503, 429]
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    site.statuses = [500] * 9
    with pytest.raises(Unavailable, match="answered 500"):
        download(source(site, "/a.bin", CONTENT), tmp_path / "b.bin", patience=QUICK)
    assert len(site.asked) == 3 + QUICK.tries


def test_server_that_hangs_up_and_no_server(site, tmp_path):
    site.silent = True
    with pytest.raises(Unavailable, match="check the network"):
        download(source(site, "/a.bin"), tmp_path / "a.bin", patience=QUICK)
    assert len(site.asked) == QUICK.tries
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        nobody = Source(url=f"http://127.0.0.1:{free.getsockname()[1]}/a.bin")
        with pytest.raises(Unavailable, match=r"no connection: .*refused.*; check the network"):
            download(nobody, tmp_path / "a.bin", patience=QUICK)


def test_redirect_within_http_only(site, tmp_path):
    site.files["/a.bin"] = CONTENT
    secret = tmp_path / "secret"
    secret.write_text("not for download")
    site.redirects = {"/moved": "/a.bin", "/file": secret.as_uri(), "/ftp": "ftp://127.0.0.1/a.bin"}
    download(source(site, "/moved", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    for path in ("/file", "/ftp"):
        with pytest.raises(Unavailable):
            download(source(site, path), tmp_path / "b.bin", patience=QUICK)
        assert not (tmp_path / "b.bin").exists()


# --- archives -----------------------------------------------------------------------------------------------------------


def make_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tar_member(name, content=b"", kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo()
    info.name, info.size, info.type, info.linkname = name, len(content), kind, target
    return info, io.BytesIO(content)


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, content)
    return path


ZIP = Source(url="http://example.org/a.zip", unpack="zip")
TAR = Source(url="http://example.org/a.tar", unpack="tar")
PLEASANT = {
    "readme.txt": b"hello",
    "set/": b"",
    "set/one.png": picture(1),
    "set/deep/er/two.PNG": picture(2),
    "__MACOSX/set/._one.png": b"a resource fork",
    "set/.hidden.png": b"hidden",
}


@pytest.fixture
def box(tmp_path):
    """An empty folder to unpack in, inside one that nothing else may appear in."""
    place = tmp_path / "outer" / "box"
    place.mkdir(parents=True)
    return place


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
def test_pictures_are_taken_out_without_their_folders(tmp_path, box, mode):
    if mode == "zip":
        archive, kind = make_zip(tmp_path / "a.zip", PLEASANT), ZIP
    else:
        members = [
            tar_member(name, content, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE)
            for name, content in PLEASANT.items()
        ]
        archive, kind = make_tar(tmp_path / "a.tar", members, mode), TAR
    assert unpack(archive, kind, box) == 2
    assert contents(box) == {"one.png": picture(1), "two.PNG": picture(2)}


def test_only_the_wanted_pictures(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", PLEASANT | {"three.png": picture(3)})
    assert unpack(archive, ZIP, box, {"two", "three.png"}) == 2
    assert contents(box).keys() == {"two.PNG", "three.png"}


OUTSIDE = ["../evil.png", "/evil.png", "set/../../evil.png", "..\\evil.png", "C:\\evil.png", "C:evil.png", "a\nb.png"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_member_that_points_outside(tmp_path, box, kind, name):
    if kind == "zip":
        archive = make_zip(tmp_path / "a.zip", {"good.png": picture(), name: b"evil"})
    else:
        archive = make_tar(tmp_path / "a.tar", [tar_member("good.png", picture()), tar_member(name, b"evil")])
    with pytest.raises(Unavailable, match=r"refused for its member '.*: it points outside; nothing was unpacked"):
        unpack(archive, ZIP if kind == "zip" else TAR, box)
    assert contents(box) == {}
    assert list(box.parent.iterdir()) == [box]
    assert not Path("/evil.png").exists()


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "good.png"),
        (tarfile.LNKTYPE, "good.png"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar(tmp_path, box, kind, target):
    archive = make_tar(
        tmp_path / "a.tar", [tar_member("good.png", picture()), tar_member("evil.png", b"", kind, target)]
    )
    with pytest.raises(Unavailable, match=r"refused for its member 'evil\.png': it is a link, a device"):
        unpack(archive, TAR, box)
    assert contents(box) == {}


def test_link_in_a_zip(tmp_path, box):
    link = zipfile.ZipInfo("evil.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.png", picture())
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Unavailable, match=r"'evil\.png': it is a link, a device"):
        unpack(tmp_path / "a.zip", ZIP, box)
    assert contents(box) == {}


def test_encrypted_member(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", {"a.png": picture()})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flag, in the local header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(Unavailable, match=r"'a\.png': it is a link, a device or encrypted"):
        unpack(archive, ZIP, box)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bomb(tmp_path, box, kind):
    zeros = bytes(40 << 20)
    if kind == "zip":
        archive = make_zip(tmp_path / "a.zip", {"a.png": zeros}, compression=zipfile.ZIP_DEFLATED)
    else:
        archive = make_tar(tmp_path / "a.tar", [tar_member("a.png", zeros)], "w:gz")
    with pytest.raises(Unavailable, match="it unpacks to far more than an archive of pictures does"):
        unpack(archive, ZIP if kind == "zip" else TAR, box)
    assert contents(box) == {}


def test_bomb_is_refused_before_it_is_unpacked(tmp_path, box):
    archive = make_tar(tmp_path / "a.tar", [tar_member("a.png", bytes(40 << 20))], "w:gz")
    archive.write_bytes(archive.read_bytes()[:5000])  # whoever reads on past the header finds it damaged
    with pytest.raises(Unavailable, match="it unpacks to far more"):
        unpack(archive, TAR, box)


def test_zip_that_lies_about_a_size(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", {"a.png": bytes(50_000)}, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(archive.read_bytes())
    for at in (22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(Unavailable, match="not a whole zip archive"):
        unpack(archive, ZIP, box)
    assert all(len(content) <= 1000 for content in contents(box).values())


def test_two_pictures_of_one_name(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", {"a/one.png": picture(1), "b/one.png": picture(2)})
    with pytest.raises(Unavailable, match=r"'b/one\.png': two pictures have this name"):
        unpack(archive, ZIP, box)


@pytest.mark.parametrize("kind", [ZIP, TAR])
def test_damaged_archive(tmp_path, box, kind):
    (tmp_path / "a").write_bytes(b"<html>Please log in</html>")
    with pytest.raises(Unavailable, match=r"not a whole (zip|tar) archive"):
        unpack(tmp_path / "a", kind, box)


# --- whole datasets -----------------------------------------------------------------------------------------------------


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
