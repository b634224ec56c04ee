"""The process that a codec runs in: it answers frames and knows nothing but what they say.

Conventions: a frame is two big-endian lengths (4 and 8 bytes), a JSON header and raw bytes; requests come in on standard
input, answers go out on standard output. Requests: load (card, source, point, device, threads), encode (shape; pixels),
decode (seed; stream). Answers: ok, encode_s or decode_s, shape; or error (type, message). A time is that of the one call.
"""

import json
import os
import shutil
import signal
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

LENGTHS = struct.Struct(">IQ")


def send(file: BinaryIO, header: dict, body: bytes | memoryview = b"") -> None:
    text = json.dumps(header).encode()
    file.write(LENGTHS.pack(len(text), len(body)) + text)
    file.write(body)
    file.flush()


def receive(file: BinaryIO) -> tuple[dict, bytes]:
    """The next frame. Raises EOFError when the other side is gone."""
    text_bytes, body_bytes = LENGTHS.unpack(_exactly(file, LENGTHS.size))
    header = json.loads(_exactly(file, text_bytes))
    return header, _exactly(file, body_bytes)


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    # A codec that prints, or a program of its that reads standard input, must not touch the frames.
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    codec = None
    while True:
        try:
            header, body = receive(requests)
        except EOFError:  # the run was killed: one that ends in peace kills its workers
            _leave()
        try:
            if header["do"] == "load":
                codec = None  # free the last one first
                codec = _load(header)
                send(answers, {"ok": True})
            else:
                send(answers, *_call(codec, header, body))
        except (KeyboardInterrupt, BrokenPipeError):
            _leave()
        except BaseException as error:  # SystemExit too: a codec's failure is an answer
            send(answers, {"error": str(error) or "no message", "type": type(error).__name__})


def _die_with(parent: int) -> None:
    """Notice, in the middle of a long call too, that the run was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    _leave()


def _leave() -> NoReturn:
    """Leave nothing behind: neither this process, nor its programs, nor its folder."""
    os.chdir("/")
    if own := os.environ.get("HFDBENCH_WORKER"):
        shutil.rmtree(own, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _load(header: dict) -> Any:
    from ..cards import CodecCard
    from ..codec import load_codec

    card = CodecCard(**header["card"], source=Path(header["source"]))
    codec = load_codec(card, header["point"], header["device"])
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(header["threads"])
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
    start = time.perf_counter()
    image = codec.decode(body, seed=header["seed"])
    decode_s = time.perf_counter() - start
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"decode returned {what}, not uint8 H x W x 3")
    return {"ok": True, "decode_s": decode_s, "shape": image.shape}, np.ascontiguousarray(image).data.cast("B")


if __name__ == "__main__":
    main()
