"""Requests become trials, and a key changes exactly when the numbers could."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfdbench.cards.schema import CodecCard, Point, Skip
from hfdbench.errors import UsageError
from hfdbench.pipeline.plan import Request, make_plan


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "pictures"
    made.mkdir()
    for i in range(3):
        Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)).save(made / f"{i}.png")
    return made


def card(tmp_path, **changed) -> CodecCard:
    fields = {
        "id": "mine",
        "kind": "classical",
        "adapter": "helpers_codec:Quantiser",
        "points": (Point(id="a", options={"step": 8}), Point(id="b", options={"step": 32})),
        "source": tmp_path / "codecs" / "mine.toml",
    }
    return CodecCard(**(fields | changed))


def request(folder, *cards, **changed) -> Request:
    return Request(codecs=cards, datasets=(f"folder:{folder}",), **changed)


def keys(plan) -> list[tuple[str, str]]:
    return [(trial.stream_key, trial.trial_key) for trial in plan.trials]


def test_trials_in_order(tmp_path, folder):
    plan = make_plan(request(folder, card(tmp_path), limit=2))
    assert [trial.point for trial in plan.trials] == ["a", "b"]
    assert all(len(part) == 16 and int(part, 16) >= 0 for pair in keys(plan) for part in pair)
    assert len({part for pair in keys(plan) for part in pair}) == 4
    assert plan.trials[0].name == f"mine-a-{plan.trials[0].dataset.id}-{plan.trials[0].trial_key}"
    assert keys(plan) == keys(make_plan(request(folder, card(tmp_path), limit=2)))
    assert [t.point for t in make_plan(request(folder, card(tmp_path), points=("b",))).trials] == ["b"]


def test_what_changes_the_keys(tmp_path, folder):
    (stream, trial), _ = keys(make_plan(request(folder, card(tmp_path))))

    def of(*cards, **changed):
        return keys(make_plan(request(folder, *cards, **changed)))[0]

    assert of(card(tmp_path, title="Another", settings="said better", paper="x")) == (stream, trial)
    assert of(card(tmp_path), workers=4, timeout_s=9.0, out=tmp_path) == (stream, trial)
    for changed in ({"seed": 1}, {"device": "cuda"}):  # the stream is the same, its decoding another
        assert of(card(tmp_path), **changed)[0] == stream
        assert of(card(tmp_path), **changed)[1] != trial
    assert of(card(tmp_path), device="cuda") == of(card(tmp_path), device="cuda:1")
    others = [
        of(card(tmp_path), limit=2),
        of(card(tmp_path, adapter="helpers_codec:Grey")),
        of(card(tmp_path, points=(Point(id="a", options={"step": 9}),))),
    ]
    Image.fromarray(np.full((16, 16, 3), 9, np.uint8)).save(folder / "1.png")
    others.append(of(card(tmp_path)))
    assert len({stream, *(pair[0] for pair in others)}) == 5
    assert len({trial, *(pair[1] for pair in others)}) == 5


def test_source_and_weights_change_the_keys(tmp_path, folder, monkeypatch):
    import hashlib

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "codecs").mkdir()
    module, weights = tmp_path / "adapter_of_test_plan.py", tmp_path / "codecs" / "w.bin"
    seen = set()
    for source, content in (("A = 1", b"1"), ("A = 2", b"1"), ("A = 2", b"2")):
        module.write_text(source)
        weights.write_bytes(content)
        entry = {"file": "w.bin", "sha256": hashlib.sha256(content).hexdigest()}
        point = Point(id="a", weights=(entry,))
        mine = card(tmp_path, adapter="adapter_of_test_plan:A", points=(point,))
        seen.add(keys(make_plan(request(folder, mine)))[0])
    assert len(seen) == 3
    weights.write_bytes(b"3")
    with pytest.raises(UsageError, match=r"sha256 of w\.bin differs"):
        make_plan(request(folder, mine))
    weights.unlink()
    plan = make_plan(request(folder, mine))
    assert not plan.trials and "w.bin is missing" in plan.skipped[0][1]


def write_card(folder: Path, name: str, text: str) -> None:
    (folder / "codecs").mkdir(exist_ok=True, parents=True)
    (folder / "codecs" / f"{name}.toml").write_text(f'id = "{name}"\nkind = "classical"\n{text}')


def test_decoders_share_streams(tmp_path, folder):
    from hfdbench.cards.find import choose

    point = '[[points]]\nid = "a"\noptions = { step = 8 }\n'
    write_card(tmp_path, "t-base", f'adapter = "helpers_codec:Quantiser"\n{point}')
    write_card(tmp_path, "t-grey", f'adapter = "helpers_codec:Grey"\nstreams = "t-base"\n{point}')
    cards = choose(CodecCard, ["t-base", "t-grey"], [tmp_path])
    base, grey = make_plan(request(folder, *cards, cards=(tmp_path,))).trials
    assert base.stream_name == grey.stream_name and grey.encoder.id == "t-base"
    assert base.trial_key != grey.trial_key


def test_skips_hold_for_subsets(tmp_path, folder):
    skipping = card(tmp_path, skip=(Skip(reason="too slow", point="a"), Skip(reason="no colour", dataset="samples")))
    plan = make_plan(replace(request(folder, skipping, limit=1), datasets=("samples", f"folder:{folder}")))
    assert [trial.point for trial in plan.trials] == ["b"]
    assert [reason for _, reason in plan.skipped] == ["too slow", "too slow", "no colour"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"points": ("c",)}, 'no point "c"'),
        ({"datasets": ("folder:/nowhere/at/all",)}, "no such folder"),
        ({"datasets": ("kodka",)}, 'did you mean "kodak"'),
        ({"datasets": ("kodak",)}, "hfdbench fetch kodak"),
        ({"datasets": ()}, "nothing to run"),
        ({"device": "gpu"}, 'no device "gpu"'),
        ({"workers": 0}, "--workers 0"),
        ({"limit": 0}, "--limit 0"),
    ],
)
def test_bad_requests(tmp_path, folder, changed, message):
    with pytest.raises(UsageError, match=message):
        make_plan(replace(request(folder, card(tmp_path), data_root=tmp_path / "empty"), **changed))


def test_adapter_that_is_not_there(tmp_path, folder):
    for adapter in ("nowhere_at_all:A", "hfdbench.nowhere:A"):
        with pytest.raises(UsageError, match=r'key "adapter": no module "[a-z_.]*nowhere'):
            make_plan(request(folder, card(tmp_path, adapter=adapter)))


def test_imports_nothing_heavy():
    code = "import sys, hfdbench.pipeline.plan, hfdbench.results.stored; print('torch' in sys.modules, 'pandas' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "False"]
