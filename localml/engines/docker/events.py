"""The daemon's events about our containers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from localml.engines.base import LABEL_INSTALL
from localml.engines.docker.containers import name_of
from localml.engines.docker.daemon import Daemon, engine_errors

_CHECK = 30.0  # seconds until the helper thread of an abandoned stream notices


class EventStream(Iterator[str]):
    """Names of this installation's containers to which something happened.

    Ends when ``stop`` is set, also while it waits for an event, and when the daemon goes away.
    """

    def __init__(self, daemon: Daemon, install: str, kinds: Sequence[str], stop: threading.Event) -> None:
        filters = {"type": "container", "label": f"{LABEL_INSTALL}={install}", "event": list(kinds)}
        with engine_errors():
            self._events = daemon.api.events(decode=True, filters=filters)
        self._stop = stop
        self._over = threading.Event()
        threading.Thread(target=self._close_on_stop, name="docker-events-closer", daemon=True).start()

    def __next__(self) -> str:
        with engine_errors():
            try:
                attributes = next(self._events)["Actor"]["Attributes"]
            except json.JSONDecodeError:  # cut off in the middle of an event
                raise StopIteration from None
        return name_of(attributes, attributes.get("name", ""))

    def close(self) -> None:
        """Close the connection; a reader that waits on it is woken."""
        self._over.set()
        with suppress(OSError, AttributeError):
            self._events.close()

    def _close_on_stop(self) -> None:
        while not self._over.is_set():
            if self._stop.wait(_CHECK):
                self.close()
