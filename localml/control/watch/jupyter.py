"""Asking a notebook's Jupyter server what it does, through its own REST API."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from localml.control.asking import ask
from localml.core.errors import Code, LocalmlError

TIMEOUT_S = 5.0
_KERNEL_USAGE = "/api/metrics/v1/kernel_usage/get_usage"
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
    """One server. Questions do not count as activity there.

    Args:
        base: such as ``http://127.0.0.1:8888``.
        token: of that server.

    All methods raise ``UNAVAILABLE`` when it does not answer as a Jupyter server would.
    """

    def __init__(self, base: str, token: str) -> None:
        self._base = base
        self._headers = {"Authorization": f"token {token}"}

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

    def kernel_usage(self, kernel: str) -> Usage:
        """The same of one kernel, where both the server and the kernel can tell."""
        found = self._get(f"{_KERNEL_USAGE}/{quote(kernel, safe='')}", missing={})
        content = found.get("content") if isinstance(found, dict) else None
        if not isinstance(content, dict):
            return Usage()
        return Usage(_number(content.get("kernel_memory")), None, _number(content.get("kernel_cpu")))

    def _terminals(self) -> list[dict[str, Any]]:
        return list(self._get("/api/terminals", missing=[]))

    def _get(self, path: str, missing: Any = None) -> Any:
        try:
            page = f"{self._base}{path}?no_track_activity=1"
            status, body = ask(page, seconds=TIMEOUT_S, headers=self._headers)
            if status == 404 and missing is not None:
                return missing
            if status != 200:
                raise _unavailable(f"it answers {status}")
            return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise _unavailable(str(error)) from error


def answers(base: str) -> bool:
    """Whether a web server answers there, be it with a refusal."""
    try:
        return ask(base, seconds=TIMEOUT_S, most=0, cut=True)[0] < 500
    except (OSError, http.client.HTTPException):
        return False


def _kernel(one: dict[str, Any]) -> Kernel:
    return Kernel(
        str(one["id"]),
        str(one["name"]),
        str(one["execution_state"]),
        _seconds(one["last_activity"]),
        int(one["connections"]),
    )


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@contextmanager
def _well_formed() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _unavailable(f"it answers what no Jupyter server would ({error!r})") from error


def _unavailable(why: str) -> LocalmlError:
    return LocalmlError(Code.UNAVAILABLE, f"the notebook does not answer: {why}")
