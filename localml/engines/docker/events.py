"""The daemon's events about our containers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from docker.utils import convert_filters

from localml.engines.base import LABEL_INSTALL
from localml.engines.docker.containers import name_of
from localml.engines.docker.daemon import Daemon, engine_errors, socket_of

SILENCE_S = 120.0
"""After so long without an event they are asked for again: a connection that leads nowhere is as silent."""
_CHECK = 30.0  # seconds until the helper thread of an abandoned stream notices


class EventStream(Iterator[str]):
    """Names of this installation's containers to which something happened.

    Ends when ``stop`` is set, also while it waits for an event, and when the daemon goes away or falls silent.
    """

    def __init__(self, daemon: Daemon, install: str, kinds: Sequence[str], stop: threading.Event) -> None:
        filters = {"type": "container", "label": f"{LABEL_INSTALL}={install}", "event": list(kinds)}
        with engine_errors(asking=True):
            self._response = daemon.stream("/events", {"filters": convert_filters(filters)}, timeout=SILENCE_S)
        self._lines = self._response.iter_lines(chunk_size=None)
        self._stop = stop
        self._over = threading.Event()
        threading.Thread(target=self._wake_at_stop, name="docker-events-closer", daemon=True).start()

    def __next__(self) -> str:
        with engine_errors(asking=True):
            line = next(self._lines)
        try:
            attributes = json.loads(line)["Actor"]["Attributes"]
        except ValueError:  # cut off in the middle of an event
            raise StopIteration from None
        return name_of(attributes, attributes.get("name", ""))

    def close(self) -> None:
        """Close the connection."""
        self._over.set()
        self._response.close()

    def _wake_at_stop(self) -> None:
        """Wake the reader, who may wait for an event."""
        while not self._over.is_set():
            if self._stop.wait(_CHECK):
                with suppress(OSError):
                    if (connection := socket_of(self._response)) is not None:
                        connection.shutdown(socket.SHUT_RDWR)
                return
