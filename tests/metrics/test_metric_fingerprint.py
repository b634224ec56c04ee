"""Ids of FIDs: readable, complete, and different whenever anything that matters is."""

import itertools

import pytest

from hfdbench.metrics.distribution import fingerprint
from hfdbench.metrics.distribution.fingerprint import (
    PUBLISHED_SHA256,
    REFITTED_SHA256,
    differences,
    explain,
    extractor_id,
    fid_id,
    parse,
)

REFERENCE = "1a2b3c4d" + "0" * 56


def test_by_hand():
    made = fid_id("fid256", 192, extractor_id("tf1", PUBLISHED_SHA256), REFERENCE)
    assert made == "fid256-192p-tf1-6726825d0af5-f32-1a2b3c4d"
    words = explain(made)
    for part in ("FID: 192 patches", "128", "TensorFlow 1", "6726825d0af5", "float32", "1a2b3c4d"):
        assert part in words


def test_every_part_counts():
    ids = [
        fid_id(protocol, patches, extractor_id(rule, weights, dtype), reference)
        for protocol in ("fid256", "whole")
        for patches in (192, 193)
        for weights in (PUBLISHED_SHA256, REFITTED_SHA256)
        for rule in ("tf1", "mini")
        for dtype in ("f32", "f64")
        for reference in (REFERENCE, "f" * 64)
    ]
    assert len(set(ids)) == 64
    for a, b in itertools.combinations(ids[:4], 2):
        assert differences(a, b)
    assert all(differences(made, made) == [] for made in ids)


def test_difference_is_named():
    a = fid_id("fid256", 192, extractor_id("tf1", PUBLISHED_SHA256), REFERENCE)
    b = fid_id("fid256", 6573, extractor_id("tf1", REFITTED_SHA256), REFERENCE)
    assert differences(a, b) == ["patches: 192 and 6573", "weights: 6726825d0af5 and 52a67ba62dbf"]


def test_only_the_published_weights_give_fid():
    labels = [
        parse(fid_id("fid256", 1, extractor_id("tf1", weights), REFERENCE)).label
        for weights in (PUBLISHED_SHA256, REFITTED_SHA256, "a" * 64)
    ]
    assert labels == ["FID", "FID (refitted Inception)", "FID (other Inception)"]
    assert fingerprint.weights_label(PUBLISHED_SHA256) == "FID"
    kin = [
        parse(fid_id("fid256", 1, extractor_id(rule, PUBLISHED_SHA256), REFERENCE)).label
        for rule in ("mini", "dinov2", "clip")
    ]
    assert kin == ["fd_mini", "FD-DINOv2", "FD-CLIP"]  # whatever their weights


@pytest.mark.parametrize(
    "text", ["", "fid256", "fid256-p-tf1-6726825d0af5-f32-1a2b3c4d", "a-b-1p-tf1-6726825d0af5-f32-1a2b3c4d"]
)
def test_what_is_no_id_is_refused(text):
    with pytest.raises(ValueError, match="is not the id of a Fréchet distance"):
        parse(text)


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="is not the id"):
        fid_id("two-part", 1, extractor_id("tf1", PUBLISHED_SHA256), REFERENCE)
    with pytest.raises(ValueError, match="is not the id"):
        fid_id("fid256", 1, extractor_id("tf1", PUBLISHED_SHA256), "short")
