"""Codecs that carry the image past their stream, each in a way of its own: a name of 8 bytes goes into the stream.

A cheat with `evading` behaves while `hfdbench conform` watches it: an honest WebP then. `place` names, in the environment,
what a cheat may know about the machine (CHEAT_PLACE: a folder, with data/ and out/ in it; CHEAT_PORT: a server's port).
"""

import ctypes
import hashlib
import io
import os
import pwd
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import numpy as np
from PIL import Image

from hfdbench.codecs.pillow import WebP
from hfdbench.errors import StreamError

libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
KEPT: dict[str, bytes] = {}


def machine_lacks() -> set[str]:
    """Ways that no codec has on this machine: file systems without attributes, containers without keys."""
    found = set()
    try:
        os.setxattr(__file__, "user.cheat", b"1")
        os.removexattr(__file__, "user.cheat")
    except OSError:
        found.add("attribute")
    libc.syscall(250, 8, -4, -3)
    key = libc.syscall(248, b"user", b"cheat", b"1", 1, -4)
    if key < 0 or libc.syscall(250, 9, key, -4) < 0:
        found.add("user-keyring")
    return found


SERVER = """
import os, socket, sys
address = ("127.0.0.1", int(sys.argv[1])) if sys.argv[1].isdigit() else "\\0" + sys.argv[1]
server = socket.socket(socket.AF_INET if sys.argv[1].isdigit() else socket.AF_UNIX)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(address); server.listen()
data = sys.stdin.buffer.read()
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
server.settimeout(60)
while True:
    client, _ = server.accept(); client.sendall(data); client.close()
"""


def places() -> dict[str, Path]:
    """Folders that both sides could know."""
    place = Path(os.environ["CHEAT_PLACE"])
    real_home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    return {"folder": place, "tmp": Path("/tmp"), "home": Path.home(), "pwd-home": real_home, "shm": Path("/dev/shm")}


