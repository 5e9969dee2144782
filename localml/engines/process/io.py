"""What the process engine reads from and does to processes: logs, use, commands beside a replica, leftovers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

from localml.core.holes import punch
from localml.engines.base import STREAMS, EngineError, ExecResult, LogChunk, Stream, Usage
from localml.engines.process.supervisor import start_ticks

log = logging.getLogger("localml.engines")

_CHUNK = 1 << 16
_GATHER = 0.001
_WAIT, _LONGEST_WAIT = 0.2, 1.0
_KILL_WAIT = 1.0
"""Seconds after which what was killed and does not end is left to the kernel."""
_OUTPUT_WAIT = 2.0
"""Seconds that the output of a killed command is waited for: what it left behind may hold its end open."""


def read_logs(
    folder: Path,
    since: Mapping[Stream, int],
    is_over: Callable[[], bool],
    follow: bool,
    watch: Callable[[Iterable[Path]], AbstractContextManager[threading.Event]],
) -> Iterator[LogChunk]:
    """Both output files after ``since``.

    Args:
        is_over: whether the replica has ended; asked before a look at the files, so that the look after a yes is
            complete.
        follow: go on until it is over.
        watch: gives an event that is set when something is written to one of the files, or the replica ends. Should
            the kernel not tell of a write, it is found within 200 ms; after a silence, within a second.
    """
    with contextlib.ExitStack() as stack:
        paths = [folder / stream for stream in STREAMS]
        try:
            opened = [stack.enter_context(open(path, "rb", buffering=0)) for path in paths]
        except FileNotFoundError:
            return
        files = dict(zip(STREAMS, opened, strict=True))
        for stream, file in files.items():
            file.seek(max(0, since.get(stream, 0)))
        news = stack.enter_context(watch(paths)) if follow else None
        wait = _WAIT
        while True:
            if news is not None:
                news.clear()
            over = news is None or is_over()
            size = 0
            for stream, file in files.items():
                if data := file.read(_CHUNK):  # one chunk of each in turn: a busy stream must not hide the other
                    size = max(size, len(data))
                    at = os.fstat(file.fileno()).st_mtime if over else time.time()
                    yield LogChunk(stream, data, at)
            if over and not size:
                return
            if news is not None and not over and size < _CHUNK:
                if size:
                    time.sleep(_GATHER)  # who writes line by line is not read line by line
                    wait = _WAIT
                elif not news.wait(wait):
                    wait = min(_LONGEST_WAIT, wait * 1.5)


def forget_output(folder: Path, upto: Mapping[Stream, int]) -> None:
    """Give back the room of the first so many bytes of output; whole blocks, so that those behind stay as they are.

    Where the file system cannot, all of it is kept until the replica is removed; the log says so, once.
    """
    for stream, size in upto.items():
        try:
            with open(folder / stream, "r+b", buffering=0) as file:
                found = os.fstat(file.fileno())
                whole = min(size, found.st_size) // found.st_blksize * found.st_blksize
                if not punch(file.fileno(), 0, whole):
                    tell_once(f"{folder.parent}: this file system gives no room back before a replica is removed")
        except FileNotFoundError:
            pass  # removed meanwhile
        except OSError as error:
            tell_once(f"{folder.parent}: room of output that was carried is not given back: {error.strerror}")


@lru_cache(maxsize=1024)
def tell_once(text: str) -> None:
    """Log a warning that would come again with every look."""
    log.warning("%s", text)


def usage_below(pid: int) -> Usage | None:
    """Use of all processes below a supervisor; None when it has none."""
    user = system = 0.0
    memory = count = 0
    for number in below(pid):
        with contextlib.suppress(psutil.NoSuchProcess), (process := psutil.Process(number)).oneshot():
            times = process.cpu_times()
            size = process.memory_info().rss
            user += times.user + times.children_user
            system += times.system + times.children_system
            memory += size
            count += 1
    if not count:
        return None
    return Usage(
        at=time.time(),
        cpu_seconds=user + system,
        memory=memory,
        cpu_user_seconds=user,
        cpu_system_seconds=system,
        pids=count,
    )


def below(pid: int) -> Iterator[int]:
    """All processes that descend from one, as the kernel lists them: without a look at every process there is."""
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():  # it is gone, or the kernel was built without these files
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from (process.pid for process in psutil.Process(pid).children(recursive=True))
        return
    waiting = [pid]
    while waiting:
        found: list[int] = []
        with contextlib.suppress(OSError):  # it may end while it is looked at
            for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                found += [int(number) for number in file.read_text().split()]
        yield from found
        waiting += found


@dataclass(frozen=True, slots=True)
class Beside:
    """A command beside a replica; ``passed`` are descriptors that it inherits under their numbers."""

    command: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    passed: Sequence[int] = ()


def run_beside(beside: Beside, timeout: float) -> ExecResult:
    """Run a command to its end and take its output.

    Raises:
        EngineError: it did not end within ``timeout`` seconds; it is killed then, with all that it started.
    """
    try:
        process = subprocess.Popen(
            beside.command,
            env=dict(beside.env),
            cwd=beside.workdir,
            pass_fds=beside.passed,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        return ExecResult(code, b"", f"localml: cannot run {beside.command[0]!r}: {error.strerror}\n".encode())
    ticks = start_ticks(process.pid)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        pipes = [Path(f"/proc/self/fd/{pipe.fileno()}") for pipe in (process.stdout, process.stderr) if pipe]
        kill_session(process.pid, ticks, pipes)
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_OUTPUT_WAIT)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        raise EngineError(f"{beside.command[0]!r} did not end within {timeout:g} s") from None
    code = process.returncode
    return ExecResult(code if code >= 0 else 128 - code, stdout, stderr)


def kill_session(
    leader: int, ticks: int, outputs: Collection[Path] = (), pipes: Collection[tuple[int, int]] = ()
) -> set[int]:
    """Kill what a dead supervisor left behind, or a command that is to end: the processes of its session, whatever
    descends from it, and who writes to ``outputs`` or ``pipes`` (device, inode), whichever session it went to.

    The kernel gives a session's number to no new process while the session has members. So if there is a
    process of that number which began at another time, the session is over and the number somebody else's.

    Returns:
        Those that are still there after some time: they hang in the kernel.
    """
    try:
        ours = start_ticks(leader) == ticks
    except (OSError, IndexError):
        ours = True  # it is gone, and what it led may be left
    files = {(device, inode) for device, inode in pipes}
    files |= {(found.st_dev, found.st_ino) for path in outputs if (found := _stat(path)) is not None}

    def members() -> set[int]:
        found = {pid for pid in psutil.pids() if files and pid not in (leader, os.getpid()) and _has_open(pid, files)}
        if ours:
            found |= {pid for pid in psutil.pids() if pid != leader and _session_of(pid) == leader}
            found |= {pid for pid in below(leader) if _session_of(pid) is not None}
        return found

    return _kill_all(members)


def kill_below(pid: int) -> set[int]:
    """Kill all that descends from a process, which stays; those that are still there after some time."""
    return _kill_all(lambda: {one for one in below(pid) if _session_of(one) is not None})


def kill_supervised(folder: Path) -> set[int]:
    """Kill what runs of a replica whose folder somebody has deleted; those that are still there after some time.

    Its supervisor stands in that folder, and holds the lock, which has no name any more. A shell may stand there, too.
    """
    place = Path(os.path.realpath(folder.parent), folder.name)
    gone, lock = f"{place} (deleted)", f"{place}/lock (deleted)"
    left = {pid for pid in psutil.pids() if _link(f"/proc/{pid}/cwd") == gone and lock in _open_files(pid)}
    return _kill_all(lambda: {one for pid in left for one in (pid, *below(pid)) if _session_of(one) is not None})


def _open_files(pid: int) -> set[str]:
    with contextlib.suppress(OSError):
        return {_link(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    return set()


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _kill_all(members: Callable[[], set[int]]) -> set[int]:
    deadline, pause = time.monotonic() + _KILL_WAIT, 0.002
    while found := members():  # one may fork while we look
        # Stopped first: a program whose child dies a moment before would go on as if that had come to its own end.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        if time.monotonic() > deadline:
            return found
        time.sleep(pause)
        pause = min(0.05, pause * 2)
    return set()


def frozen(pid: int) -> bool:
    """Whether somebody stopped this process (``SIGSTOP``)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2][1:2] == b"T"
    except OSError:
        return False


def wake(word: str) -> None:
    """Let all stopped processes go on that have a word in their command line which begins so."""
    for pid in filter(frozen, psutil.pids()):
        with contextlib.suppress(OSError):
            if any(one.startswith(os.fsencode(word)) for one in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")):
                os.kill(pid, signal.SIGCONT)


def boot_id() -> str:
    """The kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _session_of(pid: int) -> int | None:
    """The session of a process that is not a zombie."""
    try:
        state, _, _, session = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:4]
    except (OSError, ValueError):
        return None
    return None if state == b"Z" else int(session)


def _has_open(pid: int, files: Collection[tuple[int, int]]) -> bool:
    """Whether a process writes to one of these files (device, inode)."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            if (found := _stat(entry.path)) is not None and (found.st_dev, found.st_ino) in files:
                return bool(os.lstat(entry.path).st_mode & 0o200)  # the link's mode says how it is open
    return False


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
