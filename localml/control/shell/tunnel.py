"""Forwarded connections (``ssh -L``): to what the container itself can reach, and to nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh
from asyncssh.constants import OPEN_CONNECT_FAILED
from asyncssh.stream import SSHTCPStreamSession

from localml.control.shell.stream import AsyncExec
from localml.engines.base import EngineError, EngineUnreachable

_LOCAL = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "::")
_CONNECT_S = 2.0
_CHUNK = 1 << 16
_PYTHON = """
import socket, sys, threading
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def send():
    while data := sys.stdin.buffer.raw.read(65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    sys.stdout.buffer.raw.write(data)
"""
_RELAY = """
command -v socat >/dev/null && exec socat - "TCP:$1:$2"
command -v python3 >/dev/null && exec python3 -c "$3" "$1" "$2"
command -v nc >/dev/null && exec nc "$1" "$2"
command -v bash >/dev/null && exec bash -c 'exec 3<>"/dev/tcp/$0/$1"; cat <&3 & cat >&3; wait' "$1" "$2"
exit 127
"""

Open = Callable[[tuple[str, ...]], Awaitable[AsyncExec]]


async def reach(connection: Any, start: Open, address: str | None, host: str, port: int, *, own_network: bool) -> Any:
    """A session that carries a forwarded connection.

    What the container has at its address is reached from here. What listens on its loopback alone, or is another
    machine, is reached by a small relay inside the container (socat, Python, nc or bash, whichever it has).

    Args:
        connection: of the client.
        start: runs a command in the container.
        address: the container's own; None if it has none.
        own_network: whether the container has one; else this machine's is also the replica's.

    Raises:
        ChannelOpenError: nothing answers there.
    """
    if not own_network:
        return await connection.forward_connection(host, port)
    if host.lower() in _LOCAL:
        host = "127.0.0.1"
        if address is not None:
            try:
                return await asyncio.wait_for(connection.forward_connection(address, port), _CONNECT_S)
            except (asyncssh.ChannelOpenError, TimeoutError):
                pass
    try:
        stream = await start(("sh", "-c", _RELAY, "sh", host, str(port), _PYTHON))
    except (EngineError, EngineUnreachable) as error:
        raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, str(error)) from error
    return SSHTCPStreamSession(lambda reader, writer: _carry(stream, reader, writer))


async def _carry(stream: AsyncExec, reader: Any, writer: Any) -> None:
    async def send() -> None:
        while data := await reader.read(_CHUNK):
            await stream.write(data)
        await stream.close_stdin()

    sending = asyncio.ensure_future(send())
    try:
        while (piece := await stream.read()) is not None:
            if piece[0] == "stdout":
                writer.write(piece[1])
                await writer.drain()
    except (OSError, asyncssh.Error):
        pass  # the client has left
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await stream.close()
        writer.close()
