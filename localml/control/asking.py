"""Asking programs of users for a page. They may answer anything, without end, or a byte now and then."""

from __future__ import annotations

import errno
import http.client
import io
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

MOST = 1 << 20
"""Bytes of a body that are read."""


def ask(
    url: str, *, seconds: float, headers: Mapping[str, str] | None = None, most: int = MOST, cut: bool = False
) -> tuple[int, bytes]:
    """Status and body of a page; redirections are not followed.

    Args:
        url: ``http://host:port/path?query``.
        seconds: for all of it.
        most: bytes that the body may have.
        cut: of a longer body give the beginning.

    Raises:
        OSError, http.client.HTTPException: there was no answer, or it was not over in time or at its limit.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    end = time.monotonic() + seconds
    try:
        connection.connect()
        real, connection.sock = connection.sock, _Within(connection.sock, end)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Connection": "close", **(headers or {})})
            with connection.getresponse() as answer:
                body = answer.read(most + 1)
                if len(body) > most and not cut:
                    raise OSError(errno.EMSGSIZE, f"it answers more than {most} bytes")
                return answer.status, body[:most]
        finally:
            real.close()
    finally:
        connection.close()


class _Within:
    """What an HTTP connection uses of a socket, each step within what is left of the time."""

    def __init__(self, real: socket.socket, end: float) -> None:
        self._real = real
        self._end = end

    def sendall(self, data: Any) -> None:
        self._real.sendall(data)

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_Hurried(self._real, self._end))

    def close(self) -> None:
        """Nothing: it is still read from then."""


class _Hurried(io.RawIOBase):
    def __init__(self, real: socket.socket, end: float) -> None:
        self._real = real
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "it was not over in time")
        self._real.settimeout(left)
        return self._real.recv_into(buffer)
