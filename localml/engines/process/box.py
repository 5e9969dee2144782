"""The box of a replica whose user is not trusted: an account of its own, and a view of the machine of its own.

Run by the supervisor's child just before it turns into the command (:func:`enter`), and, as a program of its own
(``python -I -S -E box.pyc NAMESPACE LAUNCH``), by commands that join a box which is there. A box is no container: it
has the machine's network, devices and programs. What it has of its own:

* uid, gid and groups; no privileges, and no way to new ones (``no_new_privs``);
* a mount namespace. Folders that are *covered* (the data directory, those on the way that only root may enter) are
  empty there but for the folders that are *shown*, which lie at the paths that they have outside;
* ``/tmp``, ``/var/tmp`` and ``/dev/shm``; and ``/proc`` shows no processes of other users;
* a keyring, instead of that of who started the server.

Like the supervisor it imports nothing of localml and as little as possible of the standard library. Nothing is
imported once a namespace was entered: a job may have put its own files there.
"""

from __future__ import annotations

import _signal as signals  # type: ignore[import-not-found]
import ctypes
import errno
import os
import resource
import stat
import sys
import time

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1 << 5, 1 << 12, 1 << 14, 1 << 18
PR_GET_SECUREBITS, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 27, 36, 38
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
KEYCTL_JOIN_SESSION_KEYRING = 1
SYS_OPENAT2 = 437  # the same on every architecture
RESOLVE_NO_SYMLINKS = 0x04
UMASK = 0o002
"""What boxes write is for the group, too: folders that several users share give their files a group of all boxes."""
PROC_OF_ITS_OWN = (5, 8)
"""Kernel since which options of a mount of /proc are that mount's alone."""

LIMITS = {b"files": resource.RLIMIT_NOFILE, b"processes": resource.RLIMIT_NPROC, b"memory": resource.RLIMIT_DATA}
SCRATCH = (b"/tmp", b"/var/tmp")
"""Where every box has the folder of its own that the option ``tmp`` names."""

Options = list[tuple[bytes, bytes]]

_libc = ctypes.CDLL(None, use_errno=True)


class OpenHow(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class Account:
    """Who a box is: the options ``uid``, ``gid`` and ``group`` (one for each further group)."""

    def __init__(self, options: Options) -> None:
        self.uid = _number(options, b"uid")
        self.gid = _number(options, b"gid")
        self.groups = [int(value) for key, value in options if key == b"group"]

    def become(self) -> None:
        """Give up what root may, for good; standard output and error become this user's, so that it can reopen them."""
        for descriptor in (0, 1, 2):
            mode = os.fstat(descriptor).st_mode
            if os.isatty(descriptor) or (descriptor and (stat.S_ISREG(mode) or stat.S_ISFIFO(mode))):
                os.fchown(descriptor, self.uid, -1)
        os.umask(UMASK)
        _leave_keyring()
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def enter(options: Options) -> None:
    """Make the box around this process.

    Args:
        options: the account's; ``cover`` (a folder); ``show`` and ``show-ro`` (a folder or file); ``tmp`` (the folder
            that stands for /tmp and /var/tmp); ``shm`` (bytes). All are paths without symbolic links.

    Raises:
        OSError: it cannot be made; then nothing may run.
    """
    account = Account(options)
    separate()
    os.umask(0o022)  # who started the server may want private files; what is made here is for the account to pass
    shown = {path: (_handle(path), key == b"show-ro") for key, path in options if key in (b"show", b"show-ro")}
    covered = [path for key, path in options if key == b"cover"]
    tmp = next(_handle(path) for key, path in options if key == b"tmp")
    for path in filter(os.path.isdir, SCRATCH):
        _bind(tmp, path)
    size = next((b",size=" + value for key, value in options if key == b"shm"), b"")
    _cover(b"/dev/shm", b"mode=1777" + size)
    for path in sorted([*covered, *shown]):  # what lies below another comes after it
        if path not in shown:
            _cover(path, b"mode=755")
            continue
        handle, read_only = shown[path]
        inside = max((one for one in (*covered, *shown) if path.startswith(one + b"/")), key=len, default=b"")
        _bind(handle, _link(_place(path, handle, fresh=inside not in shown)))
        if read_only:
            _make_read_only(_link(_handle(path)))
    _hide_processes()
    account.become()


def separate() -> None:
    """Go on in a mount namespace of this process (or thread) alone, from which no mount gets out."""
    _call("unshare", CLONE_NEWNS)
    _mount(None, b"/", None, MS_REC | MS_PRIVATE, None)


def limit(options: Options) -> None:
    """Take on the limits of the replica, as its supervisor does for what it runs."""
    for name, value in options:
        if name in LIMITS:
            soft, _, hard = value.partition(b":")
            resource.setrlimit(LIMITS[name], (int(soft), int(hard or soft)))
        elif name == b"cgroup":
            try:
                with open(value + b"/cgroup.procs", "wb", buffering=0) as file:
                    file.write(b"0")
            except FileNotFoundError:
                pass  # it could not be made


def possible() -> bool:
    """Whether this machine lets us make boxes: tried out, by the calling thread, which should end then."""
    try:
        separate()
        handle = _handle(SCRATCH[0])
        try:
            _bind(handle, SCRATCH[0])
        finally:
            os.close(handle)
        _cover(SCRATCH[0], b"mode=1777")
    except OSError:
        return False
    return bool(_libc.prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) == 0)  # else who is no longer root may keep what root may


