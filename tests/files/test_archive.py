"""Archives: pleasant, damaged and hostile ones."""

import bz2
import gzip
import lzma
import random
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from helpers_site import PLEASANT, contents, make_tar, make_zip, picture, tar_member

from hfdbench.errors import Unavailable
from hfdbench.files import archive as archives
from hfdbench.files.archive import unpack as unpack_wanted


def unpack(archive, kind, folder, wanted=None):
    """Images, or those of a list of names."""
    return unpack_wanted(
        archive, kind, folder, lambda name: name.lower().endswith(".png") and (not wanted or name in wanted)
    )


@pytest.fixture
def box(tmp_path):
    """An empty folder to unpack in, inside one that nothing else may appear in."""
    place = tmp_path / "outer" / "box"
    place.mkdir(parents=True)
    return place


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
def test_pictures_are_taken_out_without_their_folders(tmp_path, box, mode):
    if mode == "zip":
        archive, kind = make_zip(tmp_path / "a.zip", PLEASANT), "zip"
    else:
        members = [
            tar_member(name, content, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE)
            for name, content in PLEASANT.items()
        ]
        archive, kind = make_tar(tmp_path / "a.tar", members, mode), "tar"
    assert unpack(archive, kind, box) == 2
    assert contents(box) == {"one.png": picture(1), "two.PNG": picture(2)}


