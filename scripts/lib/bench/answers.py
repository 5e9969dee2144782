"""What is asked for over HTTP, beside ``/healthz`` of the same server: one workload, lists, capacity, ``/metrics``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlencode

from bench.client import Client, request
from bench.rows import Row, folder, ms
from bench.server import Server, fill, serving

HEALTH = request("GET", "/healthz")
OVER_HEALTH = 0.003
"""Seconds more than ``/healthz`` that an answer may take at the median."""
_PART = 0.02
_FILTERS: tuple[dict[str, str], ...] = (
    {},
    {"state": "failed"},
    {"state": "queued"},
    {"owner": "user-3"},
    {"workspace": "team-7"},
    {"pool": "openpai/default"},
    {"kind": "notebook"},
    {"kind": "job"},
    {"state": "failed", "owner": "user-3"},
    {"owner": "nobody"},
)
_PARTS: tuple[dict[str, str], ...] = ({"contains": "job-77"}, {"contains": "nowhere"})


def answers(quick: bool) -> Iterator[Row]:
    """Over many ended workloads and a queue that waits for four GPUs that are taken."""
    total, rounds = (10_000, 15) if quick else (100_000, 60)
    with folder() as path:
        fill(path / "data", ended=total - 1000, waiting=1000)
        with serving(path / "data", "fake") as server, closing(server.client()) as client:
            server.await_leases()
            one = [server.native("GET", f"/workloads/{n * total // 50 + 1}") for n in range(50)]
            yield _row(f"get one of {total:,}: p50", *_beside_health(client, one, max(1, rounds // 15)))
            waits = server.native("GET", f"/workloads/{total - 1}")
            yield _row("get one that waits, and why: p50", *_beside_health(client, [waits], rounds))
            yield from _lists(server, client, total, rounds)
            for what, raw in _capacity(server).items():
                yield _row(f"{what}: p50", *_beside_health(client, [raw], rounds))


def _beside_health(client: Client, raws: list[bytes], rounds: int) -> tuple[float, float]:
    """Medians of the answers and of ``/healthz``, in turns."""
    pairs = []
    for number in range(rounds + 2):
        for raw in raws:
            pair = client.time(HEALTH), client.time(raw)
            if number >= 2 or len(raws) > 10:  # the first ones warm
                pairs.append(pair)
    return statistics.median(other for _, other in pairs), statistics.median(one for one, _ in pairs)


def _row(what: str, p50: float, health: float, note: str = "", most: float = OVER_HEALTH) -> Row:
    over = p50 - health
    measured = f"{ms(p50)} ({over * 1000:+.2f} ms)"
    return Row(what, measured, f"<= healthz + {most * 1000:g} ms", f"{ms(health)} /healthz{note}", over <= most)


def _lists(server: Server, client: Client, total: int, rounds: int) -> Iterator[Row]:
    from localml.core.work.listing import SORTS

    for what, filters, most in (("any equality filter and sort", _FILTERS, OVER_HEALTH), ("a part", _PARTS, _PART)):
        found = []
        for sort in SORTS:
            for chosen in filters:
                raw = server.native("GET", f"/workloads?{urlencode({**chosen, 'sort': sort, 'limit': '50'})}")
                words = " ".join(f"{key}={value}" for key, value in chosen.items()) or "no filter"
                found.append((*_beside_health(client, [raw], max(5, rounds // 6)), f"; {words}, sort={sort}"))
        middle = statistics.median(p50 for p50, _, _ in found)
        p50, health, note = max(found, key=lambda one: one[0] - one[1])
        yield _row(f"list 50 of {total:,}, {what}: slowest p50", p50, health, f"{note}; middle {ms(middle)}", most)


def _capacity(server: Server) -> dict[str, bytes]:
    return {
        "native GPUs": server.native("GET", "/gpus"),
        "native pools": server.native("GET", "/pools"),
        "native status": server.native("GET", "/status"),
        "Cloud-ML quota": server.cloudml("GET", "/quota"),
        "OpenPAI virtual clusters": server.openpai("GET", "/virtual-clusters"),
        "MLBench pods": server.mlbench("GET", "/pods/"),
        "/metrics": request("GET", "/metrics", Authorization=f"Bearer {server.credentials['token']}"),
    }
