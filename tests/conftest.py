"""Fixtures for every test module."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of images and weights; the test is skipped where HFDBENCH_DATA names none."""
    named = os.environ.get("HFDBENCH_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("HFDBENCH_DATA names no folder of images and weights")
    return Path(named)
