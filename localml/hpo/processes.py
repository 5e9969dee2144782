"""Algorithms, each in a process of its own, with limits of time and memory; it ends with the server."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localml.core.errors import Code, LocalmlError
from localml.core.quantities import exact_memory
from localml.core.studies.algorithms import trial_space
from localml.engines.base import Account
from localml.hpo.base import Asked, Happening, Plugin, Proposal, Setup, Suggester
from localml.hpo.environments import Environments, Progress
from localml.hpo.link import Broken, Link
from localml.hpo.proposals import cleaned

_START = """
import json, sys
paths, first = json.loads(sys.argv[1])
sys.path = paths + sys.path if first else sys.path + paths
from localml.hpo.side.worker import main
main(int(sys.argv[2]))
"""
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""One thread each: sums come out the same every time, and the machine's cores are for the trials."""
_SCRATCH = "localml-algorithm-"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take: seconds to begin (with all of its history) and for each call, bytes of memory."""

    begin: float = 300.0
    call: float = 120.0
    memory: int = 4 << 30


class Processes:
    """Opens suggesters.

    Args:
        cache: where environments are made.
        account: whom an installed algorithm of an owner (by number) runs as; None: as this process. Raises for an
            owner from whom nobody can be protected here.
    """

    def __init__(
        self, cache: Path, *, account: Callable[[int], Account | None] = lambda _: None, limits: Limits = Limits()
    ) -> None:
        self._environments = Environments(cache)
        self._account = account
        self._limits = limits
        # A process can be bound to the life of the thread that begins it, so that is one that stays.
        self._beginner = ThreadPoolExecutor(1, thread_name_prefix="algorithms")

    def open(
        self,
        setup: Setup,
        history: Sequence[Happening] = (),
        state: bytes | None = None,
        progress: Progress = lambda _: None,
    ) -> Suggester:
        """Begin an algorithm's process; see :class:`localml.hpo.base.Suggesters`."""
        with _Opening() as opening:
            python, account = self._python(setup, progress, opening)
            command = [python, "-I", "-c", _START, _paths(python), str(os.getpid())]
            child = self._beginner.submit(_begun, command, account, opening.folder).result()
            found = _Suggester(setup, Link(child), self._limits, opening.folder)
            try:
                found.begin(history, state)
            except BaseException:
                found.close()
                raise
            opening.keep()
            return found

    def _python(self, setup: Setup, progress: Progress, opening: _Opening) -> tuple[str, Account | None]:
        if setup.plugin is None:
            return self._environments.built_in(setup.algorithm, progress), None
        account = self._account(setup.plugin.owner_id)
        copy = opening.copied(setup.plugin, account)
        wheels_only = account is not None
        return self._environments.installed(setup.plugin.name, copy, progress, wheels_only=wheels_only), account

    def close(self) -> None:
        """Begin no more; those that there are end with this process, or when they are closed."""
        self._beginner.shutdown()


