"""What the gateway adds to a request: the same small inference request straight to a replica and through the gateway,
in turn, in one run, so that a noisy machine is noisy for both.

The replica is the least server there can be (it answers a fixed body), so the direct time is the floor: two system
calls on either side. ``python scripts/lib/bench_gateway.py`` prints the result.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUDGET = 0.00025
"""Seconds that the gateway may add at the median."""
_ANSWER = b'{"model_name":"tiny","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[0.5]}]}'
_BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,64],"data":[' + b",".join([b"0.0"] * 64) + b"]}]}"
_START = 20.0


@dataclass(frozen=True)
class GatewayBench:
    """Seconds, except ``direct_rate`` and ``rate``: requests per second with 8 clients."""

    direct_p50: float
    p50: float
    direct_p99: float
    p99: float
    direct_rate: float
    rate: float
    resident: int

    @property
    def added_p50(self) -> float:
        """What the gateway adds at the median."""
        return self.p50 - self.direct_p50


def measure(requests: int = 2000) -> GatewayBench:
    """Run both processes and take the times; ``requests`` is how many go each way."""
    with _folder() as data, _replica() as replica, _gateway(data, replica) as (port, process):
        direct, through = _in_turn(replica, port, requests)
        direct_rate, rate = _rate(replica, b"", requests), _rate(port, b"/endpoints/tiny", requests)
        resident = _resident(process.pid)
    return GatewayBench(
        statistics.median(direct),
        statistics.median(through),
        _percentile(direct, 0.99),
        _percentile(through, 0.99),
        direct_rate,
        rate,
        resident,
    )


class _Caller:
    """One kept connection, as bare as it gets."""

    def __init__(self, port: int, prefix: bytes) -> None:
        head = (
            b"POST %b/v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % prefix
        )
        self._request = head + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self) -> float:
        """Seconds of one request."""
        begin = time.perf_counter()
        self._socket.sendall(self._request)
        answer = b""
        while not answer.endswith(_ANSWER):
            piece = self._socket.recv(1 << 16)
            if not piece or not (answer + piece).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the request failed: {answer + piece!r}")
            answer += piece
        return time.perf_counter() - begin

    def close(self) -> None:
        self._socket.close()


def _in_turn(replica: int, gateway: int, requests: int) -> tuple[list[float], list[float]]:
    direct, through = _Caller(replica, b""), _Caller(gateway, b"/endpoints/tiny")
    for _ in range(200):  # warm
        direct.call()
        through.call()
    pairs = [(direct.call(), through.call()) for _ in range(requests)]
    direct.close()
    through.close()
    return [one for one, _ in pairs], [other for _, other in pairs]


def _rate(port: int, prefix: bytes, requests: int, clients: int = 8) -> float:
    callers = [_Caller(port, prefix) for _ in range(clients)]

    def load(caller: _Caller) -> None:
        for _ in range(requests // clients):
            caller.call()

    threads = [threading.Thread(target=load, args=(caller,)) for caller in callers]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    for caller in callers:
        caller.close()
    return requests / seconds


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _resident(pid: int) -> int:
    import psutil

    return int(psutil.Process(pid).memory_info().rss)


@contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="localml-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _replica() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, __file__, "--replica"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def _gateway(data: Path, replica: int) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    from localml.core.serving.gateway_stats import read_address
    from localml.core.serving.routes_table import EndpointRoute, ReplicaRoute, RouteTable, VariantRoute, write_routes

    variant = VariantRoute(name="v1", replicas=(ReplicaRoute(id="r", url=f"http://127.0.0.1:{replica}"),))
    write_routes(data, RouteTable(endpoints=(EndpointRoute(name="tiny", variants=(variant,), health=None),)))
    command = [sys.executable, "-m", "localml.gateway", "--data", str(data), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _START
        while (address := read_address(data)) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the gateway did not start")
            time.sleep(0.01)
        yield address.port, process
    finally:
        process.terminate()
        process.wait()


class _Least(asyncio.Protocol):
    """Answers each request whose head and body have come, without looking at them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"]}]}"):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)
            self._transport.write(head + _ANSWER)  # type: ignore[attr-defined]


async def _serve_least() -> None:
    server = await asyncio.get_running_loop().create_server(_Least, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> int:
    """Print one measurement; 1 if it is over the budget."""
    if sys.argv[1:] == ["--replica"]:
        import uvloop

        uvloop.run(_serve_least())
        return 0
    found = measure()
    print(f"direct   p50 {found.direct_p50 * 1000:.2f} ms   p99 {found.direct_p99 * 1000:.2f} ms")
    print(f"gateway  p50 {found.p50 * 1000:.2f} ms   p99 {found.p99 * 1000:.2f} ms")
    print(f"added    p50 {found.added_p50 * 1000:.2f} ms   (budget {BUDGET * 1000:g} ms)")
    print(f"8 clients: {found.rate:.0f}/s through the gateway, {found.direct_rate:.0f}/s direct")
    print(f"resident {found.resident / (1 << 20):.0f} MB")
    return 0 if found.added_p50 <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
