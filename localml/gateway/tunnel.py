"""WebSockets: after the replica's 101 the gateway passes bytes on, both ways, and understands none of them."""

from __future__ import annotations

import asyncio

from localml.httpd.wire import Wire

STALLED = 60.0
"""Seconds that a side may refuse to read before the connection is given up."""


async def join(one: Wire, other: Wire) -> None:
    """Copy what arrives on each wire's tunnel to the other one until one side ends; then both are ended."""
    ways = [asyncio.ensure_future(_copy(one, other)), asyncio.ensure_future(_copy(other, one))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        one.transport.close()
        other.transport.close()


async def _copy(source: Wire, sink: Wire) -> None:
    assert source.tunnel is not None
    try:
        while piece := await source.tunnel.read():
            sink.write(piece)
            await sink.drain(STALLED)
    except (ConnectionResetError, TimeoutError):
        return
