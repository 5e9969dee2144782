"""A WSGI server of the test's own, and clients that say exactly what they are told to say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import parse_headers
from typing import Any

from localml.httpd.server import HttpServer

PATIENCE = 30.0


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[HttpServer]:
    """A started server."""
    server = HttpServer(app, **options)
    server.start()
    try:
        yield server
    finally:
        server.close(grace=1.0)


@dataclass
class Answer:
    """One answer. ``chunks`` are the sizes of its chunks, if it came so."""

    status: int
    phrase: str
    headers: Message
    body: bytes
    chunks: list[int]


class Talk:
    """One connection to a server on this machine."""

    def __init__(self, port: int, receive_buffer: int = 0, source: str = "127.0.0.1") -> None:
        self.broken = False
        self.socket = socket.socket()
        self.socket.bind((source, 0))
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb", 4096)

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Bytes as they are."""
        self.socket.sendall(data)

    def try_to_send(self, data: bytes) -> None:
        """Bytes as they are, to a server that may have gone; ``broken`` says whether it has."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.broken = True

    def ask(self, line: str, *headers: str, body: bytes = b"") -> None:
        """A request: its first line without the version, headers, and a body whose length is declared."""
        lines = [f"{line} HTTP/1.1", "Host: localhost", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer, read to its end.

        Raises:
            ConnectionError: the server has closed the connection instead.
        """
        found = self.head()
        if head_only or found.status in (100, 204, 304):
            return found
        if found.headers["transfer-encoding"] == "chunked":
            for piece in self.chunks():
                found.chunks.append(len(piece))
                found.body += piece
        elif (length := found.headers["content-length"]) is not None:
            found.body = self.file.read(int(length))
            assert len(found.body) == int(length), "the answer broke off"
        else:
            found.body = self.file.read()
        return found

    def head(self) -> Answer:
        """The head of the next answer."""
        line = self.file.readline()
        if not line:
            raise ConnectionError("the server has closed the connection")
        _, status, phrase = line.decode("latin-1").rstrip("\r\n").split(" ", 2)
        headers = parse_headers(self.file) if status != "100" else self._blank()
        return Answer(int(status), phrase, headers, b"", [])

    def _blank(self) -> Message:
        assert self.file.readline() == b"\r\n"
        return Message()

    def chunks(self) -> Iterator[bytes]:
        """The chunks of a body as they come."""
        while size := int(self.file.readline() or b"missing", 16):
            yield self.file.read(size)
            assert self.file.read(2) == b"\r\n"
        assert self.file.read(2) == b"\r\n"

    def closed(self) -> bool:
        """Wait for what the server sends next: true when that is the connection's end."""
        try:
            return self.file.read(1) == b""
        except ConnectionError:
            return True
