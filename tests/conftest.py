"""Fixtures for every test module."""

import os
from pathlib import Path

# Tests run side by side, a process for each core (pytest-xdist): each of them keeps to one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-budget", type=int, default=1, help="How many times as many random inputs (default 1).")


@pytest.fixture(scope="session")
def fuzz_budget(request: pytest.FixtureRequest) -> int:
    """Factor on the number of random inputs of a fuzz test."""
    return request.config.getoption("--fuzz-budget")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of images and weights; the test is skipped where HFDBENCH_DATA names none."""
    named = os.environ.get("HFDBENCH_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("HFDBENCH_DATA names no folder of images and weights")
    return Path(named)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data, no cache and no Inception but what a test gives: neither from here nor from the network."""
    for name in ("HFDBENCH_INCEPTION", "HFDBENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
