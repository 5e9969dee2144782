"""Which ends were the daemon's own: a daemon that is restarted, or whose machine is, ends what it runs.

It does so after it has closed its door, or before it opens it again, with SIGTERM and later SIGKILL. It notes no more
than how each program ended; but it makes its own bridge network each time that it begins anew, once it has ended what
was left. So what ended by these signals before that is of its doing. Other codes may be a program's answer to SIGTERM:
they count where the door was seen to close just before. While it is closed nothing is told of any end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
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
"""What the daemon says of a program that it does not find again after its machine died."""
_SLACK_S = 1.0
_NOTICED_S = 15.0
"""So much later than the door closed this may be noticed: connections that there are go on until the daemon ends. What
ended earlier was looked at before."""
_PATIENCE_S = 30.0
"""Within so long a daemon that is told to end has ended its containers (15 s, unless it is told otherwise)."""
_REMEMBERED = 16


class Outages:
    """When the daemon went away, as far as this process saw it. Safe to use from many threads."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._left: deque[float] = deque(maxlen=_REMEMBERED)

    def left(self) -> None:
        """The connection to the daemon broke just now."""
        self._left.append(time.time())

    def told(self, seen: Observed) -> Observed:
        """The same, with ``interrupted`` if the daemon itself ended it.

        Raises:
            EngineUnreachable: the daemon is just ending, so that this cannot be told yet.
        """
        if seen.phase is not Phase.EXITED or seen.oom_killed or seen.started_at is None or seen.finished_at is None:
            return seen
        if self._daemon.closed():
            self._left.append(seen.finished_at)
            raise EngineUnreachable("the Docker daemon lets nobody in: it is about to end, or to begin")
        rebooted = seen.started_at < psutil.boot_time()
        doubtful = seen.exit_code in _SIGNALS or (seen.exit_code == _VANISHED and rebooted)
        closed = [at for at in tuple(self._left) if at - _NOTICED_S <= seen.finished_at]
        if not doubtful and not closed:
            return seen
        began = self._began()
        if began is None or seen.finished_at > began + _SLACK_S:
            return seen
        keeps = bool(self._daemon.info().get("LiveRestoreEnabled")) and not rebooted
        if keeps or not (doubtful or any(_just(seen.finished_at, at, began) for at in closed)):
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
