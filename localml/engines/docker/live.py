"""What containers write at this moment, before the daemon's log has it: a progress bar is no line until it ends.

The log alone is what counts. Beside it we are attached to each container that we start, from before its start, so that
every byte's offset is known; when the log gives nothing, what was written behind its end is given from here, and passed
over when the log gives it. A server that finds a container running isn't attached: there, lines come when they end.
"""

from __future__ import annotations

import logging
import selectors
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

from localml.engines.base import STREAMS, Stream
from localml.engines.docker.daemon import Daemon

log = logging.getLogger("localml.docker")

_READ = 1 << 18
_KEPT = 1 << 16
"""Bytes kept of each stream. Of what writes faster than its log is read, nothing is to be had early."""
_HEADER = struct.Struct(">BxxxL")
_WAKE_S = 0.5


class Live:
    """One container's streams. Written by one thread, read by another."""

    def __init__(self, connection: socket.socket, keep: Any) -> None:
        self.socket = connection
        self._keep = keep  # what the SDK gave: its end would close the socket
        self._lock = threading.Lock()
        self._written: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        self._last: dict[Stream, bytes] = dict.fromkeys(STREAMS, b"")
        self._head = b""
        self._stream: Stream = "stdout"
        self._due = 0

    def after(self, stream: Stream, offset: int) -> bytes:
        """What the container wrote from an offset on; empty if that is too long ago."""
        with self._lock:
            new = self._written[stream] - offset
            return self._last[stream][-new:] if 0 < new <= len(self._last[stream]) else b""

    def take(self, data: bytes) -> None:
        """Bytes of the connection: frames of 8 bytes of header, then data, in any pieces."""
        at = 0
        while at < len(data):
            if not self._due:
                head = data[at : at + _HEADER.size - len(self._head)]
                self._head, at = self._head + head, at + len(head)
                if len(self._head) == _HEADER.size:
                    number, self._due = _HEADER.unpack(self._head)
                    self._stream, self._head = STREAMS[number == 2], b""
                continue
            part = data[at : at + self._due]
            at, self._due = at + len(part), self._due - len(part)
            with self._lock:
                self._written[self._stream] += len(part)
                self._last[self._stream] = (self._last[self._stream] + part)[-_KEPT:]

    def close(self) -> None:
        """Let go of the container."""
        with suppress(OSError):
            self.socket.close()


class Lives:
    """The attachments of one engine, all read on one thread, which begins with the first."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._lock = threading.Lock()
        self._of: dict[str, Live] = {}
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def get(self, container: str) -> Live | None:
        """The attachment of a container that runs, by id."""
        return self._of.get(container)

    def open(self, container: str) -> None:
        """Attach to a container that was not started yet. It is started in any case."""
        try:
            wanted = {"stdout": 1, "stderr": 1, "stream": 1, "logs": 0}
            connection: Any = self._daemon.api.attach_socket(container, params=wanted)
        except Exception as error:  # a bar that moves late is better than a job that does not start
            log.info("not attached to %s: %s", container[:12], error)
            return
        plain = getattr(connection, "_sock", connection)
        if type(plain) is not socket.socket:  # over TLS there may be bytes that no selector sees
            connection.close()
            return
        plain.setblocking(False)
        live = Live(plain, connection)
        with self._lock:
            if self._closed.is_set():
                return live.close()
            self._of[container] = live
            self._selector.register(plain, selectors.EVENT_READ, container)
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, name="localml-attached", daemon=True)
                self._thread.start()
        return None

    def close(self) -> None:
        """Let go of all containers, which go on."""
        self._closed.set()

    def _read(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(_WAKE_S):
                self._read_one(key.data)
        with self._lock:
            for container in list(self._of):
                self._drop(container)

    def _read_one(self, container: str) -> None:
        live = self._of[container]
        try:
            data = live.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            live.take(data)
            return
        with self._lock:
            self._drop(container)

    def _drop(self, container: str) -> None:
        live = self._of.pop(container)
        self._selector.unregister(live.socket)
        live.close()
