"""Small real codecs: one that works, and ones that fail in each way a codec can."""

import ctypes
import io
import json
import os
import socket
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from hfdbench.errors import StreamError, Unavailable


class Quantiser:
    """Samples rounded to multiples of `step`, deflated. Talks on standard output, as codecs do."""

    def __init__(self, step: int = 16, pause_s: float = 0.0):
        self._step, self._pause_s = step, pause_s
        print("ready")

    def encode(self, image: np.ndarray) -> bytes:
        print("encoding")
        os.system("cat; echo from a program")  # reads standard input to its end, writes to standard output
        time.sleep(self._pause_s)
        height, width, _ = image.shape
        return height.to_bytes(2, "big") + width.to_bytes(2, "big") + zlib.compress((image // self._step).tobytes())

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        print("decoding")
        time.sleep(self._pause_s)
        height, width = int.from_bytes(stream[:2], "big"), int.from_bytes(stream[2:4], "big")
        levels = np.frombuffer(zlib.decompress(stream[4:]), np.uint8).reshape(height, width, 3)
        return (levels.astype(int) * self._step + self._step // 2).clip(0, 255).astype(np.uint8)


class Grey:
    """Another decoder of Quantiser's streams."""

    def __init__(self, step: int = 16):
        self._inner = Quantiser(step)

    def encode(self, image: np.ndarray) -> bytes:
        raise RuntimeError("never encodes")

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        image = self._inner.decode(stream, seed=seed)
        return image.mean(axis=2, keepdims=True).round().astype(np.uint8).repeat(3, 2)


class Grainy(Quantiser):
    """Adds noise, by the seed or, as no codec may, by chance to images whose first sample is 0."""

    def __init__(self, by: str = "seed"):
        super().__init__(16)
        self._by = by

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        image = super().decode(stream, seed=seed)
        if self._by == "chance":
            seed = int.from_bytes(os.urandom(4), "big") if image[0, 0, 0] == 8 else 0
        noise = np.random.default_rng(seed).integers(-9, 10, image.shape)
        return (image + noise).clip(0, 255).astype(np.uint8)


class Faulty(Quantiser):
    """Fails in the way and at the stage named for images whose first sample is 0."""

    def __init__(self, fault: str, stage: str):
        super().__init__(16)
        self._fault, self._stage = fault, stage

    def encode(self, image: np.ndarray) -> bytes:
        made = self._fail() if self._stage == "encode" and image[0, 0, 0] == 0 else None
        return super().encode(image) if made is None else made

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        image = super().decode(stream, seed=seed)
        made = self._fail() if self._stage == "decode" and image[0, 0, 0] == 8 else None
        return image if made is None else made

    def _fail(self):
        if os.environ.get("HFDBENCH_TEST_CALM"):  # the cause has passed
            return None
        if self._fault == "raise":
            raise StreamError("foreign stream")
        if self._fault == "segfault":
            print("last words", flush=True)
            ctypes.string_at(0)
        if self._fault == "exit":
            os._exit(3)
        if self._fault == "sys.exit":
            sys.exit("gave up")
        if self._fault == "hang":
            time.sleep(1000)
        if self._fault == "type":
            return "text"
        if self._fault == "shape":
            return np.zeros((5, 7, 3), np.uint8)
        raise AssertionError(self._fault)


class Batched(Faulty):
    """Decodes several streams at once, after a pause; one that decode refuses spoils them all."""

    batch = 4

    def __init__(self, pause_s: float = 0.0):
        super().__init__("raise", "decode")
        self._before_s = pause_s

    def decode_batch(self, streams: list[bytes], *, seed: int) -> list[np.ndarray]:
        time.sleep(self._before_s)
        return [self.decode(stream, seed=seed) for stream in streams if stream != b"lost"]


class Absent:
    """Needs what nobody has."""

    def __init__(self, program: str):
        raise Unavailable(f"no program {program}", f"install {program}")

    encode = decode = None


class Smuggler:
    """Hides the original in every folder it may call its own and sends the places; tells what decode can find."""

    def encode(self, image: np.ndarray) -> bytes:
        places = []
        for folder in (Path.cwd(), Path(tempfile.gettempdir())):
            (folder / "original.npy").write_bytes(image.tobytes())
            places.append(str(folder / "original.npy"))
        type(self).original = image
        return json.dumps({"places": places, "folder": os.environ["HFDBENCH_WORKER"]}).encode()

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        sent = json.loads(stream)
        found = {
            "original": hasattr(type(self), "original") or any(Path(place).exists() for place in sent["places"]),
            "encoder": any(sent["folder"] in text for text in _environments()),
            "here": os.listdir() + os.listdir(tempfile.gettempdir()),
            "environment": [name for name, value in os.environ.items() if "secret-pictures" in f"{name} {value}"],
            "data": "HFDBENCH_DATA" in os.environ,
            "arguments": sys.argv[1:],
        }
        raise ValueError("found " + json.dumps(found))


def _entries(folder: str) -> list[str]:
    """Names in a folder; none where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _environments() -> list[str]:
    """Environments of all processes that can be seen."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return found


class PNG:
    """Lossless; its streams are PNG files."""

    def encode(self, image: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(stream)))


class Daemons(Quantiser):
    """Leaves a process that has a session of its own and no parent."""

    def encode(self, image: np.ndarray) -> bytes:
        os.system("(setsid sleep 1000 &) ; setsid sh -c '(sleep 1000 &) ; exit' &")
        return super().encode(image)


class Hungry(Quantiser):
    """Takes memory bit by bit, without end."""

    def encode(self, image: np.ndarray) -> bytes:
        held = []
        while True:
            held.append(np.ones(1 << 23, np.uint8))
            time.sleep(0.02)


class Huge(Quantiser):
    """Answers with more than there can be."""

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if stream == b"message":
            raise ValueError("\x1b[31m" + "long " * 10**7)
        return np.zeros((3000, 3000, 3), np.uint8)


def _writable(*folders: str) -> list[str]:
    found = []
    for folder in folders:
        for path in Path(folder).rglob("*"):
            with suppress(OSError):
                if path.is_file():
                    os.close(os.open(path, os.O_WRONLY))
                    found.append(str(path))
    return found


def _opens(family: int) -> bool:
    """Whether there are sockets of a family."""
    with suppress(OSError):
        socket.socket(family).close()
        return True
    return False


class Prisoner:
    """Tries to get out of its sandbox; its stream says how far it came. `hidden`: a file in an installed package."""

    def __init__(self, hidden: str, secret: str):
        self._hidden, self._secret = hidden, secret

    def encode(self, image: np.ndarray) -> bytes:
        import numpy

        libc = ctypes.CDLL(None)
        hidden, package = os.fsencode(self._hidden), Path(numpy.__file__).parent
        found = {"hidden": self._bytes(), "secret": bool(_entries(self._secret)), "home": os.listdir(Path.home())}
        found["root"], found["processes"] = _entries("/"), sum(entry.isdigit() for entry in _entries("/proc"))
        found["own"] = (Path.cwd() / "file").write_text("mine") + (Path(tempfile.gettempdir()) / "f").write_text("too")
        with suppress(OSError):
            (package / "escaped").write_text("x")
        found["writes"] = (package / "escaped").exists()
        libc.umount2(hidden, 2)
        found["after umount"] = self._bytes()
        libc.unshare(0x10000000 | 0x00020000)  # another user namespace, with all capabilities in it
        libc.umount2(hidden, 2)
        found["after unshare"] = self._bytes()
        self._leave_marks(libc)
        found["settings"] = _writable("/proc/sys/kernel", "/proc/sys/fs", "/proc/sys/vm", "/proc/irq", "/proc/pressure")
        found["null"] = Path("/dev/null").write_bytes(b"1234")
        found["vsock"] = _opens(40)
        return json.dumps(found).encode()

    def _leave_marks(self, libc: ctypes.CDLL) -> None:
        """In what the kernel keeps of files, for a decoder to find."""
        import fcntl

        for path in (__file__, "/dev/null", "/dev/zero"):
            for mark in (
                lambda path: os.utime(path, ns=(1, 1)),
                lambda path: os.chmod(path, 0o600),
                lambda path: os.setxattr(path, "user.mark", b"mark"),
                lambda path: os.chown(path, os.getuid(), os.getgid() + 1),
            ):
                with suppress(OSError):
                    mark(path)
        with suppress(OSError):  # FS_IOC_SETVERSION
            fcntl.ioctl(os.open(__file__, os.O_RDONLY), 0x40087602, (4711).to_bytes(8, "little"))

    def _bytes(self) -> int:
        try:
            return len(Path(self._hidden).read_bytes())
        except OSError:
            return 0

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        raise StreamError("only encodes")


class Downloader(Quantiser):
    """Asks the network while it encodes."""

    def encode(self, image: np.ndarray) -> bytes:
        with socket.socket() as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", 9))
        return b""


class Fetcher:
    """Needs weights in torch's cache; where they are not it makes them, as if it had a network."""

    def __init__(self):
        file = Path(os.environ["TORCH_HOME"]) / "weights"
        if not file.exists():
            file.write_bytes(b"downloaded")
        self._weights = file.read_bytes()

    def encode(self, image: np.ndarray) -> bytes:
        return self._weights
