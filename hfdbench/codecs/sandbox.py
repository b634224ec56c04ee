"""Where a codec's process runs: it sees the interpreter, its packages, its weights, an empty home, and nothing else.

Three ways, of which the first that the machine allows is taken:

    namespaces   user, mount, process, network and IPC namespaces of its own (Linux; no privilege needed)
    landlock     Landlock for files (Linux 6.2 and later), seccomp for what it leaves open
    process      nothing is kept from it but what its environment would tell

What one codec changes must not reach another: neither files, nor what the kernel knows of files (times, modes, attributes),
nor its settings and keys, nor a socket of a family that has no namespaces.

The first two are the seal "sandbox", the last is the seal "process". In every one a supervisor stays outside: it ends the
whole process tree, orphans included, when the codec's process ends, when the run asks, or when the run has died, and it
removes the process's folder. It ends a tree that takes more memory than it may.

Only the standard library is imported here: the worker enters before it loads anything.
"""

import ctypes
import errno
import glob
import json
import os
import platform
import select
import shutil
import signal
import site
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

LEVELS = ("namespaces", "landlock", "process")
REFUSED = 71  # exit code of a worker that cannot enter its level
TOO_MUCH_MEMORY = 72
POLL_S = 0.2  # between two looks at the memory of a tree
LIMIT = struct.Struct("=q")  # bytes of memory, as the run sends them to the supervisor

# What a program needs of the system; nothing of it is a user's data.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu", "/sys")
DEVICES = ("null", "zero", "full", "random", "urandom")
GPUS = ("nvidia*", "dri", "kfd", "dxg")


@dataclass(frozen=True)
class Policy:
    """What one process may see and use.

    Parameters
    ----------
    level : str
        One of `LEVELS`.
    own : str
        Folder that holds cwd/, tmp/, home/ (writable) and root/ (empty, for the mounts).
    readable, writable, hidden : tuple of str
        Existing absolute paths; of two that contain one another the longer decides.
    network : bool
        Whether the machine's network is reachable.
    memory_bytes : int
        What the whole process tree may take; 0: no limit.
    """

    level: str
    own: str
    readable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    network: bool = False
    memory_bytes: int = 0
    devices: tuple[str, ...] = field(default=DEVICES)

    def to_json(self) -> dict:
        """Plain values, for the worker's first frame."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Policy":
        """The policy that `to_json` wrote."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def seal(level: str) -> str:
    """What results call a level: "sandbox" or "process"."""
    return "process" if level == "process" else "sandbox"


class Refused(OSError):
    """The machine does not allow a level."""


# ---- entering: the calling process becomes the supervisor, a descendant of it returns


