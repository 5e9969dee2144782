"""Why something waits, while somebody looks on: what it waits for, who has that, since when, and until when."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from localml.cli.live import Line
from localml.client.errors import ClientError
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from localml.client import Client, Reason, Workload
    from localml.client.tools import Tool

QUEUED = "queued"
WAITS = (QUEUED, "preparing")
_LOOK_S = 1.0
_NAMED = 3


def reason_words(reason: Reason, *, now: float | None = None) -> str:
    """Why something waits, in one line."""
    at = time.time() if now is None else now
    parts = [reason.message]
    if reason.held_by and reason.code not in ("behind",):
        parts.append(f"held by {holders(reason, at)}")
    if reason.expected_start is not None:
        parts.append(f"expected to start in {format_duration(max(0.0, reason.expected_start - at))}")
    return "; ".join(parts)


def holders(reason: Reason, now: float) -> str:
    """Who has what it waits for: names, owners, since when."""
    named = [_holder(one, now) for one in reason.held_by[:_NAMED]]
    more = len(reason.holders) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _holder(one: dict[str, Any], now: float) -> str:
    since = f", for {format_duration(max(1.0, now - one['since']))}" if one["since"] is not None else ""
    return f"{one['name']} ({one['owner']}'s{since})"


class Waiting:
    """Shows on one line why a workload waits, as long as it does.

    Use it as a context manager; :meth:`told` hears of its states, :meth:`hide` makes room for its output.
    """

    def __init__(self, client: Client, made: Workload, *, quiet: bool = False) -> None:
        self._client = client
        self._made = made
        self._line = Line(quiet=quiet, whole=True)
        self._lock = threading.Lock()
        self._shown = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="localml-waiting", daemon=True)
        self._quiet = quiet

    def __enter__(self) -> Waiting:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.hide()

    def told(self, state: str) -> None:
        """Its state is another one."""
        if state in WAITS:
            with self._lock:
                self._shown = True
        else:
            self.hide()

    def hide(self) -> None:
        """It does not wait, or has something to say."""
        with self._lock:
            self._shown = False
            self._line.close()

    def _look_again(self) -> None:
        while not self._over.wait(0 if self._shown else _LOOK_S):
            if self._shown:
                self._look()
                self._over.wait(_LOOK_S)

    def _look(self) -> None:
        try:
            reason = self._client.why(self._made.id)
        except (ClientError, OSError):
            return  # who follows the output tells of it
        words = "starts" if reason is None else reason_words(reason)
        waited = format_duration(max(1.0, time.time() - self._made.queued_at))
        with self._lock:
            if self._shown and (reason is None or reason.code != "new"):
                self._line.say(f"{self._made.name} ({waited}): {words}")


class Starting:
    """Shows on one line how far a notebook or TensorBoard is, and why it waits; a context manager.

    ``waits``: whether it waits for its turn, or its image is being pulled or built; that takes the time that it takes.
    """

    def __init__(self, client: Client, *, quiet: bool) -> None:
        self._client = client
        self._line = Line(quiet=quiet, patience=0.0, whole=True)
        self._next = 0.0
        self.waits = False

    def __enter__(self) -> Starting:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def hide(self) -> None:
        """Something else is to be said."""
        self._line.close()

    def told(self, found: Tool) -> None:
        """What a look has found."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + _LOOK_S
        reason = self._client.why(found.workload_id) if found.state in WAITS else None
        self.waits = found.state == QUEUED or (reason is not None and reason.code == "image")
        self._line.say(f"{found.name} is {found.state}" + (f": {reason_words(reason)}" if reason is not None else ""))