def test_only_the_wanted_pictures(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", PLEASANT | {"three.png": picture(3)})
    assert unpack(archive, "zip", box, {"two.PNG", "three.png"}) == 2
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
        unpack(archive, kind, box)
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
        unpack(archive, "tar", box)
    assert contents(box) == {}


def test_link_in_a_zip(tmp_path, box):
    link = zipfile.ZipInfo("evil.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.png", picture())
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(Unavailable, match=r"'evil\.png': it is a link, a device"):
        unpack(tmp_path / "a.zip", "zip", box)
    assert contents(box) == {}


def test_encrypted_member(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", {"a.png": picture()})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flag, in the local header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(Unavailable, match=r"'a\.png': it is a link, a device or encrypted"):
        unpack(archive, "zip", box)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_bomb(tmp_path, box, kind):
    zeros = bytes(40 << 20)
    if kind == "zip":
        archive = make_zip(tmp_path / "a.zip", {"a.png": zeros}, compression=zipfile.ZIP_DEFLATED)
    else:
        archive = make_tar(tmp_path / "a.tar", [tar_member("a.png", zeros)], "w:gz")
    with pytest.raises(Unavailable, match="it unpacks to far more than an archive of pictures does"):
        unpack(archive, kind, box)
    assert contents(box) == {}


def test_bomb_is_refused_before_it_is_unpacked(tmp_path, box):
    archive = make_tar(tmp_path / "a.tar", [tar_member("a.png", bytes(40 << 20))], "w:gz")
    archive.write_bytes(archive.read_bytes()[:5000])  # whoever reads on past the header finds it damaged
    with pytest.raises(Unavailable, match="it unpacks to far more"):
        unpack(archive, "tar", box)


def test_zip_that_lies_about_a_size(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", {"a.png": bytes(50_000)}, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(archive.read_bytes())
    for at in (22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(Unavailable, match="not a whole zip archive"):
        unpack(archive, "zip", box)
    assert all(len(content) <= 1000 for content in contents(box).values())


def test_two_pictures_of_one_name(tmp_path, box):
    archive = make_zip(tmp_path / "a.zip", {"a/one.png": picture(1), "b/one.png": picture(2)})
    with pytest.raises(Unavailable, match=r"'b/one\.png': two pictures have this name"):
        unpack(archive, "zip", box)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archive(tmp_path, box, kind):
    (tmp_path / "a").write_bytes(b"<html>Please log in</html>")
    with pytest.raises(Unavailable, match=r"not a whole (zip|tar) archive"):
        unpack(tmp_path / "a", kind, box)


@pytest.mark.faults
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_whose_decoders_know_no_bound(tmp_path, box, method):
    """Their members may say that they are small and unpack to gigabytes in one step."""
    archive = make_zip(tmp_path / "a.zip", {"a.png": bytes(1 << 20)}, compression=method)
    with pytest.raises(Unavailable, match=rf"'a\.png': it is compressed by method {method}"):
        unpack(archive, "zip", box)
    assert contents(box) == {}


def growth(code, *arguments):
    """Peak memory of a fresh process in bytes, and its output."""
    text = f"{code}\nprint(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    run = subprocess.run([sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    *output, peak = run.stdout.splitlines() or ["0"]
    assert run.returncode == 0, run.stderr
    return 1024 * int(peak), "\n".join(output)


UNPACK = """
import sys
from pathlib import Path
from hfdbench.errors import Unavailable
from hfdbench.files.archive import unpack
try:
    print(unpack(Path(sys.argv[1]), "tar", Path(sys.argv[2]), lambda name: True))
except Unavailable as error:
    print(error)
"""


@pytest.mark.faults
@pytest.mark.parametrize(
    ("compress", "kind"),
    [*((gzip.compress, kind) for kind in (b"x", b"g", b"L", b"K")), (bz2.compress, b"x"), (lzma.compress, b"x")],
)
def test_header_of_a_tar_that_unpacks_to_gigabytes(tmp_path, box, compress, kind):
    """PAX headers and GNU long names are read as a whole, whatever size they claim."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 8 << 30
    (tmp_path / "a.tar").write_bytes(compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20)))
    peak, output = growth(UNPACK, tmp_path / "a.tar", box)
    assert "not a whole tar archive: " in output or "far more than an archive" in output, output
    assert peak < 80 << 20
    assert contents(box) == {}


@pytest.mark.faults
def test_xz_whose_dictionary_may_grow_to_gigabytes(tmp_path, box):
    tar = make_tar(tmp_path / "plain.tar", [tar_member("a.png", picture())]).read_bytes()
    data = bytearray(lzma.compress(tar, preset=0))
    header = slice(12, 12 + 4 * data[12])  # of the block, before its CRC
    data[header.start + 4] = 40  # of 0 to 40: 4 GiB
    data[header.stop : header.stop + 4] = zlib.crc32(data[header]).to_bytes(4, "little")
    (tmp_path / "a.tar").write_bytes(data)
    assert lzma.decompress(data) == tar
    with pytest.raises(Unavailable, match="not a whole tar archive: Memory usage limit exceeded"):
        unpack(tmp_path / "a.tar", "tar", box)
    assert contents(box) == {}


def test_xz_in_several_streams(tmp_path, box):
    tar = make_tar(tmp_path / "plain.tar", [tar_member(f"{n}.png", picture(n)) for n in (1, 2)]).read_bytes()
    first, rest = lzma.compress(tar[:700]) + bytes(8) + lzma.compress(b""), lzma.compress(tar[700:])
    (tmp_path / "cut.tar").write_bytes(first + rest[: len(rest) // 2])
    with pytest.raises(Unavailable, match="not a whole tar archive: it ends too soon"):
        unpack(tmp_path / "cut.tar", "tar", box)
    assert contents(box) == {}
    (tmp_path / "a.tar").write_bytes(first + rest)
    assert unpack(tmp_path / "a.tar", "tar", box) == 2
    assert contents(box) == {f"{n}.png": picture(n) for n in (1, 2)}


@pytest.mark.faults
def test_member_of_a_gigabyte(tmp_path, box, monkeypatch):
    monkeypatch.setattr(archives, "MOST_MEMBER_BYTES", 1000)
    for kind, archive in (
        ("zip", make_zip(tmp_path / "a.zip", {"a.png": bytes(1001)})),
        ("tar", make_tar(tmp_path / "a.tar", [tar_member("a.png", bytes(1001))])),
    ):
        with pytest.raises(Unavailable, match="it has 1,001 bytes, 1,000 are the most"):
            unpack(archive, kind, box)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    with pytest.raises(Unavailable, match="there are more than 2"):
        unpack(make_tar(tmp_path / "b.tar", [tar_member(f"{n}.png") for n in range(3)]), "tar", box)


@pytest.mark.fuzz
@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_damaged_archives_are_refused_by_name(tmp_path, mode, fuzz_budget):
    if mode == "zip":
        whole = make_zip(tmp_path / "a", PLEASANT, compression=zipfile.ZIP_DEFLATED).read_bytes()
    else:
        whole = make_tar(tmp_path / "a", [tar_member(n, c) for n, c in PLEASANT.items() if c], mode).read_bytes()
    rng = random.Random(mode)
    for number in range(40 * fuzz_budget):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "b").write_bytes(damaged[: rng.randrange(len(damaged)) if number % 2 else None])
        place = tmp_path / f"box {number}"
        place.mkdir()
        try:
            unpack(tmp_path / "b", "zip" if mode == "zip" else "tar", place)
        except Unavailable as error:
            assert str(error).startswith("b: ")
