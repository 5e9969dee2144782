"""Many clients at a time for measurements: raw keep-alive connections, all driven from one thread.

It costs a few microseconds a request, where threads of clients would take the interpreter from each other.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import time
from dataclasses import dataclass, field

HOST = "127.0.0.1"


@dataclass
class Times:
    """What ``clients`` keep-alive connections saw, each sending its next request once it has its answer."""

    clients: int
    seconds: list[float] = field(default_factory=list)
    span: float = 0.0

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]

    @property
    def rate(self) -> float:
        return len(self.seconds) / self.span


class _Connection:
    def __init__(self, port: int, message: bytes) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._message = message
        self._got = b""
        self.begun = 0.0

    def send(self) -> None:
        self._got = b""
        self.begun = time.perf_counter()
        self.socket.sendall(self._message)

    def complete(self) -> bool:
        """Read what is here; whether the answer is complete.

        Raises:
            RuntimeError: it is an error, or the server has closed the connection.
        """
        data = self.socket.recv(65536)
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not data or (found and not head.startswith(b"HTTP/1.1 2")):
            raise RuntimeError(f"the server answered {self._got[:200]!r}")
        if not found:
            return False
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return len(body) >= length


def drive(port: int, clients: int, count: int, message: bytes) -> Times:
    """Send ``count`` requests in all over ``clients`` connections, from one thread; a fifth more before, unmeasured."""
    found = Times(clients)
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            one = _Connection(port, message)
            selector.register(one.socket, selectors.EVENT_READ, one)
            one.send()
        answered, warm, begin = 0, count // 5, time.perf_counter()
        while answered < count + warm:
            for key, _ in selector.select():
                one = key.data
                if not one.complete():
                    continue
                now = time.perf_counter()
                answered += 1
                if answered == warm:
                    begin = now
                elif answered > warm:
                    found.seconds.append(now - one.begun)
                one.send()
        found.span = time.perf_counter() - begin
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return found
