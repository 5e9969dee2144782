"""Asking a notebook's Jupyter server what it does, through its own REST API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

from localml.core.errors import Code, LocalmlError

TIMEOUT_S = 5.0
_BUSY = ("busy", "starting", "restarting", "autorestarting")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel. ``state`` in Jupyter's words (``idle``, ``busy``, ``starting``), ``last_activity`` in epoch seconds."""

    id: str
    name: str
    state: str
    last_activity: float
    connections: int

    @property
    def busy(self) -> bool:
        """Whether it computes, or is about to."""
        return self.state in _BUSY


@dataclass(frozen=True, slots=True)
class Usage:
    """What server and kernels use: bytes, and percent of one core; None where the server cannot tell."""

    memory: int | None = None
    memory_limit: int | None = None
    cpu_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Activity:
    """What a notebook does. Times in epoch seconds.

    ``last`` is the last thing that somebody did: of all kernels and terminals where there are any, else of the server.
    """

    kernels: tuple[Kernel, ...]
    busy: bool
    started: float
    last: float


class Jupyter:
    """One server. Questions do not count as activity there. Use it as a context manager.

    Args:
        base: such as ``http://127.0.0.1:8888``.
        token: of that server.

    All methods raise ``UNAVAILABLE`` when it does not answer as a Jupyter server would.
    """

    def __init__(self, base: str, token: str) -> None:
        self._base = base
        self._http = urllib3.PoolManager(headers={"Authorization": f"token {token}"}, timeout=TIMEOUT_S, retries=False)

    def __enter__(self) -> Jupyter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._http.clear()

    def activity(self) -> Activity:
        """Kernels, and when something was done last."""
        status = self._get("/api/status")
        with _well_formed():
            kernels = tuple(_kernel(one) for one in self._get("/api/kernels"))
            terminals = [_seconds(one["last_activity"]) for one in self._terminals()]
            times = [one.last_activity for one in kernels] + terminals
            return Activity(
                kernels=kernels,
                busy=any(one.busy for one in kernels),
                started=_seconds(status["started"]),
                last=max(times) if times else _seconds(status["last_activity"]),
            )

    def usage(self) -> Usage:
        """Memory and CPU, where the server has jupyter-resource-usage."""
        found = self._get("/api/metrics/v1", missing={})
        limit = found.get("limits", {}).get("memory", {}).get("rss") if isinstance(found, dict) else None
        if not isinstance(found, dict):
            return Usage()
        return Usage(found.get("pss") or found.get("rss"), limit or None, found.get("cpu_percent"))

    def _terminals(self) -> list[dict[str, Any]]:
        return list(self._get("/api/terminals", missing=[]))

    def _get(self, path: str, missing: Any = None) -> Any:
        try:
            answer = self._http.request("GET", f"{self._base}{path}?no_track_activity=1")
            if answer.status == 404 and missing is not None:
                return missing
            if answer.status != 200:
                raise _unavailable(f"it answers {answer.status}")
            return answer.json()
        except (HTTPError, ValueError) as error:
            raise _unavailable(str(error)) from error


def answers(base: str) -> bool:
    """Whether a web server answers there, be it with a refusal."""
    try:
        return urllib3.request("GET", base, timeout=TIMEOUT_S, retries=False).status < 500
    except HTTPError:
        return False


def _kernel(one: dict[str, Any]) -> Kernel:
    return Kernel(
        str(one["id"]),
        str(one["name"]),
        str(one["execution_state"]),
        _seconds(one["last_activity"]),
        int(one["connections"]),
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@contextmanager
def _well_formed() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unavailable(f"it answers what no Jupyter server would ({error!r})") from error


def _unavailable(why: str) -> LocalmlError:
    return LocalmlError(Code.UNAVAILABLE, f"the notebook does not answer: {why}")
