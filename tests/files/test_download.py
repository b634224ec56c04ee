"""Downloads from a server that breaks off, lies, stumbles, or never ends."""

import socket
import time

import pytest
from helpers_site import CONTENT, QUICK, Site, part_of, served, source

from hfdbench.cards.schema import Source
from hfdbench.errors import Unavailable
from hfdbench.files import download as downloads
from hfdbench.files.download import Patience, download


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with served(Site()) as running:
        yield running


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


# --- servers that never end -----------------------------------------------------------------------------------------------

HASTY = Patience(tries=2, pause_s=0.01, timeout_s=0.5, slowest_bytes_per_s=1000)


@pytest.mark.faults
@pytest.mark.parametrize("drip", ["headers", "body"])
def test_a_byte_now_and_then_is_not_waited_for(site, tmp_path, drip):
    site.files["/a.bin"], site.drip = CONTENT, drip
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"slower than 1,000 bytes a second|connection broke|no connection"):
        download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=HASTY)
    assert time.monotonic() - started < 8
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.faults
@pytest.mark.parametrize("announce", [True, False])
def test_a_body_without_a_stated_size_is_bounded(site, tmp_path, announce, monkeypatch):
    monkeypatch.setattr(downloads, "MOST_UNSTATED_BYTES", 200_000)
    site.files["/a.bin"], site.announce = CONTENT, announce
    with pytest.raises(
        Unavailable, match=r'2\d\d,\d{3} bytes or more|300,000 bytes or more.*state its size as "bytes"'
    ):
        download(source(site, "/a.bin"), tmp_path / "a.bin", patience=QUICK)
    assert list(tmp_path.iterdir()) == []
    download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.faults
def test_the_whole_takes_no_longer_than_it_may(site, tmp_path):
    site.files["/a.bin"], site.drip = CONTENT, "body"
    patience = Patience(tries=99, pause_s=0.01, timeout_s=5, slowest_bytes_per_s=0, longest_s=0.5)
    with pytest.raises(
        Unavailable, match=r"not whole after 0 s: [\d,]+ bytes arrived; check the network .* it resumes"
    ):
        download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=patience)
    assert part_of(tmp_path / "a.bin").exists()


@pytest.mark.faults
@pytest.mark.parametrize("length", ["²", "-5", "1e3", "0x10", "9" * 5000, "", "12, 12", "٣"])
def test_a_length_that_is_no_number_is_no_length(site, tmp_path, length):
    site.files["/a.bin"], site.length = CONTENT, length
    try:
        download(source(site, "/a.bin", CONTENT), tmp_path / "a.bin", patience=QUICK)
    except Unavailable as error:
        assert "/a.bin: " in str(error)
    else:
        assert (tmp_path / "a.bin").read_bytes() == CONTENT
