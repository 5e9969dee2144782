"""The folder of one replica of the process engine: what its files say and who may write them.

==============  =========  ===============================================================================
file            written    meaning
==============  =========  ===============================================================================
plan.json       engine     the plan, and when it was made; a folder without it is no replica (yet, or any more)
launch          engine     what the supervisor runs (:class:`localml.engines.process.launch.Launch`)
exit.part       engine     room reserved on the disk for ``exit.json``
stdout, stderr  superv.    the child's output, exactly; the child has pipes (:mod:`localml.engines.process.pipes`)
work/           child      where it runs unless the plan's work directory exists here
tmp/            child      its /tmp, if it runs under an account of its own; of the rest it can then see nothing
stop            engine     grace in seconds; read by the supervisor at SIGTERM, and before it begins
lock            --         locked (POSIX record lock) by the supervisor as long as it lives
running.json    superv.    process numbers, start time in ticks, boot id, pipes; written before the command begins
exit.json       superv.    how it ended; the engine writes it only when no supervisor is left to do it
notes           superv.    limits that could not be set and such
==============  =========  ===============================================================================

All of it survives the server, so phases are read from here and nowhere else: ``exit.json`` -> exited; lock held ->
running; ``running.json`` alone -> the supervisor was killed; only ``plan.json`` -> created.

A removed replica's folder may wait, emptied and under another name, for the next one (:meth:`ReplicaDir.emptied`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from localml.core.trees import remove_tree
from localml.engines.base import STREAMS, Account, EngineError, ReplicaPlan
from localml.engines.process.launch import Launch

UNFINISHED = ".new-"
"""Start of the names of folders that are being made, followed by the maker's process number."""
_UNFINISHED_AGE = 3600.0
"""Seconds after which a folder that was never finished is taken for a dead server's."""
EXIT_ROOM = 4096
"""Bytes reserved for ``exit.json``: one block, so that a full disk cannot lose an end."""

_REMOVED = frozenset({*STREAMS, "notes", "stop", "stop.part"})
_PARTS = _REMOVED | {"work", "lock", "launch", "plan.part", "exit.part", "exit.json", "running.part", "running.json"}
"""All that there can be in a replica's folder."""

