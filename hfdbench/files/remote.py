"""Folders on object stores, s3://bucket/folder, as paths: read through a cache on this machine, committed by one put.

Conventions
    path      a RemotePath takes every operation of pathlib that hfdbench uses. Opening one, or giving it to anything that
              takes a path, reads a copy in the cache (<cache>/remote/...), fetched once for each version (ETag) of the
              object and kept: a copy is never a place to write to.
    writing   `hfdbench.files.atomic.replacing`, which puts the finished file as one object. `once` is a put with
              "If-None-Match: *", so that of two writers the store lets one pass. Nothing is renamed, nothing locked.
    listings  are believed for LISTED_S seconds, and thrown away by every write of this process.
    errors    UsageError names the address, the cause and what to do: no such bucket, no permission, no credentials, nobody
              at the endpoint.

Stores are those of fsspec; s3:// needs `pip install 'hfdbench[s3]'`. Credentials, region and endpoint are found as every
AWS program finds them (AWS_ENDPOINT_URL for a store that is not Amazon's).
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

from platformdirs import user_cache_path

from hfdbench.errors import UsageError
from hfdbench.files.temporary import claim, remove

LISTED_S = 1.0
CONNECT_S, READ_S, ATTEMPTS = 5, 60, 4
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/+(?=[^/])")  # of two letters and more: C:/ is a drive

_listings: dict[str, tuple[float, dict[str, dict]]] = {}
_listing = threading.Lock()


def located(text: str | PurePath) -> Path:
    """Return a path for what a user names: a RemotePath for scheme://..., else a Path."""
    if isinstance(text, RemotePath):
        return text
    return RemotePath(text) if SCHEME.match(str(text)) else Path(text)


def on_disk(path: Path) -> Path:
    """Return where the content of a file or folder lies on this machine: of a remote one, the folder of its copies."""
    return path.cached if isinstance(path, RemotePath) else path


def remove_tree(path: Path) -> None:
    """Remove a folder and what it holds; what cannot be removed stays."""
    if isinstance(path, RemotePath):
        path.remove_tree()
    else:
        shutil.rmtree(path, ignore_errors=True)


