"""Bring a file from an http address, whole and checked, going on where an earlier try stopped.

Conventions
    resume   what has arrived is kept in `FILE.part`; the next try asks for the rest (HTTP Range, with If-Range on the server's
             ETag or date). A server that ignores the range, or whose file has changed, makes it start over.
    checks   size and sha256 where they are stated. Only http and https addresses, redirects included.
    bounds   a server slower than `Patience.slowest_bytes_per_s` counts as broken, headers included; a whole download ends after
             `Patience.longest_s`; nothing grows beyond its stated size, or MOST_UNSTATED_BYTES where none is stated.
"""

import http.client
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from hfdbench import __version__
from hfdbench.errors import Unavailable, UsageError
from hfdbench.files.digest import file_sha256

CHUNK = 1 << 20
MOST_UNSTATED_BYTES = 4 << 30


class Remote(Protocol):
    """A published file: its address, and its size and sha256 where they are stated."""

    @property
    def url(self) -> str: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def sha256(self) -> str | None: ...


@dataclass(frozen=True)
class Patience:
    """How long a download is kept up.

    Attributes
    ----------
    tries : int
        Tries in a row that bring less than 1 MiB.
    pause_s : float
        Pause before the second try; it doubles with each.
    timeout_s : float
        Seconds without a byte, for the headers of an answer, and over which the speed is measured.
    slowest_bytes_per_s : float
        A slower answer counts as broken.
    longest_s : float
        Seconds for the whole file; what has arrived is kept.
    """

    tries: int = 6
    pause_s: float = 1.0
    timeout_s: float = 30.0
    slowest_bytes_per_s: float = 1000.0
    longest_s: float = 24 * 3600.0


class _Broken(Exception):
    """The line broke or the server stumbled: worth another try."""


def download(source: Remote, file: Path, *, progress: bool = True, patience: Patience = Patience()) -> None:
    """Bring one file; do nothing when it is there and right.

    Parameters
    ----------
    source : Remote
        Where it is published.
    file : Path
        Where it shall lie; its folder exists.
    progress : bool
        Whether a bar is drawn on stderr.
    patience : Patience
        When to give up.

    Raises
    ------
    Unavailable
        When the network, the server or the file it serves is at fault.
    UsageError
        When this machine is: a full disk.
    """
    if file.is_file() and _fault(source, file) is None:
        return
    part, fault = part_of(file), None
    for resumed in (part.is_file(), False):
        _bring(source, part, progress, patience)
        fault = _fault(source, part)
        if fault is None:
            part.replace(file)
            _validator_file(part).unlink(missing_ok=True)
            return
        _forget(part)  # asking for more of it would not help
        if not resumed:
            break  # what an earlier run had left may be at fault: only then is it worth starting over
    raise Unavailable(
        f"{source.url}: {fault}", "the file was changed or damaged on its way; try again, or fix the card"
    )


