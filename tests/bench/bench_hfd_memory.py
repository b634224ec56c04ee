"""Peak memory of coding does not grow with the picture: 12 and 24 megapixels within 10 %, the pictures themselves aside.

A picture of 2 megapixels is printed, too, not judged: no window of stage 1 reaches its full 1280 pixels there, so it takes less.

Conventions: peak resident memory of a fresh process that encodes and decodes one synthetic picture with hfd at q2, one step of its
sampler (more steps take longer, not more memory). The pictures themselves are the original and the decoded one, 3 bytes a
pixel each. Run it: python tests/bench/bench_hfd_memory.py. Exit 1 over the limit.
"""

import subprocess
import sys

LIMIT = 1.10
SIZES = ((1152, 1728), (3000, 4000), (4000, 6000))

RUN = """
import resource, sys
import numpy as np, torch
from PIL import Image
from hfdbench.adapters.hfd import HFD
from hfdbench.cards import CodecCard, choose
height, width = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
(card,) = choose(CodecCard, ["hfd"])
point = card.point("q2")
files = [card.source.parent / entry.file for entry in point.weights]
codec = HFD(files, point.options["rate"], point.options["sampling"] | {"steps": 1})
coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
stream = codec.encode(image)
encoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
codec.decode(stream, seed=0)
print(encoded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    beside = []
    for height, width in SIZES:
        arguments = [sys.executable, "-W", "ignore", "-c", RUN, str(height), str(width)]
        encoded, peak = map(int, subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split())
        pictures = 6 * height * width
        beside.append(1024 * peak - pictures)
        print(
            f"{height * width / 1e6:.1f} megapixels: peak {encoded / 1024:.0f} MiB after encoding, {peak / 1024:.0f} MiB "
            f"after decoding; {pictures / 2**20:.0f} MiB of it the pictures",
            flush=True,
        )
    ratio = beside[2] / beside[1]
    print(f"memory: 12 over 2 megapixels {beside[1] / beside[0]:.3f}; 24 over 12 {ratio:.3f}, limit {LIMIT:.2f}")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