def enter(policy: Policy, control: int) -> None:
    """Split into a supervisor, which never returns, and a process that runs under the policy, which does.

    Parameters
    ----------
    policy : Policy
        What the returning process may see.
    control : int
        File descriptor to read: `LIMIT` frames set the memory limit anew; its end asks to end everything.
    """
    if sys.platform != "linux":
        os.close(control)
        return
    try:
        libc = _libc()
        _prctl(libc, 36, 1)  # PR_SET_CHILD_SUBREAPER: orphans of the codec become children of this process
        if policy.level == "namespaces":
            _unshare(libc, policy.network)
    except OSError as error:
        _refuse(policy.level, error)
    pid = os.fork()
    if pid:
        _supervise(pid, control, policy)
    os.close(control)
    try:
        _prctl(libc, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(OSError):  # the session keyring would be shared by all workers; absent in some containers
            _check(libc.syscall(_syscall("keyctl"), 1, None, 0, 0, 0), "keyctl")
        if policy.level == "namespaces":
            _mount_all(libc, policy)
            _drop_capabilities(libc)
            _seccomp(libc, _KEYS, FAMILIES)
            _become_init()
            _prctl(libc, 1, signal.SIGKILL)
        elif policy.level == "landlock":
            _drop_capabilities(libc)
            _landlock(libc, policy)
            _seccomp(libc, _KEYS + _MEMORY, FAMILIES if policy.network else (), _METADATA, _ATTRIBUTES)
    except OSError as error:
        _refuse(policy.level, error)


def _refuse(level: str, error: OSError) -> NoReturn:
    print(f"no {level} here: {error}", file=sys.stderr, flush=True)
    os._exit(REFUSED)


def _become_init() -> None:
    """Fork once more: process 1 of the namespace reaps orphans and ends with the worker, and everything with it."""
    worker = os.fork()
    if not worker:
        return
    for handle in (0, 1):
        os.close(handle)
    while True:
        pid, status = os.wait()
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _supervise(child: int, control: int, policy: Policy) -> NoReturn:
    """Wait for the end of the child or of the control pipe, then end every descendant and remove the folder."""
    for handle in (0, 1):  # so that the run sees the end of the worker's pipes
        os.close(handle)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the control pipe tells; a signal to the group must not stop the sweep
    ended = os.pidfd_open(child)
    poller, limit, why = select.poll(), policy.memory_bytes, ""
    poller.register(control, select.POLLIN)
    poller.register(ended, select.POLLIN)
    status: int | None = None
    while status is None:
        ready = {handle for handle, _ in poller.poll(POLL_S * 1000 if limit else None)}
        if ended in ready:
            status = os.waitpid(child, 0)[1]
        elif control in ready:
            frame = os.read(control, LIMIT.size)
            if len(frame) < LIMIT.size:
                break
            limit = LIMIT.unpack(frame)[0]
        elif limit and (used := _memory_bytes(os.getpid())) > limit:
            why = f"stopped at {used / 2**30:.1f} GiB of memory, {limit / 2**30:.1f} allowed"
            break
    _end_descendants(child if status is None else 0)
    shutil.rmtree(policy.own, ignore_errors=True)
    if why:
        print(why, file=sys.stderr, flush=True)
        os._exit(TOO_MUCH_MEMORY)
    code = os.waitstatus_to_exitcode(status) if status is not None else -signal.SIGKILL
    if policy.level == "namespaces" and code > 128:
        code = 128 - code
    if code < 0:  # end as the worker has
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _end_descendants(first: int) -> None:
    """Kill until nothing is left; what loses its parent becomes a child of this process and is killed in turn.

    The first process of a namespace is reaped when all others of it are gone.
    """
    if first:
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    while True:
        for pid in _children(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children(pid: int) -> list[int]:
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with suppress(OSError):
            found += [int(word) for word in Path(path).read_text().split()]
    return found


def _memory_bytes(supervisor: int) -> int:
    """Memory of all descendants, without what is shared with files."""
    total, waiting = 0, _children(supervisor)
    page = os.sysconf("SC_PAGE_SIZE")
    while waiting:
        pid = waiting.pop()
        with suppress(OSError, ValueError, IndexError):
            _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
            total += (int(resident) - int(shared)) * page
        waiting += _children(pid)
    return total


# ---- system calls

_NUMBERS = {
    "x86_64": {"pivot_root": 155, "keyctl": 250, "add_key": 248, "request_key": 249, "audit": 0xC000003E}
    | {"socket": 41, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "ptrace": 101, "ioctl": 16}
    | {"process_vm_readv": 310, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "utime": 132}
    | {"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198}
    | {"fremovexattr": 199, "utimes": 235, "fchownat": 260, "futimesat": 261, "fchmodat": 268, "utimensat": 280},
    "aarch64": {"pivot_root": 41, "keyctl": 219, "add_key": 217, "request_key": 218, "audit": 0xC00000B7}
    | {"socket": 198, "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180, "ptrace": 117, "ioctl": 29}
    | {"process_vm_readv": 270, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15}
    | {"fremovexattr": 16, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "utimensat": 88},
}
_EVERYWHERE = {"io_uring_setup": 425, "mount_setattr": 442, "landlock": 444, "fchmodat2": 452, "setxattrat": 463}
_EVERYWHERE |= {"removexattrat": 466, "file_setattr": 469}


def _syscall(name: str) -> int:
    try:
        return (_EVERYWHERE | _NUMBERS[platform.machine()])[name]
    except KeyError:
        raise Refused(errno.ENOSYS, f"no system calls known for {platform.machine()}") from None


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise Refused(code, f"{what}: {os.strerror(code)}")
    return result


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    _check(libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


# ---- namespaces

_NEWNS, _NEWUSER, _NEWPID, _NEWNET, _NEWIPC = 0x00020000, 0x10000000, 0x20000000, 0x40000000, 0x08000000
_NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE, _RDONLY, _REMOUNT = 2, 4, 8, 4096, 16384, 1 << 18, 1, 32
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000


def _unshare(libc: ctypes.CDLL, network: bool) -> None:
    user, group = os.getuid(), os.getgid()
    _check(libc.unshare(_NEWUSER | _NEWPID | _NEWIPC | (0 if network else _NEWNET)), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text)


def _mount(libc: ctypes.CDLL, source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    encoded = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    _check(libc.mount(*encoded, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user"))


def _bind(libc: ctypes.CDLL, source: str, target: str, readonly: bool = True) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    _mount(libc, source, target, None, _BIND | _REC)
    if readonly:  # with everything that is mounted below
        change = _Attributes(1 | 2, 0, 0, 0)  # MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID
        number = _syscall("mount_setattr")
        path = os.fsencode(target)
        _check(
            libc.syscall(number, _AT_FDCWD, path, _AT_RECURSIVE, ctypes.byref(change), 32), f"mount_setattr {target}"
        )


def _mount_all(libc: ctypes.CDLL, policy: Policy) -> None:
    """A root of its own, with the policy's paths at the places where they always are."""
    _check(libc.unshare(_NEWNS), "unshare")
    _mount(libc, None, "/", None, _REC | _PRIVATE)
    root = os.path.join(policy.own, "root")
    share = f"size={max(policy.memory_bytes // 4, 1 << 28)}"
    _mount(libc, "tmpfs", root, "tmpfs", _NOSUID | _NODEV, "mode=755,size=64m")
    for folder in ("tmp", "var/tmp", "run", "root", "home", "proc", "dev/shm"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    for folder in ("tmp", "var/tmp", "dev/shm"):
        _mount(libc, "tmpfs", f"{root}/{folder}", "tmpfs", _NOSUID | _NODEV, f"mode=1777,{share}")
    for name in policy.devices:
        if os.path.exists(f"/dev/{name}"):
            _bind(libc, f"/dev/{name}", f"{root}/dev/{name}")  # a device is written to all the same, its times are not
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")
    _mount_proc(libc, f"{root}/proc")
    ways = [(path, "read") for path in policy.readable if path not in policy.hidden] + [
        (path, "write") for path in policy.writable
    ]
    ways += [(path, "hide") for path in policy.hidden]
    ways += [(os.path.join(policy.own, name), "write") for name in ("cwd", "tmp", "home")]
    for path, way in sorted(ways, key=lambda pair: (pair[0].count("/"), pair)):
        _place(libc, root, path, way)
    os.chdir(root)
    _check(libc.syscall(_syscall("pivot_root"), b".", b"."), "pivot_root")
    _check(libc.umount2(b".", 2), "umount")  # MNT_DETACH
    _mount(libc, None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir(os.path.join(policy.own, "cwd"))


def _place(libc: ctypes.CDLL, root: str, path: str, way: str) -> None:
    target = root + path
    if way == "hide":
        if os.path.isdir(target) and not os.path.islink(target):
            _mount(libc, "tmpfs", target, "tmpfs", _NOSUID | _NODEV, "mode=755,size=16m")
        elif os.path.exists(target):
            _bind(libc, "/dev/null", target)
        return
    if not os.path.exists(path):
        return
    if os.path.islink(path):  # /lib -> usr/lib, a virtual environment's link: what it leads to is listed, too
        if not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
        return
    if way == "read" and os.path.exists(target) and os.path.samefile(path, target):
        return  # inside something that is there already
    _bind(libc, path, target, readonly=way == "read")


def _mount_proc(libc: ctypes.CDLL, target: str) -> None:
    """Of the new namespace alone; where a container forbids it, the few files that libraries ask for."""
    try:
        _mount(libc, "proc", target, "proc", _NOSUID | _NODEV | _NOEXEC)
        for entry in os.scandir(target):  # all but processes: to root, settings of the kernel are files like others
            if not entry.name.isdigit() and not entry.is_symlink() and (entry.is_dir() or entry.stat().st_mode & 0o222):
                _bind(libc, entry.path, entry.path)
    except OSError:
        for name in ("cpuinfo", "meminfo", "stat", "filesystems"):
            if os.path.exists(f"/proc/{name}"):
                _bind(libc, f"/proc/{name}", f"{target}/{name}")


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """For ever: with them a codec could unmount what hides the rest."""
    for capability in range(64):
        if libc.prctl(24, ctypes.c_ulong(capability), 0, 0, 0) < 0:  # PR_CAPBSET_DROP
            break
    _prctl(libc, 38, 1)  # PR_SET_NO_NEW_PRIVS
    header, nothing = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _check(libc.capset(header, nothing), "capset")


# ---- Landlock and seccomp

_READ_FILE, _READ_DIR, _EXECUTE = 1 << 2, 1 << 3, 1 << 0
_RIGHTS = {3: (1 << 15) - 1, 5: (1 << 16) - 1}  # of files, by ABI; before 3 any file could be truncated
_FILE_RIGHTS = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 14) | (1 << 15)  # those that a rule on a file may give
_READING = _READ_FILE | _READ_DIR | _EXECUTE


def _landlock(libc: ctypes.CDLL, policy: Policy) -> None:
    create, add, restrict = (_syscall("landlock") + n for n in range(3))
    abi = _check(libc.syscall(create, None, 0, 1), "Landlock")
    if abi < min(_RIGHTS):
        raise Refused(errno.ENOSYS, f"Landlock of version {abi}")
    every = next(_RIGHTS[version] for version in sorted(_RIGHTS, reverse=True) if version <= abi)
    network = 3 if abi >= 4 and not policy.network else 0
    scoped = 3 if abi >= 6 else 0  # abstract sockets and signals
    attributes = struct.pack("=QQQ", every, network, scoped)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _check(libc.syscall(create, attributes, len(attributes), 0), "Landlock")

    def allow(path: str, rights: int) -> None:
        with suppress(OSError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                rights &= every if os.path.isdir(path) else every & _FILE_RIGHTS
                rule = struct.pack("=Qi", rights, handle)
                _check(libc.syscall(add, ruleset, 1, rule, 0), f"Landlock {path}")
            finally:
                os.close(handle)

    hidden = {os.path.realpath(path) for path in policy.hidden}
    for path in policy.readable:
        for part, rights in _without(os.path.realpath(path), hidden):
            allow(part, rights)
    for path in (*policy.writable, *(os.path.join(policy.own, name) for name in ("cwd", "tmp", "home"))):
        allow(path, every)
    for name in policy.devices:
        allow(f"/dev/{name}", every)
    for name in ("self", "cpuinfo", "meminfo", "stat", "filesystems", "sys/vm"):
        allow(os.path.realpath(f"/proc/{name}"), _READING)
    _prctl(libc, 38, 1)
    _check(libc.syscall(restrict, ruleset, 0), "Landlock")
    os.close(ruleset)
    os.chdir(os.path.join(policy.own, "cwd"))


def _without(path: str, hidden: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Rules that open a path but nothing hidden below it: Landlock can only allow."""
    inside = [other for other in hidden if other == path or other.startswith(path.rstrip("/") + "/")]
    if not inside:
        yield path, _READING
    elif path not in inside:
        yield path, _READ_DIR  # names may be listed
        for entry in os.scandir(path):
            if not entry.is_symlink():  # a rule opens what a link leads to: lib64 -> lib would open all of lib
                yield from _without(entry.path, inside)


FAMILIES = (1, 2, 10, 16)  # of sockets: UNIX, IPv4, IPv6, netlink; others reach over namespaces, as vsock does
_KEYS = ("keyctl", "add_key", "request_key", "io_uring_setup")  # the last opens sockets and files past these rules
_MEMORY = ("shmget", "semget", "msgget", "mq_open", "ptrace", "process_vm_readv")
# What a program does to the modes and times of its files is left out without a word: copying a file would fail.
_METADATA = ("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat")
_METADATA += ("utime", "utimes", "futimesat", "utimensat")
_ATTRIBUTES = ("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr")
_ATTRIBUTES += ("setxattrat", "removexattrat", "file_setattr")
_FLAGS = (0x40086602, 0x40046602, 0x401C5820, 0x40087602, 0x40047602, 0x40086604, 0x40046604)  # set by ioctl


def _seccomp(
    libc: ctypes.CDLL,
    refused: Iterable[str],
    families: Iterable[int],
    ignored: Iterable[str] = (),
    unsupported: Iterable[str] = (),
) -> None:
    """Refuse system calls, and sockets but of some families; let others do nothing, or say that the file system cannot."""
    known = _EVERYWHERE | _NUMBERS.get(platform.machine(), {})
    allow, fail = 0x7FFF0000, 0x00050000
    answers = dict.fromkeys(refused, errno.EACCES) | dict.fromkeys(ignored, 0)
    answers |= dict.fromkeys(unsupported, errno.EOPNOTSUPP)

    def among(call: str, argument: int, values: Iterable[int], inside: int, outside: int) -> list[tuple]:
        """Lines for one call, by the low word of one of its arguments."""
        lines = [(0x20, 0, 0, 16 + 8 * argument)]
        for value in values:
            lines += [(0x15, 0, 1, value), (0x06, 0, 0, inside)]
        lines.append((0x06, 0, 0, outside))
        return [(0x15, 0, len(lines), _syscall(call)), *lines]

    refuse = (0x06, 0, 0, fail | errno.EACCES)
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, _syscall("audit")), refuse]  # another architecture's calls
    code += [(0x20, 0, 0, 0), (0x35, 0, 1, 0x40000000), refuse]  # those of x32
    code += among("socket", 0, families, allow, fail | errno.EACCES)
    if unsupported:
        code += among("ioctl", 1, _FLAGS, fail | errno.EOPNOTSUPP, allow)
    for name, answer in answers.items():
        if name in known:  # calls by paths alone are no more on newer machines
            code += [(0x15, 0, 1, known[name]), (0x06, 0, 0, fail | answer)]
    code.append((0x06, 0, 0, allow))
    program = b"".join(struct.pack("=HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    _check(libc.prctl(22, ctypes.c_ulong(2), header, 0, 0), "seccomp")  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---- what a codec of Python needs to see


def needed_paths(extra: Iterable[str] = (), prefix: str | None = None, path: str | None = None) -> tuple[str, ...]:
    """The system, this interpreter, its packages, the programs on PATH, and what is named besides.

    Of folders on Python's path that are no installation (a checkout, the current folder), only what can be imported.

    Parameters
    ----------
    extra : iterable of str
        Further files and folders.
    prefix : str, optional
        Of a virtual environment on the same base interpreter, whose packages are needed instead of ours.
    path : str, optional
        PATH of the process, instead of ours.
    """
    found: dict[str, None] = dict.fromkeys(path for path in SYSTEM if os.path.exists(path))
    base = {sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__)}
    found.update(dict.fromkeys(sorted(base | ({sys.prefix, sys.exec_prefix} if prefix is None else {prefix}))))
    for entry in sys.path if prefix is None else ():
        found.update(dict.fromkeys(importable(os.path.abspath(entry))))
    for entry in (os.environ.get("PATH", "") if path is None else path).split(os.pathsep):
        if os.path.isabs(entry) and os.path.isdir(entry):
            siblings = [os.path.join(os.path.dirname(entry), name) for name in ("lib", "lib64")]
            found.update(dict.fromkeys([entry, *(siblings if os.path.basename(entry) == "bin" else ())]))
    for name in ("LD_LIBRARY_PATH", "HFDBENCH_COMPRESSAI", "HFDBENCH_READABLE"):
        found.update(
            dict.fromkeys(entry for entry in os.environ.get(name, "").split(os.pathsep) if os.path.isabs(entry))
        )
    found.update(dict.fromkeys(extra))
    return tuple(path for path in _with_link_targets(found) if os.path.exists(path))


def installed_packages() -> tuple[str, ...]:
    """Folders of the packages that are installed for this interpreter: what a codec with a Python of its own must not see."""
    found = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    return tuple(sorted(os.path.realpath(path) for path in found if os.path.isdir(path)))


def reachable(hidden: Iterable[str], readable: Iterable[str]) -> tuple[str, ...]:
    """Those of the hidden paths that lie in something readable: only these need to be hidden."""
    shown = set(readable)
    inside: dict[str, bool] = {"/": "/" in shown}

    def is_inside(folder: str) -> bool:
        if folder not in inside:
            inside[folder] = folder in shown or is_inside(os.path.dirname(folder))
        return inside[folder]

    return tuple(path for path in hidden if path in shown or is_inside(os.path.dirname(path)))


def importable(folder: str) -> list[str]:
    """The folder itself when it is one of installed packages; else its modules, packages and their metadata alone."""
    standard = os.path.dirname(os.__file__)
    installed = {"site-packages", "dist-packages"} & set(folder.split(os.sep))
    if installed or not os.path.isdir(folder) or f"{folder}/".startswith(f"{standard}/"):
        return [folder]
    found = []
    with suppress(OSError):
        for entry in os.scandir(folder):
            name = entry.name
            if entry.is_dir():
                is_package = os.path.exists(os.path.join(entry.path, "__init__.py"))
                if is_package or name.endswith((".dist-info", ".egg-info")):
                    found.append(entry.path)
            elif name.endswith((".py", ".pyc", ".so", ".pyd", ".pth")):
                found.append(entry.path)
    return found


def _with_link_targets(paths: Iterable[str]) -> Iterator[str]:
    """Each path, the links on its way, and where it leads."""
    seen: set[str] = set()
    for path in paths:
        walked = "/"
        for part in path.strip("/").split("/"):
            walked = os.path.join(walked, part)
            if os.path.islink(walked) and walked not in seen:
                seen.add(walked)
                yield walked
        for place in (os.path.realpath(path), path):
            if place not in seen:
                seen.add(place)
                yield place


def gpu_devices() -> tuple[str, ...]:
    """Names below /dev of the nodes that GPUs are used through."""
    return tuple(path.removeprefix("/dev/") for pattern in GPUS for path in sorted(glob.glob(f"/dev/{pattern}")))


def read_first_frame(handle: int) -> dict:
    """The JSON object that opens the worker's requests, read without taking a byte of the next frame."""
    length = struct.unpack(">I", _read_exactly(handle, 4))[0]
    return json.loads(_read_exactly(handle, length))


def _read_exactly(handle: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (part := os.read(handle, count - len(data))):
            raise EOFError
        data += part
    return data
