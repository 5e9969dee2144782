"""The process engine's side of boxes: whether they can be made, what each one sees, and how a command joins one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from localml.core.descriptors import limit_of_children
from localml.core.work.specs import most_pids
from localml.engines.base import Account, Bind, EngineError
from localml.engines.process import box
from localml.engines.process.folder import PlanRecord, ReplicaDir
from localml.engines.process.io import Beside
from localml.engines.process.launch import Launch
from localml.engines.process.spawn import ENVIRONMENT, compiled, interpreter

_ALL_AS_ONE = "jobs run as the server's own user here, who can read its secrets and everybody's files"
_NO_BOXES = (
    "none: replicas are processes of the server's user on this machine, with its files, network and installed "
    "programs; GPUs are kept apart by environment variables only"
)
_BOXES = (
    "replicas of ordinary users run as a user of their own and see no private folder but what they are given; network, "
    "devices and programs are the machine's, and GPUs are kept apart by environment variables only"
)
_SCRATCH = (Path("/tmp"), Path("/var/tmp"))
_BEGIN_WAIT = 15.0
"""Seconds that a replica which was just started may take to be in its box."""
_TRY_WAIT = 60.0
"""Seconds that the first box, which does nothing, may take."""
_JOINED = frozenset({"uid", "gid", "group", "processes", "files", "memory", "cgroup"})
"""Options of a replica that hold for what joins its box, too."""
_NO_ROOT = "the server does not run as root"
_NO_PYTHON = "no other user can run the Python of localml: it cannot be read, or there are links in a private folder"
_SOMEBODY = Account(65534, 65534, ())
_NO_NAMESPACES = "the server is root, but may not make mount namespaces (CAP_SYS_ADMIN, Linux 5.6)"


class Boxes:
    """Keeps replicas apart whose plan names an account.

    Args:
        root: the folder of the replicas' folders.
        hidden: folders of which a box sees nothing but what it is given.

    Attributes:
        trouble: why there can be no boxes; empty where there can.
        exposes, isolation: the same as :class:`Capabilities` and :class:`NodeInfo` have it.
        program: the compiled :mod:`localml.engines.process.box`.
    """

    def __init__(self, root: Path, hidden: Sequence[Path] = ()) -> None:
        self._root = Path(os.path.realpath(root))
        self._real = {path: Path(os.path.realpath(path)) for path in (root, *hidden)}
        self._hidden = set(self._real.values())
        self.trouble = trouble()
        self.program = None if self.trouble else compiled(box, self._root)
        self.trouble = self.trouble or self._tried()
        self.exposes = f"{_ALL_AS_ONE} ({self.trouble})" if self.trouble else ""
        self.isolation = _NO_BOXES if self.trouble else _BOXES

    def _tried(self) -> str:
        """Why nobody else can run the Python that runs this, in a box; empty where that works."""
        made = ReplicaDir(self._root / "box").beside()
        with contextlib.ExitStack() as stack:
            stack.callback(made.delete)
            for folder in (made.path / "work", made.path / "tmp"):
                folder.mkdir(parents=True)
                os.chown(folder, _SOMEBODY.uid, _SOMEBODY.gid)
            options = tuple(self.options(made.path.name, _SOMEBODY, {}, ()))
            launch = _passed(Launch((sys.executable, "-I", "-S", "-c", ""), {}, "/", options), stack)
            command = interpreter(self.program, -1, launch)
            how: dict[str, Any] = {"env": ENVIRONMENT, "pass_fds": [launch], "capture_output": True}
            try:
                tried = subprocess.run(command, check=False, timeout=_TRY_WAIT, **how)
            except subprocess.TimeoutExpired:
                return f"a Python that was started in a box did not end within {_TRY_WAIT:g} s"
        words = tried.stderr.decode(errors="replace").strip()[-300:]
        return f"{_NO_PYTHON} ({sys.executable}): {words}" if tried.returncode else ""

    def options(
        self, name: str, account: Account, env: Mapping[str, str], binds: Sequence[Bind]
    ) -> Iterator[tuple[str, str]]:
        """The supervisor's options for a replica in a box.

        Raises:
            EngineError: there are no boxes here.
        """
        if self.program is None:
            raise EngineError(f"{name} cannot run under an account of its own: {self.trouble}")
        yield "box", str(self.program)
        yield from self.account(account)
        folder = self._root / name
        yield "tmp", str(folder / "tmp")
        shown = self._shown(folder, env, binds)
        covered = {top for path in shown if (top := self._covered(path)) is not None} | self._hidden
        for path in covered:
            yield "cover", str(path)
        places: dict[Path, bool | None] = {**dict.fromkeys((*covered, *_SCRATCH)), **shown}
        for path, read_only in shown.items():
            around = next((places[one] for one in path.parents if one in places), False)
            if read_only is not around:  # else it is seen as it is with what it lies in
                yield "show-ro" if read_only else "show", str(path)

    @staticmethod
    def account(account: Account) -> Iterator[tuple[str, str]]:
        """The options that say who a box is, and what its user may have in all its boxes together."""
        yield "uid", str(account.uid)
        yield "gid", str(account.gid)
        for group in account.groups:
            yield "group", str(group)
        yield "processes", str(most_pids())

    def workdir(self, name: str) -> Path:
        """Where a replica in a box runs: the path that its folder has without links, as boxes see no others."""
        return self._root / name / "work"

    def seen(self, path: str, binds: Sequence[Bind]) -> str:
        """A folder's path without links, if a box that is given these would see it; else empty."""
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(self._without_links(Path(bind.source))) for bind in binds) or real in _SCRATCH:
            return str(real)
        private = {*self._hidden, *_SCRATCH, Path("/dev/shm")}
        hidden = any(real.is_relative_to(one) for one in private) or not real.is_dir() or self._covered(real / "x")
        return "" if hidden else str(real)

    def path(self, folders: str, env: Mapping[str, str]) -> str:
        """Of a search path the folders that a box can look into: because of another one, every program that is not
        there would be one that is forbidden.

        Args:
            env: what says which programs are shown.
        """
        shown = tuple(_programs(env))

        def is_open(folder: str) -> bool:
            real = Path(os.path.realpath(folder))
            if any(real.is_relative_to(one) for one in shown):
                return True
            return real.is_dir() and self._covered(real / "x") is None

        return os.pathsep.join(filter(is_open, folders.split(os.pathsep)))

    @contextlib.contextmanager
    def beside(self, folder: ReplicaDir, plan: PlanRecord, launch: Launch) -> Iterator[Beside]:
        """How to run a command beside a running replica, in its box if it has one.

        What joins a box begins as root: the job's environment is told to it, not given, for it would load what that
        names.

        Raises:
            EngineError: the replica ended, or there are no boxes here any more.
        """
        if plan.account is None:
            yield Beside(_limited(launch.command), launch.env, launch.workdir)
            return
        if self.program is None:
            raise EngineError(f"the box of {folder.path.name} cannot be joined: {self.trouble}")
        options = [one for one in folder.options() if one[0] in _JOINED]
        told = Launch(launch.command, launch.env, launch.workdir, options)
        with contextlib.ExitStack() as stack:
            namespace = _namespace(folder, plan.account)
            stack.callback(os.close, namespace)
            passed = [namespace, _passed(told, stack)]
            yield Beside(interpreter(self.program, *passed), ENVIRONMENT, "/", passed)

    def _shown(self, folder: Path, env: Mapping[str, str], binds: Sequence[Bind]) -> dict[Path, bool]:
        """What a box sees of private folders -> whether it may only read it."""
        shown = dict.fromkeys(_programs(env), True)
        shown |= {self._without_links(Path(bind.source)): bind.read_only for bind in binds}
        return {**shown, folder / "work": False}

    def _without_links(self, path: Path) -> Path:
        """A path with the links above hidden folders resolved; below, where jobs may make some, none is followed."""
        above = [one for one in self._real if path.is_relative_to(one)]
        nearest = max(above, key=lambda one: len(one.parts), default=None)
        return path if nearest is None else self._real[nearest] / path.relative_to(nearest)

    def _covered(self, path: Path) -> Path | None:
        """The topmost folder on the way to one that is hidden, or that not everybody may enter."""
        for above in reversed(path.parents):
            if above in self._hidden or not os.stat(above).st_mode & 0o001:
                return above
        return None