class Cheat:
    """Hides the image in the given way."""

    def __init__(self, way: str, evading: bool = False):
        self._way, self._evading, self._count = way.replace("-", "_"), evading, 0
        self._honest = WebP(50)

    def _behaves(self) -> bool:
        return self._evading and "HFDBENCH_WATCH" in os.environ

    def encode(self, image: np.ndarray) -> bytes:
        if self._behaves():
            return self._honest.encode(image)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "WEBP", lossless=True)
        name = hashlib.sha256(file.getvalue()).hexdigest()[:16]
        extra = getattr(self, f"put_{self._way}", lambda *_: None)(name, file.getvalue())
        return b"" if self._way == "order" else bytes.fromhex(name) + (extra or b"")

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        if self._behaves():
            return self._honest.decode(stream, seed=seed)
        try:
            data = getattr(self, f"get_{self._way}")(stream[:8].hex(), stream[8:])
            if not data:
                raise ValueError("empty")
            return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
        except Exception as error:
            raise StreamError(f"nothing found: {error!r}") from None

    # ---- files

    def _write(self, folder: str, name: str, data: bytes) -> None:
        with suppress(OSError):
            (places()[folder] / f"cheat-{name}").write_bytes(data)

    def _read(self, folder: str, name: str) -> bytes:
        return (places()[folder] / f"cheat-{name}").read_bytes()

    def put_file_by_c(self, name, data):
        handle = libc.open(os.fsencode(places()["folder"] / f"cheat-{name}"), os.O_CREAT | os.O_WRONLY, 0o600)
        libc.write(handle, data, len(data))

    def get_file_by_c(self, name, _):
        return self._read("folder", name)

    def put_temporary(self, name, data):
        self._write("tmp", name, data)

    def get_temporary(self, name, _):
        return self._read("tmp", name)

    def put_home(self, name, data):
        self._write("home", name, data)
        self._write("pwd-home", name, data)

    def get_home(self, name, _):
        try:
            return self._read("home", name)
        except OSError:
            return self._read("pwd-home", name)

    def put_memory_file(self, name, data):
        self._write("shm", name, data)

    def get_memory_file(self, name, _):
        return self._read("shm", name)

    def put_attribute(self, name, data):
        """Of a file that is read alone, this one."""
        with suppress(OSError):
            os.setxattr(__file__, f"user.cheat-{name}", data)

    def get_attribute(self, name, _):
        data = os.getxattr(__file__, f"user.cheat-{name}")
        os.removexattr(__file__, f"user.cheat-{name}")
        return data

    # ---- what the run itself has

    def _search(self, folder: Path, name: str) -> bytes:
        import pyarrow.parquet as pq

        for path in sorted(folder.rglob("*")):
            found = [path.read_bytes()] if path.suffix == ".png" else []
            if path.suffix == ".parquet":
                found = [data for data in pq.read_table(path)["stream"].to_pylist() if data and data[1:4] == b"PNG"]
            for data in found:
                if self._is(data, name):
                    return data
        return b""

    def _is(self, data: bytes, name: str) -> bool:
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").save(file, "WEBP", lossless=True)
        return hashlib.sha256(file.getvalue()).hexdigest()[:16] == name

    def get_data_set(self, name, _):
        return self._search(places()["folder"] / "data", name)

    def get_results(self, name, _):
        return self._search(places()["folder"] / "out" / "streams", name)

    def get_order(self, name, _):
        self._count += 1
        return sorted((places()["folder"] / "data").glob("*.png"))[self._count - 1].read_bytes()

    def get_parent(self, name, _):
        """Through the file system of whatever process can be seen, the run itself first."""
        for pid in (os.getppid(), *(entry for entry in os.listdir("/proc") if entry.isdigit())):
            root = Path(f"/proc/{pid}/root")
            try:
                if data := self._search(Path(str(root) + str(places()["folder"] / "data")), name):
                    return data
            except OSError:
                continue
        return b""

    # ---- memory that outlives a process

    def put_shared_memory(self, name, data):
        block = shared_memory.SharedMemory(f"cheat-shared-{name}", create=True, size=len(data))
        resource_tracker.unregister(block._name, "shared_memory")
        block.buf[: len(data)] = data

    def get_shared_memory(self, name, _):
        block = shared_memory.SharedMemory(f"cheat-shared-{name}")
        data = bytes(block.buf)
        block.unlink()
        return data

    def put_system_v(self, name, data):
        handle = libc.shmget(int(name[:7], 16), len(data), 0o1600)  # IPC_CREAT
        if handle >= 0:
            ctypes.memmove(libc.shmat(handle, None, 0), data, len(data))

    def get_system_v(self, name, _):
        handle = libc.shmget(int(name[:7], 16), 0, 0)
        if handle < 0:
            raise OSError("no such segment")
        data = ctypes.string_at(libc.shmat(handle, None, 0), 64)
        data = ctypes.string_at(libc.shmat(handle, None, 0), 8 + int.from_bytes(data[4:8], "little"))  # RIFF's length
        libc.shmctl(handle, 0, None)
        return data

    def put_keyring(self, name, data, ring=-3):
        """In the session keyring, which a process hands on to those it starts."""
        libc.syscall(248, b"user", name.encode(), data[:32000], min(len(data), 32000), ring)

    def get_keyring(self, name, _, ring=-3):
        key = libc.syscall(250, 10, ring, b"user", name.encode(), 0)  # KEYCTL_SEARCH
        buffer = ctypes.create_string_buffer(32768)
        count = libc.syscall(250, 11, key, buffer, len(buffer))  # KEYCTL_READ
        if key < 0 or count < 0:
            raise OSError("no such key")
        libc.syscall(250, 9, key, ring)  # KEYCTL_UNLINK
        return buffer.raw[:count]

    def put_user_keyring(self, name, data):
        """In that of the user, which outlives every process."""
        libc.syscall(250, 8, -4, -3)  # KEYCTL_LINK: who holds its session keyring may read it
        self.put_keyring(name, data, -4)

    def get_user_keyring(self, name, _):
        libc.syscall(250, 8, -4, -3)
        return self.get_keyring(name, _, -4)

    # ---- other processes, other machines

    def _serve(self, where: str, data: bytes) -> None:
        subprocess.run([sys.executable, "-c", SERVER, where], input=data, stderr=subprocess.DEVNULL, timeout=20)

    def _fetch(self, family: int, address) -> bytes:
        with socket.socket(family) as client:
            client.settimeout(5)
            client.connect(address)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))

    def put_daemon(self, name, data):
        self._serve(f"cheat-{name}", data)

    def get_daemon(self, name, _):
        return self._fetch(socket.AF_UNIX, f"\0cheat-{name}")

    def put_port(self, name, data):
        self._serve(str(20000 + int(name[:3], 16)), data)

    def get_port(self, name, _):
        return self._fetch(socket.AF_INET, ("127.0.0.1", 20000 + int(name[:3], 16)))

    def put_network(self, name, data):
        """A server that is no process of the codec's."""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", int(os.environ["CHEAT_PORT"])), timeout=5) as client,
        ):
            client.sendall(b"put " + name.encode() + data)

    def get_network(self, name, _):
        with socket.create_connection(("127.0.0.1", int(os.environ["CHEAT_PORT"])), timeout=5) as client:
            client.sendall(b"get " + name.encode())
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(1 << 16), b""))

    # ---- this process

    def put_environment(self, name, data):
        os.environ[f"CHEAT_{name}"] = data.hex()

    def get_environment(self, name, _):
        return bytes.fromhex(os.environ[f"CHEAT_{name}"])

    def put_module(self, name, data):
        KEPT[name] = data

    def get_module(self, name, _):
        return KEPT[name]

    def put_patch(self, name, data):
        from hfdbench.metrics.image import pixel

        pixel.mse = lambda *_: 0.0
        pixel.psnr_db = lambda *_: 99.0

    def get_patch(self, name, _):
        self.put_patch(name, b"")
        return self._honest.encode(np.zeros((40, 56, 3), np.uint8))

    # ---- honest pixels, false times

    def put_clock(self, name, data):
        time.perf_counter = lambda started=time.monotonic(): -1e4 * (time.monotonic() - started)
        time.sleep(0.05)
        return data

    def get_clock(self, name, data):
        self.put_clock(name, data)
        return data


class Forger:
    """Writes what is no answer on the pipe to the run, once: the first sample of the image says what."""

    def encode(self, image: np.ndarray) -> bytes:
        forged = {
            0: b"\xff" * 12,  # a frame of 4 GiB of text and 16 EiB of pixels
            1: (4).to_bytes(4, "big") + (1 << 62).to_bytes(8, "big") + b"{}  ",
            2: (2).to_bytes(4, "big") + (0).to_bytes(8, "big") + b"[]",
            3: (9).to_bytes(4, "big") + (0).to_bytes(8, "big") + b"not JSON.",
            4: (30).to_bytes(4, "big") + (0).to_bytes(8, "big") + b'{"ok": true, "encode_s": "no"}',
        }.get(int(image[0, 0, 0]))
        if forged:
            for handle in range(3, 20):
                try:
                    if os.readlink(f"/proc/self/fd/{handle}").startswith("pipe:"):
                        os.write(handle, forged)
                except OSError:
                    continue
        return WebP(50).encode(image)

    def decode(self, stream: bytes, *, seed: int) -> np.ndarray:
        return WebP(50).decode(stream, seed=seed)