class RemotePath(type(Path())):
    """A file or folder of an object store; `located` makes one."""

    def __str__(self) -> str:
        return SCHEME.sub(r"\1://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return os.fspath(self._copy())

    @property
    def cached(self) -> Path:
        """Folder of this machine that holds the copies of this file, or of everything below this folder."""
        return user_cache_path("hfdbench", appauthor=False).joinpath(
            "remote", *(part.rstrip(":") for part in self.parts)
        )

    # ---- what pathlib asks the operating system

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        info = self._info()
        kind = stat.S_IFDIR if info["type"] == "directory" else stat.S_IFREG
        changed: Any = info.get("LastModified") or info.get("created") or info.get("mtime")
        seconds = changed.timestamp() if hasattr(changed, "timestamp") else float(changed or 0)
        return SimpleNamespace(
            st_mode=kind, st_size=info.get("size") or 0, st_mtime=seconds, st_mtime_ns=int(seconds * 1e9)
        )

    lstat = stat

    def is_symlink(self) -> bool:
        return False

    def is_fifo(self) -> bool:
        return False

    def absolute(self) -> "RemotePath":
        return self

    def resolve(self, strict: bool = False) -> "RemotePath":
        return self

    def expanduser(self) -> "RemotePath":
        return self

    def iterdir(self) -> Any:
        names = self._listed()
        if not names and not self.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return (self / name for name in names)

    def glob(self, pattern: str, **_: Any) -> Any:
        if "/" in pattern:
            raise NotImplementedError(f"{pattern}: only names of one folder are matched on an object store")
        _forget()
        return (self / name for name in self._listed() if fnmatchcase(name, pattern))

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            raise OSError(errno.EROFS, "written by hfdbench.files.atomic.replacing alone", str(self))
        return super().open(mode, *args, **kwargs)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: folders are there as soon as they hold something."""

    def unlink(self, missing_ok: bool = False) -> None:
        with self._asking(), suppress(*[FileNotFoundError] * missing_ok):
            self._store.rm_file(self._key)
        _forget()

    def rename(self, target: Any) -> "RemotePath":
        """Copy the object, then delete it: two steps, for what nobody else uses any more."""
        with self._asking():
            self._store.cp_file(self._key, target._key)
        self.unlink()
        return target

    # ---- what only a store has

    def commit(self, finished: Path, once: bool) -> None:
        """Put a file here as one object, and keep it as the copy of this machine.

        Raises
        ------
        FileExistsError
            With `once`: the name is taken.
        """
        with self._asking():
            try:
                self._store.put_file(os.fspath(finished), self._key, mode="create" if once else "overwrite")
            except Exception as error:
                if once and "PreconditionFailed" in repr(_chain(error)):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self)) from None
                raise
            _forget()
            place = self._place(self._store.info(self._key, refresh=True))
        self._keep(finished, place)

    def remove_tree(self) -> None:
        """Delete every object below this folder."""
        with self._asking(), suppress(FileNotFoundError):
            self._store.rm(self._key, recursive=True)
        _forget()

    def temporary(self) -> Path:
        """Return the path of a new local file that will be committed here."""
        folder = self.cached
        folder.mkdir(parents=True, exist_ok=True)
        return claim(folder / f".{uuid.uuid4().hex}.tmp")

    @property
    def _key(self) -> str:
        return str(self)

    @property
    def _store(self) -> Any:
        try:
            import fsspec

            scheme = self.parts[0].rstrip(":")
            options: dict[str, Any] = {"use_listings_cache": False}
            if scheme == "s3":
                limits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"max_attempts": ATTEMPTS}}
                options["config_kwargs"] = limits
            return fsspec.filesystem(scheme, **options)
        except ImportError as error:
            hint = "install it: pip install 'hfdbench[s3]'" if str(self).startswith("s3:") else "install its package"
            raise UsageError(f"{self}: {error}; {hint}") from None
        except ValueError:
            raise UsageError(f"{self}: no such kind of store; give s3://bucket/folder or a folder") from None

    def _listed(self) -> dict[str, dict]:
        """What lies directly in this folder, by name; empty where there is no such folder."""
        with _listing:
            since, found = _listings.get(str(self), (-LISTED_S, {}))
        if time.monotonic() - since < LISTED_S:
            return found
        with self._asking():
            try:
                entries = self._store.ls(self._key, detail=True, refresh=True)
            except FileNotFoundError as error:
                if "bucket" in str(error).lower() and len(self.parts) > 1:
                    raise
                entries = []
        bare = self._store._strip_protocol(self._key).rstrip("/")
        found = {
            name.rpartition("/")[2]: entry
            for entry in entries
            if (name := entry["name"].rstrip("/")) != bare  # a file, or the marker of a folder, lists itself
        }
        found = dict(sorted(found.items()))
        with _listing:
            _listings[str(self)] = time.monotonic(), found
        return found

    def _info(self) -> dict:
        if len(self.parts) <= 2:  # a bucket
            return {"type": "directory"}
        found = self.parent._listed().get(self.name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return found

    def _place(self, info: dict) -> Path:
        version = str(info.get("ETag") or info.get("etag") or info.get("created") or info.get("mtime"))
        number = hashlib.sha256(f"{version} {info.get('size')}".encode()).hexdigest()[:16]
        return self.cached / number / self.name

    def _copy(self) -> Path:
        """The copy on this machine of what is stored now; fetched where there is none. Of a folder, the folder of copies."""
        info = self._info()
        if info["type"] == "directory":
            return self.cached
        place = self._place(info)
        if not place.exists():
            temporary = self.temporary()
            try:
                with self._asking():
                    self._store.get_file(self._key, os.fspath(temporary))
                self._keep(temporary, place)
            finally:
                remove(temporary)
        return place

    def _keep(self, fetched: Path, place: Path) -> None:
        """Give a copy its place, and remove those of older versions."""
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(fetched, place)
        for older in self.cached.iterdir():
            if older != place.parent and (older / self.name).is_file():
                shutil.rmtree(older, ignore_errors=True)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what a store says into what a user can act on. What is merely not there, or there already, passes."""
        try:
            yield
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            if "bucket" not in str(error).lower():
                raise
            bucket = "/".join(self.parts[:2]).replace(":/", "://")
            raise UsageError(f"{self}: there is no bucket {bucket}; make it, or correct the address") from None
        except (UsageError, NotImplementedError):
            raise
        except Exception as error:
            raise UsageError(f"{self}: {_explained(error)}") from error


def _forget() -> None:
    with _listing:
        _listings.clear()


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _explained(error: Exception) -> str:
    """Cause and hint of an error of a store or its client."""
    names = {type(each).__name__ for each in _chain(error)}
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    if names & {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "UnauthorizedSSOTokenError"}:
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (FSSPEC_S3_ANON=true "
            "reads a public bucket)"
        )
    if "PermissionError" in names:
        return f"no permission ({cause}); the credentials need to list, read, write and delete there"
    if names & {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ClientConnectorError"}:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        where = f"AWS_ENDPOINT_URL={endpoint}" if endpoint else "the network and AWS_ENDPOINT_URL"
        return f"the store cannot be reached ({cause}); check {where}"
    return f"the store answered: {cause}; try again, or check its address and credentials"