class _Suggester:
    """One algorithm's process. The first failure ends it, and every later call fails with the same."""

    def __init__(self, setup: Setup, link: Link, limits: Limits, folder: Path | None) -> None:
        self._setup = setup
        self._name = setup.plugin.name if setup.plugin is not None else setup.algorithm
        self._space = trial_space(setup.algorithm, setup.params, setup.space) if setup.plugin is None else setup.space
        self._link = link
        self._limits = limits
        self._folder = folder
        self._keeps = False
        self._failure: LocalmlError | None = None

    def begin(self, history: Sequence[Happening], state: bytes | None) -> None:
        request = {
            "setup": _as_json(self._setup, self._folder),
            "history": [
                ["asked", one.number, one.values] if isinstance(one, Asked) else ["told", one.number, one.value]
                for one in history
            ],
            "state": base64.b64encode(state).decode() if state is not None else None,
            "memory": self._limits.memory,
        }
        self._keeps = bool(self._call(request, self._limits.begin)["keeps"])

    def ask(self, number: int) -> Proposal:
        answer = self._call({"do": "ask", "number": number}, self._limits.call)
        values = answer.get("values")
        if values is None:
            return Proposal(over=bool(answer.get("over")))
        if self._setup.experiments:
            return Proposal(values)  # the study's own, which need not have the same names
        try:
            return Proposal(cleaned(self._space, values))
        except LocalmlError as error:
            raise self._failed(f"proposed {_shown(values)}: {error.message}", "") from error

    def tell(self, number: int, value: float | None) -> None:
        self._call({"do": "tell", "number": number, "value": value}, self._limits.call)

    def state(self) -> bytes | None:
        if not self._keeps:
            return None
        return base64.b64decode(self._call({"do": "state"}, self._limits.call)["state"])

    def close(self) -> None:
        self._link.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        if self._failure is not None:
            raise self._failure
        try:
            answer = self._link.call(request, seconds)
        except Broken as broken:
            raise self._failed(self._ending(str(broken)), self._link.printed) from broken
        if "error" in answer:
            self._link.kill()
            words, trace = str(answer["error"]), str(answer.get("traceback", ""))
            raise self._failed(f"failed: {words}{self._limit_words(words)}", trace)
        return answer

    def _ending(self, words: str) -> str:
        last = self._link.printed.splitlines()
        return f"{words}: {last[-1][:500]}" if last and "did not answer" not in words else words

    def _limit_words(self, words: str) -> str:
        out = words.startswith("MemoryError") or "ArrayMemoryError" in words or "bad_alloc" in words
        return f" (it may take {exact_memory(self._limits.memory)})" if out else ""

    def _failed(self, words: str, trace: str) -> LocalmlError:
        self._link.kill()
        own = f"{self._folder}{os.sep}" if self._folder is not None else ""
        words, trace, printed = (text.replace(own, "") if own else text for text in (words, trace, self._link.printed))
        details = {"algorithm": self._name, "traceback": trace, "printed": printed}
        words = f"the algorithm '{self._name}' {words}"
        self._failure = LocalmlError(Code.INVALID, words, field="algorithm", details=details)
        return self._failure


class _Opening:
    """The scratch folder of a process that is being begun; gone again unless it is kept."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._kept = False

    def __enter__(self) -> _Opening:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None and not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self) -> None:
        self._kept = True

    def copied(self, plugin: Plugin, account: Account | None) -> Path:
        """A copy of an installed algorithm that its process may write to."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
        try:
            shutil.copytree(plugin.folder, self.folder, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            words = f"the files of the algorithm '{plugin.name}' cannot be read: {error}"
            raise LocalmlError(Code.UNAVAILABLE, words, field="algorithm") from error
        if account is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        return self.folder


def _begun(command: Sequence[str], account: Account | None, folder: Path | None) -> subprocess.Popen[bytes]:
    kept = {name: text for name, text in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TZ")}
    who: dict[str, Any] = {}
    if account is not None:
        who = {"user": account.uid, "group": account.gid, "extra_groups": list(account.groups)}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder or "/",
        env={**kept, **_THREADS, "HOME": str(folder or "/"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
        **who,
    )


def sweep() -> None:
    """Remove the scratch folders of servers that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        owner = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _paths(python: str) -> str:
    """Where this process finds modules: an environment finds its own before them."""
    paths = [os.path.abspath(path) for path in sys.path if path and os.path.exists(path)]
    return json.dumps([paths, python == sys.executable])


def _as_json(setup: Setup, folder: Path | None) -> dict[str, Any]:
    plugin = setup.plugin
    return {
        "algorithm": setup.algorithm,
        "params": setup.params,
        "space": [one.model_dump(mode="json") for one in setup.space],
        "goal": setup.goal.value,
        "seed": setup.seed,
        "experiments": list(setup.experiments),
        "plugin": None
        if plugin is None
        else {"name": plugin.name, "folder": str(folder), "log_level": plugin.log_level},
    }


def _shown(values: Any) -> str:
    return json.dumps(values)[:300]