def _leave_keyring() -> None:
    """Who has a keyring reads the keys in it, whoever has become somebody else since."""
    number = SYS_KEYCTL.get(os.uname().machine)
    if number is not None and _libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None) < 0:
        why = ctypes.get_errno()
        if why not in (errno.ENOSYS, errno.EPERM):  # else nobody here can ask for keys
            raise OSError(why, f"keyring: {os.strerror(why)}")


def _handle(path: bytes) -> int:
    """The file or folder of this path, if nobody has put a symbolic link in its way meanwhile."""
    how = OpenHow(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS)
    number = _libc.syscall(SYS_OPENAT2, -100, path, ctypes.byref(how), ctypes.sizeof(how))
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    return int(number)


def _cover(path: bytes, mode: bytes) -> None:
    """Put an empty folder over one; where there is none, because another one is covered that it lies in, nothing."""
    if os.path.isdir(path):
        _mount(b"tmpfs", path, b"tmpfs", MS_NOSUID | MS_NODEV, mode)


def _place(path: bytes, shown: int, *, fresh: bool) -> int:
    """What something is to be mounted on, without following links; made if it lies in one of our empty folders."""
    try:
        return _handle(path)
    except FileNotFoundError:
        if not fresh:
            raise
    os.makedirs(path.rpartition(b"/")[0], 0o755, exist_ok=True)
    if stat.S_ISDIR(os.fstat(shown).st_mode):
        os.mkdir(path, 0o755)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    return _handle(path)


def _bind(handle: int, target: bytes) -> None:
    _mount(_link(handle), target, None, MS_BIND | MS_REC, None)


def _make_read_only(mounted: bytes) -> None:
    kept = os.statvfs(mounted).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount(None, mounted, None, MS_REMOUNT | MS_BIND | MS_RDONLY | kept, None)


def _link(handle: int) -> bytes:
    return b"/proc/self/fd/%d" % handle


def _hide_processes() -> None:
    """Other users' command lines are none of a job's business. Where that cannot be, the box is no worse otherwise."""
    release = os.uname().release.split(".")
    if (int(release[0]), int(release[1])) >= PROC_OF_ITS_OWN:
        try:
            _mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"hidepid=2")
        except OSError:
            pass


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    _call("mount", source, target, kind, ctypes.c_ulong(flags), data, about=target)


def _call(name: str, *arguments: object, about: bytes | None = None) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", about)


def _number(options: Options, wanted: bytes) -> int:
    return next(int(value) for key, value in options if key == wanted)


def _pair(item: bytes) -> tuple[bytes, bytes]:
    key, _, value = item.partition(b"=")
    return key, value


def main(namespace: int, launch: int) -> int:
    """Join a box and run a command there. This process stays outside, and what the command leaves behind is its own.

    Args:
        namespace: descriptor of the box's mount namespace; -1 makes a box as the options say, to see what works there.
        launch: descriptor of a file like the supervisor's ``launch``.
    """
    with open(launch, "rb") as file:
        items = file.read().split(b"\0")[:-1]
    signals.pthread_sigmask(signals.SIG_BLOCK, signals.valid_signals())  # what the command's group is told is for it
    _call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        try:
            os._exit(_join(namespace, items))
        except BaseException as error:  # a traceback would open files, as root, where a job may have put its own
            os.write(2, f"localml: {error}\n".encode())
        finally:
            os._exit(126)
    outputs = frozenset(_identity(os.fstat(number)) for number in (1, 2) if not os.isatty(number))
    for number in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), number)
    while (ended := os.waitpid(-1, 0))[0] != child:
        pass
    end_rest(outputs)
    code = os.waitstatus_to_exitcode(ended[1])
    return code if code >= 0 else 128 - code


def _join(namespace: int, items: list[bytes]) -> int:
    first = items.index(b"")
    second = items.index(b"", first + 1)
    options = [_pair(item) for item in items[:first]]
    env = dict(_pair(item) for item in items[first + 1 : second])
    command, account = items[second + 1 :], Account(options)
    workdir = next(value for key, value in options if key == b"workdir")
    limit(options)
    if namespace < 0:
        enter(options)
    else:
        _call("setns", namespace, CLONE_NEWNS)
        account.become()
        os.close(namespace)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())
    try:
        os.chdir(workdir)
        os.execvpe(command[0], command, env)
    except OSError as error:
        text = os.strerror(error.errno or 0).encode()
        os.write(2, b"localml: cannot run '%s': %s\n" % (command[0], text))
        return 127 if isinstance(error, FileNotFoundError) else 126


def end_rest(outputs: frozenset[tuple[int, int]] = frozenset()) -> None:
    """Kill what the command left behind: once nothing of it can write to its outputs any more, which somebody reads.

    This process must have adopted orphans.
    """
    pause = 0.005
    while left := _below():
        if any(_writes(pid, outputs) for pid in left):
            pause = min(0.2, pause * 2)
        else:
            for pid in left:
                _kill(pid)
        time.sleep(pause)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _below() -> list[int]:
    """The processes that descend from this one, zombies included."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:  # it ended
            continue
    found = [os.getpid()]
    for one in found:
        found += [pid for pid, parent in parents.items() if parent == one]
    return found[1:]


def _writes(pid: int, outputs: frozenset[tuple[int, int]]) -> bool:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # it ended
        return False
    for number in numbers:
        try:
            if _identity(os.stat(f"/proc/{pid}/fd/{number}")) in outputs:
                return True
        except OSError:  # closed just now
            continue
    return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signals.SIGKILL)
    except OSError:
        pass  # it has ended


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
