"""The files between the control plane and the gateway."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.gateway import endpoint, variant
from pydantic import ValidationError

from localml.core.people.secrets import hash_token
from localml.core.serving.gateway_stats import GatewayStats, read_stats, write_stats
from localml.core.serving.routes_table import (
    Alias,
    BadTable,
    EndpointRoute,
    ReplicaRoute,
    RouteTable,
    read_routes,
    routes_path,
    token_hash,
    write_routes,
)


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_routes(tmp_path) is None
    alias = Alias(prefix="/v1/infers/abc", target="/v2/models/m")
    table = RouteTable(
        generation=3,
        endpoints=(
            endpoint("d", "http://127.0.0.1:1", aliases=(alias,), token_hashes=(token_hash("x"),)),
            EndpointRoute(name="e", variants=(variant("a", weight=0),), scale_to_zero=True, wake_hint="7"),
        ),
    )
    write_routes(tmp_path, table)
    assert read_routes(tmp_path) == table


def test_members_of_a_newer_version_are_no_error(tmp_path: Path) -> None:
    write_routes(tmp_path, RouteTable(generation=1, endpoints=(endpoint("d"),)))
    raw = json.loads(routes_path(tmp_path).read_text())
    raw["endpoints"][0]["mirror_to"] = "elsewhere"
    routes_path(tmp_path).write_text(json.dumps(raw))
    table = read_routes(tmp_path)
    assert table is not None
    assert table.endpoints[0].name == "d"


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    small = RouteTable(endpoints=(endpoint("d"),))
    large = RouteTable(endpoints=tuple(endpoint(f"d{number}", "http://127.0.0.1:1") for number in range(300)))
    write_routes(tmp_path, small)
    over = threading.Event()

    def write() -> None:
        for number in range(30):
            write_routes(tmp_path, large if number % 2 else small)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        assert read_routes(tmp_path) in (small, large)
    writer.join()


@pytest.mark.parametrize(
    ("endpoints", "says"),
    [
        ([{"name": "../up"}], "endpoints.0.name"),
        ([{"name": "d"}, {"name": "d"}], "endpoint d is there twice"),
        ([{"name": "d", "aliases": [{"prefix": "/endpoints/e"}]}, {"name": "e"}], "path prefix /endpoints/e"),
        ([{"name": "d", "aliases": [{"prefix": "/metrics"}]}], "answered by the gateway itself"),
        ([{"name": "d", "aliases": [{"prefix": "/a/../b"}]}], "must be a path"),
        ([{"name": "d", "variants": [{"name": "v"}, {"name": "v"}]}], "variant v is there twice"),
        (
            [{"name": "d", "variants": [{"name": "v", "replicas": [{"id": "r", "url": "https://h:1"}]}]}],
            "http://host:port",
        ),
        ([{"name": "d", "variants": [{"name": "v", "weight": -1}]}], "weight"),
        ([{"name": "d", "token_hashes": ["secret"]}], "token_hashes"),
    ],
)
def test_what_is_wrong_in_a_table_is_said(tmp_path: Path, endpoints: list[Any], says: str) -> None:
    routes_path(tmp_path).parent.mkdir()
    routes_path(tmp_path).write_text(json.dumps({"endpoints": endpoints}))
    with pytest.raises(BadTable, match=says.replace(".", r"\.")):
        read_routes(tmp_path)


@pytest.mark.parametrize("url", ["http://h", "http://h:1/path", "h:1", "http://:1", "http://h:1?x", "http://h:99999"])
def test_a_replica_needs_a_host_and_a_port(url: str) -> None:
    with pytest.raises(ValidationError):
        ReplicaRoute(id="r", url=url)


def test_tokens_are_hashed_as_everywhere() -> None:
    assert token_hash("some token") == hash_token("some token")


def test_statistics_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert read_stats(tmp_path) is None
    stats = GatewayStats(
        pid=1,
        started_at=1.0,
        written_at=2.0,
        generation=3,
        table_error=None,
        connections=0,
        unrouted=0,
        endpoints=(),
    )
    write_stats(tmp_path, stats)
    assert read_stats(tmp_path) == stats
    (tmp_path / "gateway" / "stats.json").write_text("{")
    assert read_stats(tmp_path) is None
