"""Workers end when they should, with all that they started, and their answers are bounded."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_processes import processes

from hfdbench.cards.schema import CodecCard
from hfdbench.codecs import pool as pools
from hfdbench.codecs.pool import CodecFailed, Limits, Pool, find_level, find_seal, in_order, require_sandbox
from hfdbench.codecs.verify import Mismatch, StoredStream, spread, verify
from hfdbench.errors import UsageError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
IMAGE[0, 0, 0] = 0


def card(adapter: str, **options) -> CodecCard:
    points = [{"id": "p", "options": options}]
    return CodecCard(id="made", kind="classical", adapter=f"helpers_codec:{adapter}", points=points)


def encode(pool: Pool, codec: CodecCard) -> bytes:
    return pool.ask(codec, "p", {"do": "encode", "shape": IMAGE.shape}, IMAGE.data.cast("B"))[1]


@pytest.fixture(params=["namespaces", "landlock", "process"])
def level(request, monkeypatch):
    monkeypatch.setenv("HFDBENCH_SEAL", request.param)
    monkeypatch.setattr(pools, "_found", False)
    try:
        assert find_level() == request.param
    except UsageError:
        pytest.skip(f"no {request.param} on this machine")
    return request.param


def test_everything_ends_with_the_pool(level, monkeypatch):
    """Children that have left their session and lost their parent, too."""
    monkeypatch.setenv("MARKED", marker := f"marked-{os.getpid()}-{level}")
    with Pool("encoder", 1, "cpu") as pool:
        encode(pool, card("Daemons"))
        folder = pool._all[0]._folder
        deadline = time.monotonic() + 60
        while not any("sleep 1000" in line for line in processes(marker)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert processes(marker) == [] or all(
        "sleep 1000" not in line and "worker" not in line for line in processes(marker)
    )
    assert not folder.exists()


def test_a_killed_run_leaves_nothing(level, tmp_path):
    script = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from test_pool import *
pool = Pool("encoder", 1, "cpu")
encode(pool, card("Daemons"))
print(pool._all[0]._folder, flush=True)
time.sleep(1000)
"""
    environment = os.environ | {"MARKED": (marker := f"killed-{os.getpid()}-{level}"), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    folder = Path(run.stdout.readline().strip())
    assert folder.is_relative_to(tmp_path)
    run.kill()
    run.wait()
    deadline = time.monotonic() + 30
    while processes(marker) or folder.exists():
        assert time.monotonic() < deadline, processes(marker)
        time.sleep(0.05)


def test_memory_is_limited(level, monkeypatch):
    monkeypatch.setattr(pools, "MEMORY", 300 << 20)
    with (
        Pool("encoder", 1, "cpu", retries=0) as pool,
        pytest.raises(CodecFailed, match=r"GiB of memory, 0\.3 allowed") as e,
    ):
        encode(pool, card("Hungry"))
    assert e.value.passing


def test_a_process_that_died_is_tried_again(tmp_path):
    """In a new process: the first leaves its trace in the file that the card names."""
    with Pool("encoder", 1, "cpu", retries=1) as pool:
        started = [process._popen for process in pool._all]
        with pytest.raises(CodecFailed, match=r"exit 3.*, 2 times in a row") as error:
            encode(pool, card("Faulty", fault="exit", stage="encode"))
        assert error.value.passing and started == [None]
    with Pool("encoder", 1, "cpu", retries=1) as pool:
        with pytest.raises(CodecFailed, match=r"^StreamError: foreign stream$") as error:  # no reason to try again
            encode(pool, card("Faulty", fault="raise", stage="encode"))
        assert not error.value.passing


def test_answers_are_bounded():
    with Pool("decoder", 1, "cpu") as pool:
        with pytest.raises(CodecFailed, match=r"27,000,000 bytes \(3000 x 3000 pixels\), where 6,720 are the most"):
            pool.ask(card("Huge"), "p", {"do": "decode", "seed": 0}, b"large", 40 * 56)
        with pytest.raises(CodecFailed) as error:
            pool.ask(card("Huge"), "p", {"do": "decode", "seed": 0}, b"message", 40 * 56)
        assert len(str(error.value)) < 2100 and "\x1b" not in str(error.value)


def test_a_batch_answers_every_stream_and_says_its_time_and_memory(monkeypatch):
    monkeypatch.setenv("HFDBENCH_SEAL", "process")
    codec, large = card("Batched"), np.full((2000, 2000, 3), 99, np.uint8)
    with Pool("encoder", 1, "cpu") as pool:
        streams = [
            pool.ask(codec, "p", {"do": "encode", "shape": image.shape}, image.data.cast("B"))[1]
            for image in (large, IMAGE + 20)
        ]
    with Pool("decoder", 1, "cpu") as pool:
        both, body = _batch(pool, codec, streams)
        assert both["shapes"] == [[2000, 2000, 3], [40, 56, 3]] and both["decode_s"] > 0 and len(body) == 12_006_720
        small, _ = _batch(pool, codec, [streams[1]])
        assert small["host_peak_bytes"] + (90 << 20) < both["host_peak_bytes"], "96 MB of integers, and then no longer"
        assert small["device_peak_bytes"] is None
        with pytest.raises(CodecFailed, match="answered with 1 pictures of 2 streams"):
            _batch(pool, codec, [streams[1], b"lost"])


def _batch(pool: Pool, codec: CodecCard, streams: list[bytes]) -> tuple[dict, bytes]:
    ask = {"do": "decode_batch", "seed": 0, "lengths": [len(stream) for stream in streams]}
    return pool.ask(codec, "p", ask, b"".join(streams), 4_002_240, retries=0)


def test_limits_grow_with_the_image():
    small, large = (Limits.of("decode", pixels, "cpu", None) for pixels in (10**4, 10**7))
    assert small.seconds < large.seconds and small.memory_bytes < large.memory_bytes
    assert large.answer_bytes == 3 * 10**7
    assert Limits.of("decode", 10**7, "cpu", 5.0).seconds == 5 and Limits.of("load", None, "cpu", 5.0).seconds > 60


def test_results_come_in_order_though_jobs_do_not():
    seen = []

    def work(job: int) -> int:
        seen.append(job)
        return job * job

    with Pool("decoder", 3, "cpu") as pool:
        assert list(in_order(pool, range(200), work, shuffled=32)) == [job * job for job in range(200)]
        assert sorted(seen) == list(range(200)) and seen != sorted(seen)
        assert sum(abs(at - job) for at, job in enumerate(seen)) > 400
        assert list(in_order(pool, iter(()), work)) == [] and list(in_order(pool, range(5), work)) == [0, 1, 4, 9, 16]
        with pytest.raises(ZeroDivisionError):
            list(in_order(pool, range(5), lambda job: 1 // (job - 3), shuffled=2))


def test_a_seal_can_be_required(monkeypatch):
    monkeypatch.setenv("HFDBENCH_SEAL", "process")
    assert find_seal() == "process"
    with pytest.raises(UsageError, match="--require-seal: this machine allows neither"):
        require_sandbox()
    monkeypatch.setenv("HFDBENCH_SEAL", "nowhere")
    with pytest.raises(UsageError, match=r'no seal .* "nowhere"'):
        find_seal()


def test_streams_are_verified():
    codec = card("Quantiser")
    with Pool("encoder", 1, "cpu") as pool:
        stream = encode(pool, codec)
        _, pixels = pool.ask(codec, "p", {"do": "decode", "seed": 0}, stream, IMAGE[..., 0].size)
        right = StoredStream("a", stream, IMAGE[..., 0].size, hashlib.sha256(pixels).hexdigest())
        wrong = StoredStream("b", stream, IMAGE[..., 0].size, "0" * 64)
        damaged = StoredStream("c", stream[:9], IMAGE[..., 0].size, "0" * 64)
        first, second = verify(pool, codec, "p", 0, [right, wrong, damaged])
    assert first == Mismatch("b", f"other pixels (sha256 {right.pixels_sha256[:12]}…, stored 000000000000…)")
    assert second.name == "c" and "error" in second.reason
    assert spread(10, 3) == [0, 4, 9] and spread(3, 5) == [0, 1, 2] and spread(5, 0) == [] and spread(5, 1) == [0]
