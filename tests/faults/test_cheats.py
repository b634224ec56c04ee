"""Cheating codecs get an error row or a wrong picture, never a good score; without a sandbox the same cheats succeed."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from helpers_cheats import machine_lacks
from PIL import Image

from hfdbench.cards.schema import CodecCard
from hfdbench.checks.conform import conform
from hfdbench.codecs.pool import CodecFailed, Pool
from hfdbench.errors import UsageError
from hfdbench.pipeline.plan import Request
from hfdbench.pipeline.run import run
from hfdbench.results import parquet

pytestmark = [pytest.mark.faults]

FILES = ("file-by-c", "temporary", "home", "memory-file", "attribute")
RUN = ("data-set", "results", "order", "parent")
MEMORY = ("shared-memory", "system-v", "keyring", "user-keyring")
OTHERS = ("daemon", "port", "network")
OWN = ("environment", "module", "patch")
WAYS = FILES + RUN + MEMORY + OTHERS + OWN
# What works where there is no sandbox; a cheat that never works would test nothing. The real home is left alone.
WORKS = {*WAYS} - {"home", "keyring", "order", *OWN} - machine_lacks()  # streams come in another order in any case


def here(level: str) -> bool:
    """Whether this machine allows a level."""
    before = os.environ.get("HFDBENCH_SEAL")
    os.environ["HFDBENCH_SEAL"] = level
    try:
        with Pool("codec", 1, "cpu") as pool:
            pool._all[0].probe()
        return True
    except UsageError:
        return False
    finally:
        os.environ.pop("HFDBENCH_SEAL") if before is None else os.environ.update(HFDBENCH_SEAL=before)


LEVELS = [level for level in ("namespaces", "landlock") if here(level)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with images in data/ and results in out/, which codecs know by name, and a server in this process."""
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(5)
    for number in range(2):
        image = rng.integers(0, 256, (5, 7, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
    kept: dict[bytes, bytes] = {}
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                data = b""
                while part := client.recv(1 << 16):
                    data += part
                    if data[:4] == b"get ":
                        break
                if data[:4] == b"put ":
                    kept[data[4:20]] = data[20:]
                else:
                    client.sendall(kept.get(data[4:20], b""))

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv("CHEAT_PLACE", str(tmp_path))
    monkeypatch.setenv("CHEAT_PORT", str(server.getsockname()[1]))
    yield tmp_path
    server.close()


def card(ways, **options) -> CodecCard:
    points = [{"id": way, "options": {"way": way} | options} for way in ways]
    return CodecCard(id="cheat", kind="classical", adapter="helpers_cheats:Cheat", points=points)


def scores(place: Path, ways, **options) -> dict[str, list[tuple[str, float | None]]]:
    """Status and PSNR of each image, by way. A codec whose streams are the PNG files leaves them in the results first."""
    out = place / "out"
    store_png = CodecCard(id="png", kind="classical", adapter="helpers_codec:PNG", points=[{"id": "p"}])
    request = Request(codecs=(store_png, card(ways, **options)), datasets=(f"folder:{place / 'data'}",), out=out)
    run(request)
    found = {}
    for way in ways:
        (path,) = [p for p in out.glob(f"*/cheat-{way}-*.parquet") if p.parent.name == "images"]
        rows = parquet.read_table(path).to_pylist()
        found[way] = [(row["status"], row["psnr_db"] if not row["identical"] else np.inf) for row in rows]
        told = ", ".join("error" if status == "error" else f"{psnr:.1f} dB" for status, psnr in found[way])
        print(f"{os.environ.get('HFDBENCH_SEAL')}: {way}: {max(row['bytes'] or 0 for row in rows)} bytes: {told}")
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_no_cheat_scores(place, monkeypatch, level):
    """Nor the twins that behave while they are watched: nothing watches them here."""
    monkeypatch.setenv("HFDBENCH_SEAL", level)
    evading = level == LEVELS[0]
    for way, rows in scores(place, WAYS, evading=evading).items():
        for status, psnr_db in rows:
            assert status == "error" or psnr_db < 15, (way, status, psnr_db)


def test_they_do_without_a_sandbox(place, monkeypatch):
    """Shows that the cheats work, and that a process ends with its daemons in any case."""
    monkeypatch.setenv("HFDBENCH_SEAL", "process")
    ways = [way for way in WAYS if way != "home"]
    found = scores(place, ways)
    worked = {way for way, rows in found.items() if all(psnr == np.inf for _, psnr in rows)}
    assert worked - {"order"} == WORKS - {"daemon", "port"}
    for path in Path("/dev/shm").glob("cheat-*"):
        path.unlink()


@pytest.mark.parametrize("level", LEVELS)
def test_conform_is_not_deceived(place, monkeypatch, level):
    """The same processes as in `conform`, watched."""
    monkeypatch.setenv("HFDBENCH_SEAL", level)
    cheats = card(WAYS)
    image = np.array(Image.open(place / "data" / "0.png").convert("RGB"))
    hidden = (place / "data", place / "out")
    streams = {}
    with Pool("encoder", 1, "cpu", 60, 0.0, hidden=hidden, retries=0) as pool:
        for way in WAYS:
            with suppress(CodecFailed):  # Landlock refuses to some what they hide it in
                _, streams[way] = pool.ask(cheats, way, {"do": "encode", "shape": image.shape}, image.data.cast("B"))
    assert len(streams) >= len(WAYS) - 2
    with Pool("decoder", 1, "cpu", 60, 0.0, hidden=hidden, retries=0) as pool:
        for way in streams:
            try:
                _, pixels = pool.ask(cheats, way, {"do": "decode", "seed": 0}, streams[way], image[..., 0].size)
            except CodecFailed as error:
                assert error.type == "StreamError", (way, error)
                continue
            error = np.frombuffer(pixels, np.uint8).astype(float) - image.ravel()
            assert (error**2).mean() > 1000, way


@pytest.mark.parametrize("way", ["file-by-c", "network"])
@pytest.mark.skipif(not LEVELS, reason="neither namespaces nor Landlock on this machine")
def test_conform_says_so(place, way):
    findings = {finding.name: finding for finding in conform(card([way]), way, megapixels=0.1)}
    assert findings["sealed decode"].verdict == "FAIL"
    evading = {finding.name: finding for finding in conform(card([way], evading=True), way, megapixels=0.1)}
    assert evading["sealed decode"].verdict == "pass"  # an honest WebP, as long as it is watched


def test_clock_is_the_runs_own(place):
    (rows,) = scores(place, ["clock"]).values()
    assert [status for status, _ in rows] == ["ok", "ok"]
    (path,) = [p for p in (place / "out").glob("*/cheat-clock-*.parquet") if p.parent.name == "images"]
    for row in parquet.read_table(path).to_pylist():
        assert 0.05 <= row["encode_s"] < 30 and 0.05 <= row["decode_s"] < 30


def test_forged_answers_cost_their_image(place):
    for number in range(5):
        image = np.full((40, 56, 3), 99, np.uint8)
        image[0, 0, 0] = number
        Image.fromarray(image).save(place / "data" / f"{number}.png")
    forger = CodecCard(id="forger", kind="classical", adapter="helpers_cheats:Forger", points=[{"id": "p"}])
    Image.fromarray(np.full((40, 56, 3), 99, np.uint8)).save(place / "data" / "5.png")
    run(Request(codecs=(forger,), datasets=(f"folder:{place / 'data'}",), out=place / "out"))
    (path,) = [p for p in (place / "out").glob("*/forger-p-*.parquet") if p.parent.name == "images"]
    rows = parquet.read_table(path).to_pylist()
    assert [row["status"] for row in rows] == ["error"] * 5 + ["ok"]
    assert "header of 4,294,967,295 bytes" in rows[0]["error"]
    assert "4,611,686,018,427,387,904 bytes" in rows[1]["error"]
    assert "no frame" in rows[2]["error"] and "no frame" in rows[3]["error"] and "without a time" in rows[4]["error"]
