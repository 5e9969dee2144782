"""Another account of this machine waits for the server's clients at the other loopback address."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from localml.httpd.accept import listen


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server at 127.0.0.1."""
    sockets = listen("127.0.0.1", 0)
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    yield sockets[0].getsockname()[1]
    for found in sockets:
        found.close()


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("address", ["::1", "::"])
def test_nobody_else_listens_where_localhost_leads_first(port: int, address: str, reuse: bool) -> None:
    """``http://localhost:PORT`` means [::1] to many a client, which would show its token there."""
    with socket.socket(socket.AF_INET6) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        thief.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with pytest.raises(OSError, match="in use") as refused:
            thief.bind((address, port))
    assert refused.value.errno == errno.EADDRINUSE


def test_who_calls_localhost_reaches_the_server(port: int) -> None:
    with socket.create_connection(("localhost", port), timeout=10) as client:
        assert client.getpeername()[0] == "127.0.0.1"


def early() -> socket.socket:
    """Who listens at a port of [::1] that is free at 127.0.0.1."""
    for _ in range(20):
        thief = socket.create_server(("::1", 0), family=socket.AF_INET6)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", thief.getsockname()[1]))
            return thief
        thief.close()
    raise AssertionError("no port is free")


def test_one_that_is_there_already_is_told_of(caplog: pytest.LogCaptureFixture, port: int) -> None:
    with early() as thief:
        for one in listen("127.0.0.1", thief.getsockname()[1]):
            one.close()
    assert "somebody else listens at [::1]" in caplog.text


def test_the_place_is_free_with_the_server(port: int) -> None:
    [one] = listen("127.0.0.1", 0)
    number = one.getsockname()[1]
    one.close()
    with socket.socket(socket.AF_INET6) as later:
        later.bind(("::1", number))
