"""Peak memory of coding does not grow with the picture: 2, 12 and 24 megapixels within 10 %, the pictures themselves aside.

Conventions: peak resident memory of a fresh process that encodes and decodes one synthetic picture with hfd at q2, one step of its
sampler (more steps take longer, not more memory). The pictures themselves are the original and the decoded one, 3 bytes a
pixel each. Freed memory is given back at once (glibc), so that the peak is of what is in use and not of the allocator's habits.
Run it: python tests/bench/bench_hfd_memory.py. Exit 1 over the limit.
"""

import os
import subprocess
import sys

LIMIT = 1.10
SIZES = ((1152, 1728), (3000, 4000), (4000, 6000))

RUN = """
import resource, sys
import numpy as np, torch
from hfdbench.codecs.hfd import HFD
from hfdbench.cards.find import choose
from hfdbench.cards.schema import CodecCard
height, width = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
(card,) = choose(CodecCard, ["hfd"])
point = card.point("q2")
files = [card.source.parent / entry.file for entry in point.weights]
codec = HFD(files, point.options["rate"], point.options["sampling"] | {"steps": 1})
coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
image = coarse.repeat(16, 0).repeat(16, 1)[:height, :width].copy()
stream = codec.encode(image)
encoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
codec.decode(stream, seed=0)
print(encoded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    beside = []
    for height, width in SIZES:
        arguments = [sys.executable, "-W", "ignore", "-c", RUN, str(height), str(width)]
        given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
        done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=given_back)
        encoded, peak = map(int, done.stdout.split())
        pictures = 6 * height * width
        beside.append(1024 * peak - pictures)
        print(
            f"{height * width / 1e6:.1f} megapixels: peak {encoded / 1024:.0f} MiB after encoding, {peak / 1024:.0f} MiB "
            f"after decoding; {pictures / 2**20:.0f} MiB of it the pictures",
            flush=True,
        )
    ratios = [more / beside[0] for more in beside[1:]]
    print(f"memory: 12 over 2 megapixels {ratios[0]:.3f}, 24 over 2 {ratios[1]:.3f}, limit {LIMIT:.2f}")
    return int(max(ratios) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
