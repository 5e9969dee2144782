"""Programs of users that answer the server's questions without end, too slowly, or with what breaks a reader."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from localml.control.serving.probes import Page
from localml.control.serving.probes import ask as ask_replica
from localml.control.serving.probes import get as get_replica
from localml.control.watch import jupyter, tensorboard
from localml.control.watch.jupyter import Jupyter, Usage
from localml.core.errors import Code, LocalmlError

Program = Callable[[bytes, bytes, float], str]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.fixture
def program() -> Iterator[Program]:
    """A program that answers each request with a beginning, and then with a piece again and again."""
    over = threading.Event()
    sockets: list[socket.socket] = []

    def answer(client: socket.socket, first: bytes, piece: bytes, pause: float) -> None:
        with client, suppress(OSError):
            client.recv(1 << 16)
            client.sendall(first)
            while piece and not over.wait(pause):
                client.sendall(piece)

    def accept(listening: socket.socket, *how: object) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=answer, args=(client, *how), daemon=True).start()

    def begin(first: bytes, piece: bytes = b"", pause: float = 0.0) -> str:
        sockets.append(socket.create_server(("127.0.0.1", 0)))
        threading.Thread(target=accept, args=(sockets[-1], first, piece, pause), daemon=True).start()
        return f"http://127.0.0.1:{sockets[-1].getsockname()[1]}"

    yield begin  # type: ignore[misc]
    over.set()
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"{}", b'{"content": []}', b'{"content": {"kernel_cpu": "x", "kernel_memory": NaN}}'],
)
def test_a_kernel_may_say_anything_of_what_it_uses(program: Program, body: bytes) -> None:
    assert Jupyter(program(HEAD + body, b"", 0), "t").kernel_usage("../k") == Usage()


def notebook(base: str) -> None:
    with pytest.raises(LocalmlError) as refused:
        Jupyter(base, "t").activity()
    assert refused.value.code is Code.UNAVAILABLE


def board(base: str) -> None:
    with pytest.raises(LocalmlError) as refused:
        tensorboard.last_use(base, "t")
    assert refused.value.code is Code.UNAVAILABLE


def replica(base: str) -> None:
    with pytest.raises(OSError, match=r"more than|in time|timed out"):
        get_replica(Page(base), 0.5)


ASKING = pytest.mark.parametrize("asks", [notebook, board, replica])


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (jupyter, tensorboard):
        monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    monkeypatch.setattr("localml.control.serving.probes._TIMEOUT_S", 0.5)


@ASKING
def test_an_answer_without_end_takes_no_memory(program: Program, asks: Callable[[str], None]) -> None:
    base = program(HEAD + b"[", b"0," * (1 << 19), 0.0)
    tracemalloc.start()
    try:
        asks(base)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@ASKING
@pytest.mark.parametrize("first", [b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\nX-A: ", HEAD + b"["])
def test_a_byte_now_and_then_keeps_nobody(program: Program, asks: Callable[[str], None], first: bytes) -> None:
    """Neither in the first line, nor in a header, nor in the body: there are few who ask, and others wait for them."""
    base = program(first, b"1", 0.05)
    began = time.monotonic()
    asks(base)
    assert time.monotonic() - began < 5


def test_the_state_of_a_replica_is_known_also_of_one_that_never_ends(program: Program) -> None:
    assert ask_replica(Page(program(HEAD, b"x" * 4096, 0.0))) == ""
    assert "does not answer" in ask_replica(Page(program(b"HTTP/1.1 ", b"1", 0.05)))


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"started": "2026-01-01T00:00:00Z", "kernels": 1}', b"Infinity", b"\xff", b"[1e999]"]
)
def test_what_breaks_a_reader_is_no_answer(program: Program, body: bytes) -> None:
    base = program(HEAD + body)
    notebook(base)
    assert tensorboard.last_use(base, "t") is None
