"""A real HTTP server on loopback that can misbehave in every way that matters, and small archives."""

import hashlib
import io
import socket
import tarfile
import threading
import time
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from hfdbench.cards.schema import Source
from hfdbench.files.download import Patience

QUICK = Patience(tries=3, pause_s=0.01, timeout_s=5)


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    etag: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    statuses: list[int] = field(default_factory=list)  # of the next answers
    redirects: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    announce: bool = True
    wrong_range: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    drip: str = ""  # "headers" or "body": these arrive a byte at a time
    length: str | None = None  # Content-Length in place of the right one
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked_range = request.headers.get("Range")
        self.asked.append((request.path, asked_range))
        if self.silent:
            request.connection.shutdown(socket.SHUT_RDWR)
            return
        if self.statuses:
            return request.send_error(self.statuses.pop(0))
        if request.path in self.redirects:
            request.send_response(302)
            request.send_header("Location", self.redirects[request.path])
            request.send_header("Content-Length", "0")
            return request.end_headers()
        content = self.files.get(request.path)
        if content is None:
            return request.send_error(404)
        if self.drip == "headers":
            return self._drip(request, b"HTTP/1.1 200 OK\r\nServer: " + b"x" * 1000)
        etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = 0
        if asked_range and self.ranges and request.headers.get("If-Range") in (None, etag):
            start = 0 if self.wrong_range else int(asked_range.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return request.send_error(416)
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        if self.etag:
            request.send_header("ETag", etag)
        if self.announce:
            length = str(len(content) - start) if self.length is None else self.length
            request._headers_buffer.append(f"Content-Length: {length}\r\n".encode())  # in UTF-8, whatever it is
        request.send_header("Connection", "close")
        request.end_headers()
        if self.drip:
            return self._drip(request, content[start:])
        request.wfile.write(content[start : start + self.cuts.pop(0)] if self.cuts else content[start:])

    @staticmethod
    def _drip(request: BaseHTTPRequestHandler, content: bytes) -> None:
        with suppress(OSError):  # until the other side hangs up
            for byte in content:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                time.sleep(0.05)


@contextmanager
def served(site):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.close_connection = True
            site.answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


def picture(seed=0):
    out = io.BytesIO()
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save(out, "png")
    return out.getvalue()


def source(site, path, content=None, **changes):
    checks = {} if content is None else {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Source(url=site.address + path, **(checks | changes))


def part_of(file):
    return file.with_name(file.name + ".part")


def make_zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tar_member(name, content=b"", kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo()
    info.name, info.size, info.type, info.linkname = name, len(content), kind, target
    return info, io.BytesIO(content)


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, content)
    return path


PLEASANT = {
    "readme.txt": b"hello",
    "set/": b"",
    "set/one.png": picture(1),
    "set/deep/er/two.PNG": picture(2),
    "__MACOSX/set/._one.png": b"a resource fork",
    "set/.hidden.png": b"hidden",
}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
