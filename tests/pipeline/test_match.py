"""Matched rates: within the tolerance of real encodes, resumable, honest about what is out of reach."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard, read_card
from hfdbench.codecs.mixed import Mixed, fraction
from hfdbench.codecs.pillow import JPEG
from hfdbench.codecs.protocol import load_codec
from hfdbench.datasets.dataset import open_dataset
from hfdbench.errors import UsageError
from hfdbench.pipeline.match import match, setting
from hfdbench.pipeline.plan import Request
from hfdbench.results import parquet, schema

IMAGES = 12


class Counting:
    """Progress that counts what was encoded."""

    def __init__(self):
        self.steps, self.settings = 0, []

    def start(self, total: int, what: str) -> None:
        self.settings.append(what)

    def advance(self, n: int = 1) -> None:
        self.steps += n

    def note(self, text: str) -> None: ...


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        coarse = random.integers(0, 255, (8, 10, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((160, 128), Image.Resampling.BICUBIC)
        noisy = np.asarray(picture) + random.normal(0, 6 + number, (128, 160, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def stored(out, pictures, wanted: dict[str, int]) -> str:
    """Points of a codec "learned" with these bytes; the dataset's spec."""
    spec = f"folder:{pictures}"
    row = {"codec": "learned", "dataset": open_dataset(spec).id, "status": "ok", "seed": 0}
    for point, total in wanted.items():
        table = pa.Table.from_pylist([row | {"point": point, "bytes": total}], schema.POINTS)
        parquet.write_table(out / "points" / f"learned-{point}.parquet", table, {})
    return spec


def request(codec: str, spec: str, out, **options) -> Request:
    return Request(tuple(choose(CodecCard, [codec])), (spec,), out=out, **options)


def spent(card: CodecCard, point: str, spec: str) -> int:
    dataset, codec = open_dataset(spec), load_codec(card, point)
    return sum(len(codec.encode(dataset.load(index))) for index in range(len(dataset.names)))


def jpeg_bytes(pictures, quality: int) -> int:
    return sum(
        len(JPEG(quality=quality).encode(np.asarray(Image.open(path)))) for path in sorted(pictures.glob("*.png"))
    )


@pytest.mark.parametrize("codec", ["jpeg", "jp2"])  # whole numbers; real ones
def test_the_card_spends_the_bytes_that_were_wanted(codec, pictures, tmp_path):
    between = (jpeg_bytes(pictures, 6) + jpeg_bytes(pictures, 7)) // 2  # no whole quality comes near
    wanted = {"q1": between, "q2": jpeg_bytes(pictures, 60)}
    spec = stored(tmp_path, pictures, wanted)
    found = match(request(codec, spec, tmp_path), "learned", Counting())
    assert found.left_out == ()
    assert any(solved.share for solved in found.solved) == (codec == "jpeg")
    card = read_card(found.card, CodecCard)
    assert card.id.startswith(f"{codec}-as-learned-folder-") and [point.id for point in card.points] == ["q1", "q2"]
    for solved in found.solved:
        total = spent(card, solved.point, spec)
        assert total / wanted[solved.point] - 1 == pytest.approx(solved.gap, abs=1e-12)
        assert abs(solved.gap) <= 0.01
        assert f"{solved.point}: {solved.says}" in card.settings


def test_a_whole_setting_that_fits_is_taken_as_it_is(pictures, tmp_path):
    spec = stored(tmp_path, pictures, {"q1": jpeg_bytes(pictures, 27)})
    found = match(request("jpeg", spec, tmp_path), "learned", Counting(), tolerance=1e-4)
    card = read_card(found.card, CodecCard)
    assert card.adapter == "hfdbench.codecs.pillow:JPEG" and card.points[0].options["quality"] == 27
    assert found.solved[0].gap == 0


def test_the_search_is_cached_and_resumes(pictures, tmp_path):
    spec = stored(tmp_path, pictures, {"q1": jpeg_bytes(pictures, 22)})
    first, again, resumed = Counting(), Counting(), Counting()
    card = match(request("jpeg", spec, tmp_path), "learned", first).card.read_bytes()
    assert first.steps == IMAGES * len(first.settings) > 3 * IMAGES
    caches = {path: path.read_bytes() for path in (tmp_path / "cache").glob("bytes-*.jsonl")}
    assert len(caches) == len(first.settings)

    match(request("jpeg", spec, tmp_path), "learned", again)
    assert again.steps == 0

    cut = next(iter(caches))  # as a run killed in the middle of a line leaves it
    cut.write_bytes(b"\n".join(caches[cut].split(b"\n")[:5]) + b"\n12")
    assert match(request("jpeg", spec, tmp_path), "learned", resumed).card.read_bytes() == card
    assert cut.read_bytes() == caches[cut] and len(resumed.settings) == 1


def test_what_is_out_of_reach_is_left_out_with_the_reason(pictures, tmp_path):
    spec = stored(tmp_path, pictures, {"low": 500, "fits": jpeg_bytes(pictures, 30)})
    found = match(request("jpeg", spec, tmp_path), "learned", Counting())
    assert [solved.point for solved in found.solved] == ["fits"]
    ((point, reason),) = found.left_out
    assert point == "low" and "500 are wanted" in reason
    with pytest.raises(UsageError, match="jpeg matches no point of learned"):
        match(request("jpeg", spec, tmp_path, points=("low",)), "learned", Counting())
    with pytest.raises(UsageError, match='no measured codec "lerned"; did you mean "learned"'):
        match(request("jpeg", spec, tmp_path), "lerned", Counting())
    with pytest.raises(UsageError, match='no measured point of learned "fit"; did you mean "fits"'):
        match(request("jpeg", spec, tmp_path, points=("fit",)), "learned", Counting())


def test_only_one_numeric_setting_of_a_classical_codec_is_solved():
    cards = {card.id: card for card in choose(CodecCard, ["jpeg", "jp2", "vvenc", "elic-mse"])}
    assert [setting(cards[name]) for name in ("jpeg", "jp2", "vvenc")] == ["quality", "bpp", "level"]
    with pytest.raises(UsageError, match="elic-mse is no classical codec"):
        setting(cards["elic-mse"])
    two = cards["jpeg"].model_dump()
    two["points"] = [{"id": "a", "options": {"quality": 5, "chroma": "4:2:0"}}, {"id": "b", "options": {"quality": 6}}]
    two["options"] = {}
    with pytest.raises(UsageError, match="points differ in chroma, quality"):
        setting(CodecCard(**two))


def test_mixed_gives_each_image_one_of_both_by_its_pixels(pictures):
    images = [np.asarray(Image.open(path)) for path in sorted(pictures.glob("*.png"))]
    low, high = JPEG(quality=10), JPEG(quality=50)
    mixed = Mixed("hfdbench.codecs.pillow:JPEG", {"quality": 10}, {"quality": 50}, share=0.5)
    took_high = [mixed.encode(image) == high.encode(image) for image in images]
    assert took_high == [fraction(image) < 0.5 for image in images]
    assert 0 < sum(took_high) < len(images)
    for image, took in zip(images, took_high, strict=True):
        stream = (high if took else low).encode(image)
        assert mixed.encode(image) == stream
        np.testing.assert_array_equal(mixed.decode(stream, seed=0), low.decode(stream, seed=0))
