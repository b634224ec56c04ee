"""Weights by address: licences are accepted first, other bytes refused by name, mirrors tried, nothing brought twice."""

import hashlib
import json
import textwrap
from pathlib import Path

import pytest
from helpers_site import QUICK, Site, served
from typer.testing import CliRunner

from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.cli.app import app
from hfdbench.codecs.fetch import fetch
from hfdbench.codecs.identity import identity
from hfdbench.codecs.protocol import load_codec
from hfdbench.errors import Unavailable, UsageError

WEIGHTS = bytes(range(256)) * 40
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def site(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HFDBENCH_ACCEPT_LICENCE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache" / "hfdbench").mkdir(parents=True)
    (tmp_path / "codecs").mkdir()
    (tmp_path / "paint.py").write_text(
        textwrap.dedent("""
        class Paint:
            version = 1
            libraries = ()
            def __init__(self, weights):
                self.weights = weights[0].read_bytes()
            def encode(self, image):
                return self.weights[:4]
            def decode(self, stream, *, seed):
                return stream
        """)
    )
    with served(Site()) as running:
        yield running


def paint(site, **weights) -> CodecCard:
    """A card beside the current folder whose only weights are these."""
    weights = {"url": f"{site.address}/w.bin", "licence": "CC-BY-NC-4.0", **weights}
    table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in weights.items())
    head = 'id = "paint"\nkind = "gan"\nadapter = "paint:Paint"\n'
    Path("codecs/paint.toml").write_text(head + f'[[points]]\nid = "p"\nweights = [{{ {table} }}]\n')
    return find_cards(CodecCard)["paint"]


def test_the_licence_comes_first(site, monkeypatch, capsys):
    site.files["/w.bin"] = WEIGHTS
    card = paint(site, sha256=DIGEST, bytes=len(WEIGHTS), licence_url="https://example.org/by-nc")
    with pytest.raises(Unavailable, match=r"w\.bin is missing; hfdbench fetch paint"):
        identity(card, "p")
    with pytest.raises(UsageError, match=r"hfdbench fetch paint --accept-licence CC-BY-NC-4\.0$"):
        fetch(card, ["MIT"], patience=QUICK)
    assert "1 file of weights, 0.0 MB; licence: CC-BY-NC-4.0, https://example.org/by-nc" in capsys.readouterr().err
    assert site.asked == []
    monkeypatch.setenv("HFDBENCH_ACCEPT_LICENCE", "MIT,CC-BY-NC-4.0")
    assert str(fetch(card, patience=QUICK)) == "paint: 1 file of weights (1 new)"
    monkeypatch.delenv("HFDBENCH_ACCEPT_LICENCE")
    count = len(site.asked)
    assert str(fetch(card)) == "paint: 1 file of weights (0 new)" and len(site.asked) == count
    assert load_codec(card, "p").encode(None) == WEIGHTS[:4]
    assert identity(card, "p")["weights"] == [DIGEST]


def test_a_mirror_with_other_bytes_is_refused_by_name(site, capsys):
    site.files |= {"/w.bin": b"moved", "/other": WEIGHTS[::-1], "/good": WEIGHTS}
    card = paint(site, sha256=DIGEST, mirrors=[f"{site.address}/gone", f"{site.address}/other", f"{site.address}/good"])
    assert fetch(card, ["CC-BY-NC-4.0"], patience=QUICK).fresh == 1
    said = capsys.readouterr().err
    assert f"{site.address}/w.bin: sha256 differs (expected {DIGEST[:12]}…" in said
    assert f"{site.address}/gone: the server answered 404" in said
    assert f"{site.address}/other: sha256 differs" in said and "/good: " not in said
    assert load_codec(card, "p").encode(None) == WEIGHTS[:4]
    del site.files["/good"]
    card.points[0].weights[0].path(card).unlink()
    with pytest.raises(
        Unavailable, match=r"no address serves w\.bin: .*/w\.bin: sha256 .*/gone: .* put the file at /\S+w\.bin"
    ):
        fetch(card, ["CC-BY-NC-4.0"], patience=QUICK)


def test_without_a_hash_the_first_download_counts(site, capsys):
    site.files["/w.bin"] = WEIGHTS
    card = paint(site)
    fetch(card, ["CC-BY-NC-4.0"], patience=QUICK)
    assert f'w.bin is not pinned; its card may say sha256 = "{DIGEST}"' in capsys.readouterr().err
    assert identity(card, "p")["weights"] == [DIGEST]


@pytest.mark.parametrize(
    "weights, says",
    [
        ({"licence": ""}, '"url" needs "licence"'),
        ({"mirrors": ["http://h/f"]}, '"sha256" is missing; only a single "url" may do without'),
        ({"url": "ftp://h/f"}, r'key "points.0.weights.0.url"'),
        ({"file": "w", "sha256": DIGEST}, 'give either "file" or "url"'),
    ],
)
def test_a_card_that_cannot_be_downloaded_from(site, weights, says):
    with pytest.raises(UsageError, match=says):
        paint(site, **weights)


def test_the_command(site):
    site.files["/w.bin"] = WEIGHTS
    paint(site, sha256=DIGEST)
    done = CliRunner().invoke(app, ["fetch", "paint", "samples", "--accept-licence", "CC-BY-NC-4.0"])
    assert done.exit_code == 0 and "paint: 1 file of weights (1 new)" in done.output and "samples: " in done.output
    with pytest.raises(UsageError, match='no dataset or codec "pant"; did you mean "paint"'):
        CliRunner().invoke(app, ["fetch", "pant"], catch_exceptions=False)
    assert CliRunner().invoke(app, ["fetch", "jpeg"]).output == "jpeg: needs nothing that is downloaded\n"
