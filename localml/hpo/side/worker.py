"""The process of one algorithm: a line of JSON asks, a line of JSON answers, until the pipe is closed.

It imports the standard library alone until the algorithm is known: an installed one may need other versions of
everything else. What the algorithm prints goes to stderr.

Requests (``do``): ``open`` (the first one: setup, history, state, limits), ``ask``, ``tell``, ``state``. An answer has
``error`` and ``traceback`` if the algorithm failed, which ends the process.
"""

from __future__ import annotations

import base64
import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from types import TracebackType
from typing import IO, Any, Protocol

from localml.hpo.side.guard import end_with

_LONGEST_TRACEBACK = 8_000
_MODULES = {"hyperband": "hyperband", "grid": "grid"}
"""Algorithm -> its module beside this one; the others are samplers."""


class Algorithm(Protocol):
    """What an algorithm answers in its own process."""

    keeps: bool  # whether it has a state beyond what it was asked and told

    def ask(self, number: int) -> tuple[dict[str, Any] | None, bool]:
        """Values of a trial or None, and whether there will never be more."""
        ...

    def tell(self, number: int, value: float | None) -> None: ...

    def state(self) -> bytes: ...


def main(parent: int) -> None:
    """Serve until the pipe is closed.

    Args:
        parent: the number of the process that this one ends with: the server, or the guard of an installed algorithm.
    """
    requests, answers = _own_pipes()
    end_with(parent, signal.SIGKILL)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=False)
    algorithm: Algorithm | None = None
    for line in requests:
        try:
            request = json.loads(line)
            if algorithm is None:
                algorithm = _opened(request)
                answer: dict[str, Any] = {"keeps": algorithm.keeps}
            else:
                answer = _answered(algorithm, request)
            text = json.dumps(answer)
        except BaseException as error:  # whatever a foreign algorithm raises, SystemExit among it
            _say(answers, json.dumps(_failure(error)))
            os._exit(1)
        _say(answers, text)
    os._exit(0)  # threads of a foreign algorithm do not keep it


def _own_pipes() -> tuple[IO[str], IO[str]]:
    """The pipes to the server, where nothing else can read from them or print to them."""
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, answers


def _say(answers: IO[str], text: str) -> None:
    try:
        answers.write(text + "\n")
        answers.flush()
    except OSError:  # nobody listens any more
        os._exit(1)


def _opened(request: dict[str, Any]) -> Algorithm:
    for kind, limit in ((resource.RLIMIT_DATA, request["memory"]), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (limit, limit))
    state = base64.b64decode(request["state"]) if request["state"] is not None else None
    setup, history = request["setup"], request["history"]
    module = "plugin" if setup["plugin"] is not None else _MODULES.get(setup["algorithm"], "sampled")
    opened: Algorithm = importlib.import_module(f"localml.hpo.side.{module}").opened(setup, history, state)
    return opened


def _answered(algorithm: Algorithm, request: dict[str, Any]) -> dict[str, Any]:
    match request["do"]:
        case "ask":
            values, over = algorithm.ask(request["number"])
            return {"values": values, "over": over}
        case "tell":
            algorithm.tell(request["number"], request["value"])
            return {}
        case _:
            return {"state": base64.b64encode(algorithm.state()).decode()}


def _failure(error: BaseException) -> dict[str, Any]:
    kind, words = type(error), str(error)
    if isinstance(error, MemoryError):
        words = words or "it takes more memory than it may"
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    lines = traceback.format_exception(kind, error, _from_the_algorithm(error.__traceback__))
    return {"error": f"{name}: {words[:1000]}" if words else name, "traceback": "".join(lines)[-_LONGEST_TRACEBACK:]}


def _from_the_algorithm(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this folder that come before the algorithm's own."""
    ours = os.path.dirname(__file__)
    found = trace
    while found is not None and found.tb_frame.f_code.co_filename.startswith(ours):
        found = found.tb_next
    return found or trace