def file_name(url: str) -> str:
    """A plain file name for what an address leads to."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^\w.+-]", "_", name)[-100:] or "file"


def part_of(file: Path) -> Path:
    """Where the part of a file that has arrived is kept."""
    return file.with_name(file.name + ".part")


def _bring(source: Remote, part: Path, progress: bool, patience: Patience) -> None:
    from tqdm import tqdm

    failures, base_bytes, end = 0, _length(part), time.monotonic() + patience.longest_s
    with tqdm(
        total=source.bytes,
        initial=base_bytes,
        unit="B",
        unit_scale=True,
        desc=file_name(source.url),
        file=sys.stderr,
        disable=not progress,
    ) as bar:
        while True:
            try:
                _attempt(source, part, bar, patience, end)
                return
            except _Broken as error:
                now_bytes = _length(part)
                failures = 1 if now_bytes - base_bytes >= CHUNK else failures + 1
                base_bytes = now_bytes
                if failures >= patience.tries or time.monotonic() > end:
                    raise Unavailable(
                        f"{source.url}: {error}", "check the network and run it again: it resumes"
                    ) from None
                time.sleep(patience.pause_s * 2 ** (failures - 1))


def _attempt(source: Remote, part: Path, bar: Any, patience: Patience, end: float) -> None:
    """One request: append what it brings to the part. Returns when the file is complete, raises _Broken when not."""
    have = _length(part)
    if source.bytes is not None and have == source.bytes:
        return
    headers = {"User-Agent": f"hfdbench/{__version__}", "Accept-Encoding": "identity"}
    validator = _validator_file(part).read_text() if _validator_file(part).is_file() else None
    if have and validator is None and source.sha256 is None:
        have = 0  # nothing would tell whether both halves are of the same file
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    try:
        with _answer(urllib.request.Request(source.url, headers=headers), patience.timeout_s) as response:
            total = _total(response, have)
            if response.status == 206 and total is None:
                _forget(part)
                raise _Broken("the server answered another range than the one asked for")
            if response.status != 206:
                have = 0
                _remember_validator(part, response.headers)
            if source.bytes is not None and total is not None and total != source.bytes:
                _forget(part)
                raise Unavailable(
                    f"{source.url}: the server offers {total:,} bytes where {source.bytes:,} are expected",
                    "the official file has changed; fix the card",
                )
            bar.total, bar.n = source.bytes or total, have
            bar.refresh()
            _save(source, response, part, have, total, bar, patience, end)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is longer than the file: of another file
            _forget(part)
            raise _Broken("the server holds less than an earlier run left here") from None
        if error.code < 500 and error.code not in (408, 429):
            raise Unavailable(
                f"{source.url}: the server answered {error.code} {error.reason}",
                "the address may have moved; fix the card",
            ) from None
        raise _Broken(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if "unknown url type" in str(error.reason):
            raise Unavailable(f"{source.url}: redirected to something that is not http", "fix the card") from None
        raise _Broken(f"no connection: {error.reason}") from None
    except (http.client.HTTPException, OSError) as error:  # TLS and sockets; a full disk is handled in _save
        raise _Broken(f"the connection broke: {error or type(error).__name__}") from None


def _save(
    source: Remote, response: Any, part: Path, have: int, total: int | None, bar: Any, patience: Patience, end: float
) -> None:
    stated = source.bytes or total
    most = source.bytes or MOST_UNSTATED_BYTES
    if stated is not None and stated > most:
        _forget(part)
        raise _too_long(source, stated)
    since, before = time.monotonic(), have
    while block := response.read1(CHUNK):
        try:
            with open(part, "r+b" if have else "wb") as out:
                out.seek(have)
                out.write(block)
        except OSError as error:
            raise UsageError(f"{part}: cannot be written: {error.strerror}; make room there and run it again") from None
        have += len(block)
        bar.update(len(block))
        now = time.monotonic()
        if have > most and source.bytes is None:
            _forget(part)
            raise _too_long(source, have)
        if stated is not None and have > stated:
            break
        if now > end:
            raise _Broken(f"not whole after {patience.longest_s:,.0f} s: {have:,} bytes arrived")
        if now - since > patience.timeout_s:
            if have - before < patience.slowest_bytes_per_s * (now - since):
                raise _Broken(f"slower than {patience.slowest_bytes_per_s:,.0f} bytes a second after {have:,} bytes")
            since, before = now, have
    if stated is not None and have < stated:
        raise _Broken(f"the connection broke after {have:,} of {stated:,} bytes")


def _too_long(source: Remote, found: int) -> Unavailable:
    return Unavailable(
        f"{source.url}: {found:,} bytes or more, where no size is stated and {MOST_UNSTATED_BYTES:,} are the most",
        'state its size as "bytes" in the card',
    )


def _total(response: Any, have: int) -> int | None:
    """Length of the whole file by the answer's headers; None for a partial answer that does not start where asked."""
    if response.status == 206:
        match = re.fullmatch(
            r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", response.headers.get("Content-Range", "")
        )
        return int(match[2]) if match and int(match[1]) == have else None
    match = re.fullmatch(r"[0-9]{1,18}", response.headers.get("Content-Length", ""))
    return int(match[0]) if match else None


@contextmanager
def _answer(request: urllib.request.Request, timeout_s: float) -> Iterator[Any]:
    """The answer to a request, its headers read within `timeout_s` in all."""
    sockets: list[socket.socket] = []

    def hang_up() -> None:
        for opened in sockets:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, hang_up)  # a socket's own timeout starts anew with each byte
    timer.daemon = True
    timer.start()
    try:
        response = _opener(sockets).open(request, timeout=timeout_s)
    finally:
        timer.cancel()
    with response:
        yield response


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sockets: list[socket.socket]):
        super().__init__()
        self._sockets = sockets

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_watched(http.client.HTTPConnection, self._sockets), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sockets: list[socket.socket]):
        super().__init__()
        self._sockets = sockets

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_watched(http.client.HTTPSConnection, self._sockets), req)


def _watched(kind: Any, sockets: list[socket.socket]) -> Any:
    class Connection(kind):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    return Connection


def _opener(sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    # Not build_opener: a redirect must not lead to file: or ftp:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Http(sockets),
        _Https(sockets),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _remember_validator(part: Path, headers: Message) -> None:
    etag = headers.get("ETag", "")
    tag = etag if etag.startswith('"') else headers.get("Last-Modified")  # a weak ETag may not be used with If-Range
    _validator_file(part).unlink(missing_ok=True)
    if tag:
        _validator_file(part).write_text(tag)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _fault(source: Remote, file: Path) -> str | None:
    """What is wrong with a downloaded file, or None."""
    if source.bytes is not None and _length(file) != source.bytes:
        return f"{_length(file):,} bytes arrived where {source.bytes:,} are expected"
    if source.sha256 is not None:
        found = file_sha256(file)
        if found != source.sha256:
            return f"sha256 differs (expected {source.sha256[:12]}…, got {found[:12]}…)"
    return None
