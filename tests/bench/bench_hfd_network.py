"""One evaluation of HFD's network against diffusers' UNet2DModel of equal multiply-adds, and what decoding costs beside it.

    pip install diffusers           # else the first part is left out
    python tests/bench/bench_hfd_network.py [--rounds 5]

Goals: at least 1.3 times as fast; a whole decode of a Kodak picture at most 1.1 times its network evaluations.

Conventions: one thread, float32, no gradients, CPU seconds of the process (other programs do not count), medians of interleaved
repeats. UNet2DModel is built without attention, its widths searched until its multiply-adds are ours within 5 %, in two ways: on
pixels, as it is used, and behind our 2x2 space-to-depth, which leaves the arithmetic inside the blocks to compare. The layout of
its memory is whichever is faster. The second part takes HFDBENCH_DATA. Exit code 1 when a goal is missed, 2 when a part could not
be run.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

import torch
import turns
from torch import nn

FASTER, WHOLE = 1.3, 1.1
SIDE = 288  # of the tile, pixels


def multiply_adds(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Of convolutions and linear layers, counted while it runs."""
    total = 0

    def count(layer, _, out):
        nonlocal total
        total += out.numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    return total


def unet2d(channels: int, outputs: int, widths: tuple[int, ...], layers: int) -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        in_channels=channels,
        out_channels=outputs,
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        add_attention=False,
        norm_num_groups=4,
    ).eval()


def matched(channels: int, outputs: int, side: int, wanted: int) -> tuple[nn.Module, tuple[int, ...], int]:
    """The UNet2DModel of three levels whose multiply-adds come nearest, widths growing about as ours do; they, too."""
    best = None
    for layers, c, (second, third) in itertools.product((1, 2), range(8, 81, 4), ((1.5, 3), (2, 3), (2, 4), (3, 4))):
        widths = (c, int(c * second) // 4 * 4, int(c * third))
        with torch.device("meta"):
            model = unet2d(channels, outputs, widths, layers)
            found = multiply_adds(model, torch.empty(1, channels, side, side), torch.empty(1))
        if best is None or abs(found - wanted) < abs(best[2] - wanted):
            best = (layers, widths, found)
    layers, widths, found = best
    return unet2d(channels, outputs, widths, layers), widths, found


def network(rounds: int) -> bool | None:
    """Part one."""
    try:
        import diffusers
    except ImportError:
        print("diffusers is not installed; pip install diffusers")
        return None
    ours = decoder().network
    noisy, below = (x.contiguous(memory_format=torch.channels_last) for x in torch.rand(2, 1, 3, SIDE, SIDE))
    level, rate = torch.tensor([0.5]), torch.tensor([0])
    wanted = multiply_adds(ours, noisy, below, level, rate)
    print(
        f"one tile of {SIDE} x {SIDE}; ours: {wanted / SIDE**2:,.0f} multiply-adds a pixel; diffusers {diffusers.__version__}"
    )
    good = True
    for name, factor in (("on pixels", 1), ("behind space-to-depth", 2)):
        x = nn.functional.pixel_unshuffle(torch.cat([noisy, below], 1), factor)
        theirs, widths, found = matched(x.shape[1], 3 * factor**2, SIDE // factor, wanted)
        if abs(found / wanted - 1) > 0.05:
            raise SystemExit(f"no UNet2DModel {name} within 5 %: {found / wanted:.3f}")
        last = x.contiguous(memory_format=torch.channels_last)
        also = unet2d(x.shape[1], 3 * factor**2, widths, theirs.config.layers_per_block)
        also.to(memory_format=torch.channels_last)
        runs = turns.calls(
            {
                "ours": lambda: ours(noisy, below, level, rate),
                "planar": lambda theirs=theirs, x=x: theirs(x, 10),
                "channels last": lambda also=also, last=last: also(last, 10),
            },
            rounds,
        )
        layout = min(("planar", "channels last"), key=lambda key: sum(runs[key].cpu_s))
        ratio, text = turns.ratio(runs[layout], runs["ours"])
        good &= ratio >= FASTER
        print(
            f"UNet2DModel {name}, widths {widths}, {found / wanted:.3f} of the multiply-adds, {layout}: {runs[layout]}; "
            f"ours {runs['ours']}: ratio {text}, goal {FASTER}",
            flush=True,
        )
    return good


def decoder() -> nn.Module:
    from hfdbench.hfd.weights import read_decoder

    model = read_decoder(card().source.parent / card().points[0].weights[1].file).module
    return model.to(memory_format=torch.channels_last)


def card():
    from hfdbench.cards.find import choose
    from hfdbench.cards.schema import CodecCard

    return choose(CodecCard, ["hfd"])[0]


def whole(rounds: int) -> bool | None:
    """Part two: a decode of kodim01 and its network evaluations, on the same windows."""
    if "HFDBENCH_DATA" not in os.environ:
        print("HFDBENCH_DATA names no folder: no Kodak picture to decode")
        return None
    from hfdbench.codecs.protocol import load_codec
    from hfdbench.datasets.dataset import open_dataset
    from hfdbench.hfd import coding
    from hfdbench.hfd.decoder import Sampling
    from hfdbench.hfd.tiling import groups

    codec = load_codec(card(), "q2")
    image = open_dataset("kodak", data_root=Path(os.environ["HFDBENCH_DATA"])).load(0)
    stream = codec.encode(image)
    payload = codec._unpack(stream).payload
    how: Sampling = codec._sampling
    shapes = [w.known.shape for group in groups(*image.shape[:2], how.tile, how.overlap, how.order) for w in group]
    inputs = [
        tuple(x.contiguous(memory_format=torch.channels_last) for x in torch.rand(2, 1, 3, *shape)) for shape in shapes
    ]

    def evaluations() -> None:
        for noisy, below in inputs:
            codec._decoder.network(noisy, below, torch.tensor([0.5]), torch.tensor([1]))

    def every() -> None:
        for _ in range(how.evaluations):
            evaluations()

    runs = turns.calls(
        {
            "evaluations": every,
            "decode": lambda: codec.decode(stream, seed=0),
            "stage 1": lambda: coding.decode(payload, *image.shape[:2], codec._rate, codec._transforms, codec._coder),
        },
        rounds,
    )
    ratio, text = turns.ratio(runs["decode"], runs["evaluations"])
    share, _ = turns.ratio(runs["stage 1"], runs["evaluations"])
    print(
        f"decode of kodim01: {runs['decode']}; its {how.evaluations} evaluations: {runs['evaluations']}; "
        f"ratio {text}, goal {WHOLE}; stage 1 alone: {share:.3f} of the evaluations"
    )
    return ratio <= WHOLE


@torch.inference_mode()
def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    options = options.parse_args()
    torch.set_num_threads(1)
    print(turns.machine())
    results = [part(options.rounds) for part in (network, whole)]
    return 2 if None in results else int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
