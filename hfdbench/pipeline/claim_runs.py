"""What is to be measured before the claims of HFD's paper can be tried."""

from typing import Any

from hfdbench.analysis.claims import DECODERS, POINT, variants
from hfdbench.cards.find import find_cards
from hfdbench.cards.schema import CodecCard
from hfdbench.metrics.image.measure import NONE
from hfdbench.pipeline.plan import Request


def requests(dataset: str, limit: int | None, **common: Any) -> list[Request]:
    """The decoders on the whole dataset, the variants on its first images.

    Parameters
    ----------
    dataset : str
        Id of the dataset.
    limit : int or None
        How many images the variants are measured on; None: all.
    **common
        Further fields of every `Request`.
    """
    cards = find_cards(CodecCard, common.get("cards", ()))
    common = {"metrics": (NONE,)} | common  # no claim is about LPIPS
    main = Request(codecs=tuple(cards[name] for name in DECODERS), datasets=(dataset,), **common)
    few = (cards["elic-mse"], cards["hfd"], cards["hfd-plus"], *variants(cards))
    return [main, Request(codecs=few, datasets=(dataset,), points=(POINT,), limit=limit, **common)]
