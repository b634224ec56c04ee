"""The process that a codec runs in: it answers frames and knows nothing but what they say.

Conventions: a frame is two big-endian lengths (4 and 8 bytes), a JSON header and raw bytes; requests come in on standard
input, answers go out on standard output. Before the first there is a policy (one length, JSON): the process enters its
sandbox and says hello. Requests: load (blueprint, device), encode (shape; pixels), decode (seed; stream),
decode_batch (seed, lengths; streams), usage. Answers: ok, encode_s or decode_s, shape or shapes, host_peak_bytes and
device_peak_bytes; peak_bytes, touched and batched; or error (type, message). A time is that of the one call.

Memory: host_peak_bytes is the largest resident set of this process during a decoding (Python, libraries and weights included),
or that of the largest program it has run, if that was larger. Where the kernel does not let the process start that mark anew
(Landlock, macOS) it is the largest since the process began. device_peak_bytes is what torch had allocated on the GPU at most
during the call, weights included; None where torch uses none.

Watched (HFDBENCH_WATCH, the start of the watch in seconds), the process notes which files outside its folder Python writes,
and which younger than the watch it reads: how `hfdbench conform` finds side files.
"""

import json
import os
import shutil
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from hfdbench.codecs.sandbox import Policy, enter, read_first_frame

LENGTHS = struct.Struct(">IQ")
MESSAGE = 2000  # characters of an error that are passed on
LARGEST_FILE = 8 << 30  # bytes
PEAKS = ("host_peak_bytes", "device_peak_bytes")  # of an answer to decode, and of a row of images
_before = 0  # bytes of the mark of the most memory whenever it was set back
THREADS = 1  # of torch: sums in another order are other sums, so the number must not depend on cores or workers


def send(file: BinaryIO, header: dict, body: bytes | memoryview = b"") -> None:
    """Write one frame."""
    text = json.dumps(header).encode()
    file.write(LENGTHS.pack(len(text), len(body)) + text)
    file.write(body)
    file.flush()


def receive(file: BinaryIO) -> tuple[dict, bytes]:
    """Read the next frame of a process that is trusted. Raises EOFError when it is gone."""
    text_bytes, body_bytes = LENGTHS.unpack(exactly(file, LENGTHS.size))
    header = json.loads(exactly(file, text_bytes))
    return header, exactly(file, body_bytes)


def exactly(file: BinaryIO, count: int) -> bytes:
    """Read so many bytes. Raises EOFError when there are fewer."""
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """Enter the sandbox and answer requests until there are no more."""
    try:
        policy = Policy.from_json(read_first_frame(0))
    except EOFError:  # the run has ended before it sent a request
        shutil.rmtree(os.environ["HFDBENCH_WORKER"], ignore_errors=True)
        return
    enter(policy, int(sys.argv.pop()))
    # A codec that prints, or a program of its that reads standard input, must not touch the frames.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    _limit()
    send(answers, {"hello": policy.level})
    touched = _watch() if "HFDBENCH_WATCH" in os.environ else []
    codec = None
    while True:
        try:
            header, body = receive(requests)
        except EOFError:
            return
        try:
            if header["do"] == "load":
                codec = None  # free the last one first
                codec = _load(header)
                send(answers, {"ok": True})
            elif header["do"] == "usage":
                usage = {
                    "peak_bytes": max(_before, _peak_bytes()),
                    "touched": touched,
                    "batched": hasattr(codec, "decode_batch"),
                }
                send(answers, usage)
            else:
                send(answers, *_call(codec, header, body))
        except (KeyboardInterrupt, BrokenPipeError):
            return
        except BaseException as error:  # SystemExit too: a codec's failure is an answer
            send(answers, {"error": str(error)[:MESSAGE] or "no message", "type": type(error).__name__[:100]})


def _limit() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


def _watch() -> list[str]:
    """Begin to note files; the list of "writes PATH" and "reads PATH" that grows from now on."""
    began, own, touched = float(os.environ["HFDBENCH_WATCH"]), os.environ["HFDBENCH_WORKER"], []
    harmless = (own, "/dev/null", "/dev/tty", "/dev/nvidia", "/proc/")
    places = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "sqlite3.connect": 0}

    def note(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        elif event in places:
            path, writes = arguments[places[event]], True
        else:
            return
        if not isinstance(path, str | bytes):
            return  # an open file
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith(harmless) or "__pycache__" in path:
            return
        with suppress(OSError):
            if writes or (os.path.isfile(path) and os.stat(path).st_ctime > began):
                noted = f"{'writes' if writes else 'reads'} {path}"
                if noted not in touched:
                    touched.append(noted)

    sys.addaudithook(note)
    return touched


def _peak_bytes() -> int:
    """Largest resident set so far, of this process or of a program it ran."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10
    except (OSError, StopIteration):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
    return max(own, peak)


def _load(header: dict) -> Any:
    from hfdbench.codecs.protocol import Blueprint, build

    codec = build(Blueprint.from_json(header["blueprint"]), header["device"])
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(THREADS)
    return codec


def _call(codec: Any, header: dict, body: bytes) -> tuple[dict, bytes | memoryview]:
    import numpy as np

    if header["do"] == "encode":
        image = np.frombuffer(body, np.uint8).reshape(header["shape"]).copy()  # the codec's own, writable
        start = time.perf_counter()
        stream = codec.encode(image)
        encode_s = time.perf_counter() - start
        if not isinstance(stream, bytes | bytearray):
            raise TypeError(f"encode returned {type(stream).__name__}, not bytes")
        return {"ok": True, "encode_s": encode_s}, bytes(stream)
    _forget_peaks()
    if header["do"] == "decode_batch":
        streams = np.split(np.frombuffer(body, np.uint8), np.cumsum(header["lengths"])[:-1])
        given = [stream.tobytes() for stream in streams]
        start = time.perf_counter()
        images = list(codec.decode_batch(given, seed=header["seed"]))
        decode_s = time.perf_counter() - start
        answer = {"shapes": [image.shape for image in images]}
        pixels = b"".join(_pixels(image) for image in images)
    else:
        start = time.perf_counter()
        image = codec.decode(body, seed=header["seed"])
        decode_s = time.perf_counter() - start
        pixels = _pixels(image)
        answer = {"shape": image.shape}
    peaks = dict(zip(PEAKS, (_peak_bytes(), _device_peak_bytes()), strict=True))
    return {"ok": True, "decode_s": decode_s, **answer, **peaks}, pixels


def _gpu() -> Any:
    """torch.cuda where this process uses it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None


def _device_peak_bytes() -> int | None:
    gpu = _gpu()
    return max(map(gpu.max_memory_allocated, range(gpu.device_count()))) if gpu else None


def _forget_peaks() -> None:
    """Let the marks of the most memory start from what is in use now."""
    global _before
    _before = max(_before, _peak_bytes())
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
    if gpu := _gpu():
        for device in range(gpu.device_count()):
            gpu.reset_peak_memory_stats(device)


def _pixels(image: Any) -> memoryview:
    """The samples of what decode returned. Raises TypeError when that is no image."""
    import numpy as np

    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"decode returned {what}, not uint8 H x W x 3")
    return np.ascontiguousarray(image).data.cast("B")


if __name__ == "__main__":
    main()