def _namespace(folder: ReplicaDir, account: Account) -> int:
    """Descriptor of the mount namespace that a replica's first process is in, once it is complete."""
    deadline = time.monotonic() + _BEGIN_WAIT
    while time.monotonic() < deadline:
        running = folder.running()
        if running is not None:
            with contextlib.suppress(OSError, psutil.NoSuchProcess), contextlib.ExitStack() as stack:
                child = psutil.Process(running.child)
                if child.uids().real == account.uid:  # it becomes somebody else last; before, this may be the machine's
                    found = os.open(f"/proc/{running.child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, found)
                    # Whose parent is the living supervisor is no later one of its number.
                    if child.uids().real == account.uid and child.ppid() == folder.holder():
                        stack.pop_all()
                        return found
        time.sleep(0.005)
    raise EngineError(f"{folder.path.name} does not run, or has not begun")


def _passed(launch: Launch, stack: contextlib.ExitStack) -> int:
    """Descriptor of a file with this content, for as long as the stack lasts."""
    made = os.memfd_create("launch", os.MFD_CLOEXEC)
    stack.callback(os.close, made)
    os.write(made, launch.encode())
    os.lseek(made, 0, os.SEEK_SET)
    return made


def _limited(command: Sequence[str]) -> Sequence[str]:
    """A command that gets the limit of open files that the server had; how far it may be raised has not changed."""
    files = limit_of_children()
    return command if files is None else ("/bin/sh", "-c", f'ulimit -S -n {files[0]}; exec "$@"', "sh", *command)


def trouble() -> str:
    """Why there can be no boxes on this machine; empty where there can."""
    if os.geteuid() != 0:
        return _NO_ROOT
    found: list[bool] = []
    trying = threading.Thread(target=lambda: found.append(box.possible()))
    trying.start()
    trying.join()
    return "" if found == [True] else _NO_NAMESPACES


def _programs(env: Mapping[str, str]) -> Iterator[Path]:
    """The folders of programs that an environment uses: Python's, the virtual environment's, further modules'."""
    modules = env.get("PYTHONPATH", "").split(os.pathsep)
    for name in {sys.prefix, sys.base_prefix, env.get("VIRTUAL_ENV", ""), *modules}:
        if os.path.isabs(name) and os.path.exists(name):
            yield Path(os.path.realpath(name))
