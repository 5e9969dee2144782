"""Which ends were the daemon's own: a daemon that is restarted, or whose machine is, ends what it runs.

It does so after it has closed its door, or before it opens it again, with SIGTERM and later SIGKILL. It notes no more
than how each program ended; but it makes its own bridge network each time that it begins anew, once it has ended what
was left. So what ended by these signals before that is of its doing. Other codes may be a program's answer to SIGTERM:
they count where the daemon was seen to leave at about that time. While its door is closed nothing is told of any end.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
from docker.errors import NotFound

from localml.engines.base import EngineUnreachable, Observed, Phase
from localml.engines.docker.containers import timestamp
from localml.engines.docker.daemon import Daemon

_BRIDGE = "bridge"
_SIGNALS = (128 + 15, 128 + 9)
_VANISHED = 255
"""What the daemon says of a program that it does not find again, as its machine, or containerd, died with it."""
_SLACK_S = 1.0
_PATIENCE_S = 30.0
"""Within so long a daemon that is told to end has ended its containers (15 s, and more on a busy machine), and
as much later this is noticed at the latest: connections that there are go on until then. What ended earlier was looked
at before."""
_RESTORED_S = 10.0
"""A daemon notes the end of what it does not find again when it begins anew, so shortly before it makes its network."""
_REMEMBERED = 64


class Outages:
    """When the daemon went away, as far as this process saw it. Safe to use from many threads."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._left: deque[float] = deque(maxlen=_REMEMBERED)
        self._away = False
        self._lock = threading.Lock()

    def left(self, at: float | None = None) -> None:
        """The daemon is away since ``at`` (seconds since the epoch), or now. Until it answers this is one absence,
        however often it is said.
        """
        at = time.time() if at is None else at
        with self._lock:
            if self._away:
                self._left[-1] = min(self._left[-1], at)
            else:
                self._left.append(at)
            self._away = True

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a question: that it is not answered may be the first sign that the daemon left."""
        try:
            yield
        except EngineUnreachable:
            self.left()
            raise
        with self._lock:
            self._away = False

    def told(self, seen: Observed) -> Observed:
        """The same, with ``interrupted`` if the daemon itself ended it.

        Raises:
            EngineUnreachable: the daemon is just ending, so that this cannot be told yet.
        """
        if seen.phase is not Phase.EXITED or seen.oom_killed or seen.started_at is None or seen.finished_at is None:
            return seen
        if self._daemon.closed():
            self.left(max(seen.finished_at, time.time() - _PATIENCE_S))  # what ended long ago says nothing of it
            raise EngineUnreachable("the Docker daemon lets nobody in: it is about to end, or to begin")
        rebooted = seen.started_at < psutil.boot_time()
        closed = [at for at in tuple(self._left) if at - _PATIENCE_S <= seen.finished_at]
        if seen.exit_code not in (*_SIGNALS, _VANISHED) and not closed:
            return seen
        began = self._began()
        if began is None or seen.started_at >= began or seen.finished_at > began + _SLACK_S:
            return seen
        vanished = seen.exit_code == _VANISHED and (rebooted or seen.finished_at >= began - _RESTORED_S)
        ended = seen.exit_code in _SIGNALS or any(_just(seen.finished_at, at, began) for at in closed)
        keeps = bool(self._daemon.info().get("LiveRestoreEnabled")) and not rebooted
        if not vanished and (keeps or not ended):
            return seen
        words = "the machine was restarted" if rebooted else "the Docker daemon was restarted"
        return replace(seen, interrupted=f"{words} while it ran (it ended with exit code {seen.exit_code})")

    def _began(self) -> float | None:
        """When the daemon began anew, having ended what it found; None if that cannot be told."""
        try:
            found: Mapping[str, Any] = self._daemon.api.inspect_network(_BRIDGE)
        except NotFound:
            return None
        return timestamp(str(found.get("Created") or ""))


def _just(finished_at: float, closed: float, began: float) -> bool:
    """Whether an end is just after the daemon's own, or just before its beginning."""
    return finished_at <= closed + _PATIENCE_S or finished_at >= began - _PATIENCE_S