_T = TypeVar("_T")
_FLOCK = "hhqqi"  # struct flock of 64-bit Linux: type, whence, start, length, pid


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What is needed of ``plan.json`` once the replica was started."""

    labels: Mapping[str, str]
    env: Mapping[str, str]
    workdir: str
    created_at: float
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class RunningRecord:
    """``running.json``."""

    supervisor: int
    start_ticks: int
    child: int
    boot_id: str
    started_at: float
    outputs: tuple[tuple[int, int], ...] = ()
    """Device and inode of the pipes that its program writes to; those of before there were pipes have none."""


@dataclass(frozen=True, slots=True)
class EndRecord:
    """``exit.json``. Sizes in bytes, times in seconds. ``interrupted``: its supervisor was ended, by nobody of ours."""

    exit_code: int | None
    signal: int | None
    oom_killed: bool
    finished_at: float
    max_rss: int = 0
    cpu_user_seconds: float = 0.0
    cpu_system_seconds: float = 0.0
    error: str = ""
    interrupted: bool = False


class ReplicaDir:
    """Access to one replica's folder. Methods that write are called under the engine's lock for that name."""

    def __init__(self, path: str | Path) -> None:
        self._at = os.fspath(path)

    @property
    def path(self) -> Path:
        """Where it is. Inside, plain text is used: a replica's files are named dozens of times in its short life."""
        return Path(self._at)

    def exists(self) -> bool:
        """Whether there is a replica: a folder whose plan was written to its end."""
        return os.path.lexists(f"{self._at}/plan.json")

    def create(
        self, plan: ReplicaPlan, labels: Mapping[str, str], launch: Launch, spare: ReplicaDir | None = None
    ) -> PlanRecord:
        """Write everything that the supervisor needs, or find that another engine just did.

        The folder is made under another name and moved into place whole, so there is never half a replica.

        Args:
            spare: a folder to use, which :meth:`emptied` gave; it is given up if something is wrong with it.

        Raises:
            EngineError: the file system refuses (full, read-only, ...); nothing is left behind.
        """
        record = PlanRecord(dict(labels), dict(launch.env), launch.workdir, time.time(), plan.account)
        new = spare or self.beside()
        try:
            if spare is None:
                new._make()
            new._fill(plan, record, launch)
            return self._move_in(new) or record
        except OSError as error:
            with contextlib.suppress(EngineError):
                new.delete()
            if spare is not None:
                return self.create(plan, labels, launch)
            raise EngineError(f"cannot make {self._at}: {error.strerror}") from error

    def beside(self) -> ReplicaDir:
        """A folder next to this one to be filled and moved here; its name tells which process makes it."""
        return ReplicaDir(self.path.with_name(f"{UNFINISHED}{os.getpid()}-{uuid.uuid4().hex}"))

    def abandoned(self) -> bool:
        """Whether this is a folder that was being made by a process which is no more; old ones are, for the number of
        their maker may be another's now."""
        maker = self.path.name.removeprefix(UNFINISHED).partition("-")[0]
        old = os.stat(self._at).st_mtime < time.time() - _UNFINISHED_AGE
        return self.path.name.startswith(UNFINISHED) and (old or not (maker.isdigit() and _lives(int(maker))))

    def _make(self) -> None:
        os.mkdir(self._at, 0o700)
        _write_private(f"{self._at}/lock", b"")
        file = os.open(f"{self._at}/exit.part", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, EXIT_ROOM)
        finally:
            os.close(file)

    def _fill(self, plan: ReplicaPlan, record: PlanRecord, launch: Launch) -> None:
        for name in ("work", "tmp") if plan.account else ("work",):
            os.mkdir(f"{self._at}/{name}", 0o700)
            if plan.account:
                os.chown(f"{self._at}/{name}", plan.account.uid, plan.account.gid)
        for name in STREAMS:
            _write_private(f"{self._at}/{name}", b"")
        _write_private(f"{self._at}/launch", launch.encode())
        text = json.dumps({"plan": _members(plan), **_members(record)}, default=_plain)
        _write_private(f"{self._at}/plan.part", text.encode())
        os.rename(f"{self._at}/plan.part", f"{self._at}/plan.json")

    def _move_in(self, new: ReplicaDir) -> PlanRecord | None:
        """Move a filled folder to this place; the plan of the replica that is already there, if one is."""
        try:
            os.rename(new._at, self._at)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            there = self.plan()
            if there is None:  # what a power cut left of one
                self.delete()
                os.rename(new._at, self._at)
            else:
                new.delete()
            return there
        return None

    def plan(self) -> PlanRecord | None:
        """The plan; None when there is none, or half of one after a power cut."""
        data = self._read("plan.json")
        if data is None:
            return None
        account = data.get("account")
        known = Account(account["uid"], account["gid"], tuple(account["groups"])) if account else None
        return PlanRecord(data["labels"], data["env"], data["workdir"], data["created_at"], known)

    def options(self) -> list[tuple[str, str]]:
        """What its supervisor was told, save for environment and command.

        Raises:
            OSError: it cannot be read.
        """
        with open(f"{self._at}/launch", "rb") as file:
            items = file.read().split(b"\0")
        pairs = (os.fsdecode(item).partition("=") for item in items[: items.index(b"")])
        return [(key, value) for key, _, value in pairs]

    def drop_other(self, launch: Launch) -> bool:
        """Delete a replica that was not begun and is to run something else; whether it was one."""
        with self.owned() as owned, open(f"{self._at}/launch", "rb") as file:
            if not owned or file.read() == launch.encode():
                return False
            self.forget()
            self.delete()
            return True

    def running(self) -> RunningRecord | None:
        """Who runs or ran; None before the supervisor got that far."""
        return _made(RunningRecord, self._read("running.json"))

    def end(self) -> EndRecord | None:
        """How it ended; None while nothing is known of an end."""
        return _made(EndRecord, self._read("exit.json"))

    def notes(self) -> str:
        """What the supervisor could not do, one line each."""
        try:
            with open(f"{self._at}/notes", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def ask_to_stop(self, grace: float) -> None:
        """Leave word for the supervisor; it reads this when it gets SIGTERM, or before it begins.

        Raises:
            EngineError: it cannot be written.
        """
        try:
            _write_private(f"{self._at}/stop.part", f"{grace!r}\n".encode())
            os.rename(f"{self._at}/stop.part", f"{self._at}/stop")
        except FileNotFoundError:
            pass  # removed meanwhile
        except OSError as error:
            raise EngineError(f"cannot write {self._at}/stop: {error.strerror}") from error

    def has_lock(self) -> bool:
        """Whether the lock has a name, as it does unless somebody deleted it."""
        return os.path.lexists(f"{self._at}/lock")

    def holder(self) -> int | None:
        """Process number of the living supervisor; None if there is none.

        Asks for the lock without taking it, so that it can't get in the way of a supervisor that begins.
        """
        try:
            file = os.open(f"{self._at}/lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        finally:
            os.close(file)
        # A lock that the engine itself holds (owned) is an open-file lock and has no process number: -1.
        return pid if kind != fcntl.F_UNLCK and pid > 0 else None

    @contextlib.contextmanager
    def owned(self) -> Iterator[bool]:
        """Hold the lock, if it is free: no supervisor can begin meanwhile. Gives whether it is held."""
        try:
            file = os.open(f"{self._at}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            yield False
            return
        try:
            # Not a record lock: that one would be lost when another thread closes the same file.
            wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                yield False
            else:
                yield True
        finally:
            os.close(file)

    def write_end(self, end: EndRecord) -> None:
        """Record an end in the supervisor's place; only while :meth:`owned`."""
        text = json.dumps(asdict(end))
        file = os.open(f"{self._at}/exit.part", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, text.encode().ljust(EXIT_ROOM - 1) + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(f"{self._at}/exit.part", f"{self._at}/exit.json")

    def forget(self) -> None:
        """Make it no replica any more: from here on nothing starts or is found in this folder."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self._at}/plan.json", f"{self._at}/plan.part")

    def emptied(self) -> ReplicaDir | None:
        """Move a forgotten replica's folder aside, for the next one; only while :meth:`owned`.

        Its own files stay, without what was in them: where many files were deleted a moment ago, ext4 takes ten times
        as long to make one. What the job saw or may still have open goes.

        Returns:
            The folder under another name; None if it is not as it was made, and then it is where it was, or gone.
        """
        spare = self.beside()
        try:
            there = set(os.listdir(self._at))
            if there - _PARTS or os.listdir(f"{self._at}/work") or os.lstat(self._at).st_mode & 0o077:
                return None
            os.rename(self._at, spare._at)
            spare._clear(there)
        except OSError:
            spare.delete()
            return None
        return spare

    def _clear(self, there: Set[str]) -> None:
        os.rmdir(f"{self._at}/work")
        for name in there & _REMOVED:
            os.unlink(f"{self._at}/{name}")
        for name in ("exit", "running"):
            if f"{name}.json" in there:
                os.rename(f"{self._at}/{name}.json", f"{self._at}/{name}.part")
        for name, size in (("launch", 0), ("plan.part", 0), ("running.part", 0), ("exit.part", EXIT_ROOM)):
            with contextlib.suppress(FileNotFoundError):
                os.truncate(f"{self._at}/{name}", size)

    def delete(self) -> None:
        """Delete the folder, whatever modes the job gave to what it left.

        Raises:
            EngineError: something cannot be deleted.
        """
        try:
            remove_tree(self._at, onerror=_delete_anyway)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            os.unlink(self._at)
        except OSError as error:
            raise EngineError(f"cannot delete {error.filename}: {error.strerror}") from error

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            with open(f"{self._at}/{name}", "rb") as file:
                data = json.loads(file.read())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return data if isinstance(data, dict) else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _made(kind: Callable[..., _T], data: dict[str, Any] | None) -> _T | None:
    """A record of its members; None when others are there."""
    try:
        return None if data is None else kind(**data)
    except TypeError:
        return None


def _members(record: Any) -> dict[str, Any]:
    """A record's members as they are; ``asdict`` would copy all that is in them first."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _plain(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else _members(value)


def _write_private(path: str, data: bytes) -> None:
    """Write a file that only its owner may read: plans hold secrets."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
    finally:
        os.close(file)


def _delete_anyway(function: Callable[[str], Any], path: str, info: Any) -> None:
    error = info[1]
    if isinstance(error, FileNotFoundError):
        return
    if not isinstance(error, PermissionError):
        raise error
    for folder in (os.path.dirname(path), path):
        with contextlib.suppress(OSError):
            if not os.path.islink(folder):
                os.chmod(folder, 0o700)
    if function in (os.scandir, os.open, os.listdir):  # a folder that could not be entered
        shutil.rmtree(path)
    else:
        function(path)
