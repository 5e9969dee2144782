"""Algorithms, each in a process of its own, with limits of time and memory; it ends with the server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localml.core.errors import Code, LocalmlError
from localml.core.quantities import exact_memory
from localml.core.studies.algorithms import built_in, trial_space
from localml.engines.base import Account
from localml.hpo.base import Asked, Happening, Proposal, Setup, Suggester
from localml.hpo.environments import Environments, Progress
from localml.hpo.link import Broken, Link
from localml.hpo.proposals import cleaned
from localml.hpo.runs import Run, Runs, module_folders

_START = """
import json, sys
paths, first = json.loads(sys.argv[1])
sys.path = paths + sys.path if first else sys.path + paths
from localml.hpo.side.worker import main
main(int(sys.argv[2]))
"""
_GUARD = """
import json, sys
given = json.loads(sys.argv[1])
sys.path = given.pop("paths") + sys.path
from localml.hpo.side.guard import main
main(**given)
"""
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""One thread each: sums come out the same every time, and the machine's cores are for the trials."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may take: seconds to begin and for each call, seconds more for each asking and telling of its
    history, bytes of memory."""

    begin: float = 120.0
    call: float = 120.0
    each: float = 0.05
    memory: int = 4 << 30


class Processes:
    """Opens suggesters.

    Args:
        cache: where environments are made.
        data: the data directory, below which the processes of installed algorithms have their folders, and of which
            they see nothing else where they run under an account.
        account: whom an installed algorithm of an owner (by number) runs as; None: as this process. Raises for an
            owner from whom nobody can be protected here.
    """

    def __init__(
        self,
        cache: Path,
        data: Path,
        *,
        account: Callable[[int], Account | None] = lambda _: None,
        limits: Limits = Limits(),
    ) -> None:
        self._environments = Environments(cache)
        self._runs = Runs(data)
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
        with ExitStack() as undo:
            python, run = self._prepared(setup, progress, undo)
            child = self._beginner.submit(_begun, python, run).result()
            found = _Suggester(setup, Link(child), self._limits, run)
            undo.callback(found.close)
            found.begin(history, state)
            undo.pop_all()
            return found

    def _prepared(self, setup: Setup, progress: Progress, undo: ExitStack) -> tuple[str, Run | None]:
        """The Python to run, and the folder of an installed algorithm to run in."""
        if setup.plugin is None:
            return self._environments.built_in(_name(setup), progress), None
        plugin = setup.plugin
        account = self._account(plugin.owner_id)
        wheels_only = account is not None
        python = self._environments.installed(plugin.name, plugin.folder, progress, wheels_only=wheels_only)
        run = self._runs.begin(plugin, account, python)
        undo.callback(run.end)
        return python, run

    def close(self) -> None:
        """Begin no more; those that there are end."""
        self._beginner.shutdown()


class _Suggester:
    """One algorithm's process. The first failure ends it, and every later call fails with the same."""

    def __init__(self, setup: Setup, link: Link, limits: Limits, run: Run | None) -> None:
        self._setup = setup
        self._name = _name(setup)
        self._space = trial_space(self._name, setup.params, setup.space) if setup.plugin is None else setup.space
        self._link = link
        self._limits = limits
        self._run = run
        self._keeps = False
        self._failure: LocalmlError | None = None

    def begin(self, history: Sequence[Happening], state: bytes | None) -> None:
        request = {
            "setup": _as_json(self._setup, self._run),
            "history": [
                ["asked", one.number, one.values] if isinstance(one, Asked) else ["told", one.number, one.value]
                for one in history
            ],
            "state": base64.b64encode(state).decode() if state is not None else None,
            "memory": self._limits.memory,
        }
        answer = self._call(request, self._limits.begin + len(history) * self._limits.each)
        self._keeps = bool(answer.get("keeps"))

    def ask(self, number: int) -> Proposal:
        answer = self._call({"do": "ask", "number": number}, self._limits.call)
        values = answer.get("values")
        if values is None:
            return Proposal(over=bool(answer.get("over")))
        if self._setup.experiments:
            return Proposal(values)  # the study's own, which need not have the same names
        if not isinstance(values, dict):
            raise self._failed(f"proposed {_shown(values)}", "")
        try:
            return Proposal(cleaned(self._space, values))
        except LocalmlError as error:
            raise self._failed(f"proposed {_shown(values)}: {error.message}", "") from error

    def tell(self, number: int, value: float | None) -> None:
        self._call({"do": "tell", "number": number, "value": value}, self._limits.call)

    def state(self) -> bytes | None:
        if not self._keeps:
            return None
        answer = self._call({"do": "state"}, self._limits.call)
        try:
            return base64.b64decode(answer["state"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._failed("gave no state", "") from error

    def close(self) -> None:
        self._link.kill()
        if self._run is not None:
            self._run.end()

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
        own = f"{self._run.folder}{os.sep}" if self._run is not None else ""
        words, trace, printed = (text.replace(own, "") if own else text for text in (words, trace, self._link.printed))
        details = {"algorithm": self._name, "traceback": trace, "printed": printed}
        words = f"the algorithm '{self._name}' {words}"
        self._failure = LocalmlError(Code.INVALID, words, field="algorithm", details=details)
        return self._failure


def _begun(python: str, run: Run | None) -> subprocess.Popen[bytes]:
    folder = str(run.folder) if run is not None else "/"
    kept = {name: text for name, text in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TZ")}
    return subprocess.Popen(
        _command(python, run),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**kept, **_THREADS, "HOME": folder, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )


def _command(python: str, run: Run | None) -> list[str]:
    command = [python, "-I", "-u", "-c", _START, _paths(python)]
    if run is None:
        return [*command, str(os.getpid())]
    given = {"paths": module_folders(), "parent": os.getpid(), "box": run.box, "command": command}
    return [sys.executable, "-I", "-u", "-c", _GUARD, json.dumps(given)]


def _paths(python: str) -> str:
    """Where this process finds modules: an environment finds its own before them."""
    return json.dumps([module_folders(), python == sys.executable])


def _as_json(setup: Setup, run: Run | None) -> dict[str, Any]:
    plugin = setup.plugin
    return {
        "algorithm": _name(setup),
        "params": setup.params,
        "space": [one.model_dump(mode="json") for one in setup.space],
        "goal": setup.goal.value,
        "seed": setup.seed,
        "experiments": list(setup.experiments),
        "plugin": None
        if plugin is None or run is None
        else {"name": plugin.name, "folder": str(run.folder), "log_level": plugin.log_level},
    }


def _name(setup: Setup) -> str:
    """The algorithm's own name: that of a built-in one may be given in any case."""
    found = built_in(setup.algorithm) if setup.plugin is None else None
    return found.name if found is not None else setup.algorithm


def _shown(values: Any) -> str:
    return json.dumps(values)[:300]
