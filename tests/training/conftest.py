"""Photographs to train on, and a folder for what trainings share."""

import pytest
from helpers_hfd import picture
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight pictures, one damaged, one too small."""
    place = tmp_path_factory.mktemp("photos")
    for k in range(8):
        Image.fromarray(picture(130, 160, seed=k)).save(place / f"{k}.png")
    (place / "broken.jpg").write_bytes(b"\xff\xd8 not a photograph")
    Image.new("RGB", (20, 200)).save(place / "narrow.png")
    return place


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")
