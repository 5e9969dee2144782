"""The lightest HTTP client there can be: requests are bytes made beforehand, the connection is kept."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    data: bytes

    @property
    def json(self) -> Any:
        """The body as a JSON value."""
        return json.loads(self.data)


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A request as it goes over the wire; underscores in names of headers stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + _END + body


class Client:
    """One kept connection to a port of this machine."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, raw: bytes) -> Answer:
        """Send a request, read its answer.

        Raises:
            RuntimeError: for anything but a 2xx: a failure must not be taken for a quick answer.
        """
        self._socket.sendall(raw)
        head, rest = self._head()
        status, length = int(head[9:12]), _length(head)
        answer = Answer(status, self._chunks(rest) if length is None else self._exactly(rest, length))
        if not 200 <= status < 300:
            raise RuntimeError(f"{raw[:80]!r} was answered {status}: {answer.data[:300]!r}")
        return answer

    def time(self, raw: bytes) -> float:
        """Seconds until the whole answer is here."""
        return self.timed(raw)[0]

    def timed(self, raw: bytes) -> tuple[float, Answer]:
        """Seconds until the whole answer is here, and the answer."""
        begin = time.perf_counter()
        answer = self.send(raw)
        return time.perf_counter() - begin, answer

    def follow(self, raw: bytes) -> None:
        """Send a request whose answer does not end; :meth:`until` reads it."""
        self._socket.sendall(raw)
        head, self._held = self._head()
        if head[9:12] != b"200":
            raise RuntimeError(f"{raw[:80]!r} was answered {head[:200]!r}")

    def until(self, mark: bytes) -> bytes:
        """What is behind ``mark`` in its line, once that line has come; everything before it is dropped."""
        while True:
            begin = self._held.find(mark)
            end = self._held.find(b"\n", begin)
            if begin >= 0 and end >= 0:
                found, self._held = self._held[begin + len(mark) : end], self._held[end:]
                return found
            self._held = (self._held if begin >= 0 else self._held[-len(mark) :]) + self._more()

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _head(self) -> tuple[bytes, bytes]:
        got = b""
        while _END not in got:
            got += self._more()
        head, _, rest = got.partition(_END)
        return head, rest

    def _exactly(self, have: bytes, length: int) -> bytes:
        parts, missing = [have], length - len(have)
        while missing > 0:
            parts.append(self._more())
            missing -= len(parts[-1])
        return b"".join(parts)

    def _chunks(self, have: bytes) -> bytes:
        parts: list[bytes] = []
        while True:
            while b"\r\n" not in have:
                have += self._more()
            size, _, have = have.partition(b"\r\n")
            length = int(size, 16)
            have = self._exactly(have, length + 2)
            if not length:
                return b"".join(parts)
            parts.append(have[:length])
            have = have[length + 2 :]

    def _more(self) -> bytes:
        piece = self._socket.recv(1 << 18)
        if not piece:
            raise RuntimeError("the server closed the connection")
        return piece


def _length(head: bytes) -> int | None:
    """Bytes of the body; None when it comes in chunks."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    if head[9:12] in (b"204", b"304"):
        return 0
    if b"transfer-encoding: chunked" in head.lower():
        return None
    raise RuntimeError(f"an answer without a length: {head!r}")
