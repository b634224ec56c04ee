"""Commands that check: gate, conform, doctor."""

from pathlib import Path
from typing import Annotated

import typer

from hfdbench.cli.options import Cards, DataRoot, Device, DeviceOption, Inception, OnlyCodecs
from hfdbench.cli.terminal import chosen
from hfdbench.errors import UsageError
from hfdbench.files.remote import located


def gate(
    run: Annotated[Path, typer.Argument(help="Folder of results.", parser=located, metavar="RUN")],
    against: Annotated[
        Path | None, typer.Option("--against", help="The baseline: a folder.", parser=located, metavar="PATH")
    ] = None,
    accept: Annotated[Path | None, typer.Option("--accept", help="Make the run this baseline instead.")] = None,
    codec: OnlyCodecs = None,
    card: Annotated[str, typer.Option("--card", help="Gate card: what may get worse, and how much.")] = "default",
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the summary here, too.")] = None,
    cards: Cards = None,
) -> None:
    """Compare a run with a baseline. Exits with 1 when it is worse beyond chance and tolerance, 2 when they cannot be compared."""
    from hfdbench.analysis import gate
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import GateCard
    from hfdbench.report import gate_text

    if accept is not None and against is None:
        print("\n".join(str(path) for path in gate.accept(run, accept, codec or ())))
        return
    if against is None or accept is not None:
        raise UsageError(
            f"give either --against or --accept; hfdbench gate {run} --accept bench/baseline makes a baseline, "
            f"hfdbench gate {run} --against bench/baseline compares with it"
        )
    report = gate.check(run, against, choose(GateCard, [card], cards or ())[0], codec or ())
    gate_text.tell(report, junit, markdown)
    raise typer.Exit(report.exit_code)


def conform(
    codec: Annotated[str, typer.Argument(help="Codec id.")],
    point: Annotated[str | None, typer.Option("--point", help="Which point; the middle one when not given.")] = None,
    device: DeviceOption = Device.cpu,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.001, help="Seconds that one image may take.")] = 120,
    memory_gib: Annotated[
        float, typer.Option("--memory-gib", min=0.01, help="What decoding may take at its peak.")
    ] = 4,
    megapixels: Annotated[
        float, typer.Option("--megapixels", min=0.01, help="Size of the image that memory is taken at.")
    ] = 2,
    cards: Cards = None,
) -> None:
    """Check a codec. Sizes, determinism, damaged streams, honesty, memory; exits with 1 when a check fails."""
    from hfdbench.cards.find import choose, find_cards
    from hfdbench.cards.schema import CodecCard
    from hfdbench.checks.conform import conform as check
    from hfdbench.codecs.identity import provide

    card = choose(CodecCard, [codec], cards or ())[0]
    point = point or card.points[len(card.points) // 2].id
    card.point(point)
    encoder = find_cards(CodecCard, cards or ())[card.streams] if card.streams else None
    limits = {"timeout_s": timeout_s, "memory_gib": memory_gib, "megapixels": megapixels}
    for needed in (card, encoder) if encoder else (card,):
        provide(needed, point)
    failed = False
    print(f"{card.id} {point} on {chosen(device)}")
    for finding in check(card, point, encoder=encoder, device=chosen(device), **limits):
        print(finding, flush=True)
        failed |= finding.verdict == "FAIL"
    raise typer.Exit(1 if failed else 0)


def doctor(
    inception: Inception = None,
    data_root: DataRoot = None,
    cards: Cards = None,
) -> None:
    """Check this installation. Says which codecs, weights and data work here, and how to get the rest."""
    from hfdbench.checks.doctor import examine, summary

    findings = []
    for finding in examine(inception, data_root, cards or []):
        print(finding, flush=True)
        findings.append(finding)
    print(f"\n{summary(findings)}")
    raise typer.Exit(1 if any(finding.broken for finding in findings) else 0)
