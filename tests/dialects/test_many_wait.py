"""Requests that wait or follow hold none of the server's threads, and end with their client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.cloudml import SignedClient, over, put_trainer, signed
from helpers.http_socket import Talk
from helpers.native import Http, sh
from helpers.rig import wait_until
from helpers.small_server import small_server

from localml.core.subjects import PEOPLE
from localml.platform import Platform
from localml.server import Server

EACH = 64
NOTICED_S = 2.0
TRAINER = "fds://code/trainer.tar.gz"
SEARCH = {
    "space": [{"name": "x", "low": 0, "high": 1}],
    "objective": {"metric": "loss"},
    "trial": sh("sleep 600"),
}
CLOUDML = "/cloud_ml/v1/train/talk/logs"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with small_server(tmp_path, threads=2) as one:
        yield one


@pytest.fixture
def admin(server: Server) -> Iterator[Http]:
    one = Http(server.url, {"Authorization": f"Bearer {server.platform.credentials.token}"})
    yield one
    one.close()


def waiting(platform: Platform) -> int:
    """How many wait for a change of anything."""
    return sum(len(each) for about, each in list(platform.feed._watchers.items()) if about != PEOPLE)


def opened(server: Server, line: str, headers: dict[str, str]) -> list[Talk]:
    talks = [Talk(server.port) for _ in range(EACH)]
    for talk in talks:
        talk.ask(line, *(f"{name}: {value}" for name, value in headers.items()))
    return talks


def test_many_of_each_kind_wait_and_everybody_else_is_answered(server: Server, admin: Http) -> None:
    number = admin("POST", "/workloads", {"spec": sh("sleep 600"), "name": "long"}).json["id"]
    assert admin("POST", "/studies", {"name": "search", "spec": SEARCH}).status == 201
    admin("POST", "/endpoints", {"name": "slow", "image": "none/none:1", "ready_timeout": 3600})
    given = server.platform.credentials
    cloudml = SignedClient(given.access_key, given.secret_key, over(server.url))
    put_trainer(server.platform.buckets, TRAINER)
    assert (
        cloudml.post("/train", {"job_name": "talk", "module_name": "trainer.task", "trainer_uri": TRAINER}).status
        == 200
    )

    events = {**admin.headers, "Accept": "text/event-stream"}
    vendor = signed(given.access_key, given.secret_key, CLOUDML)
    kinds = {
        "wait": opened(server, "GET /localml/v1/workloads/long/wait?timeout=60", admin.headers),
        "settle": opened(server, "GET /localml/v1/endpoints/slow/wait?timeout=60", admin.headers),
        "study": opened(server, "GET /localml/v1/studies/search/wait?timeout=60", admin.headers),
        "news": opened(server, "GET /localml/v1/studies/search/follow", events),
        "follow": opened(server, "GET /localml/v1/workloads/long/logs?follow=true", admin.headers),
        "events": opened(server, "GET /localml/v1/workloads/long/logs", events),
        "lines": opened(server, f"GET {CLOUDML}?follow=True", vendor),
    }
    try:
        wait_until(lambda: waiting(server.platform) == len(kinds) * EACH)
        for kind in ("follow", "events", "lines", "news"):
            assert {talk.head().status for talk in kinds[kind]} == {200}
        assert admin.pool.request("GET", f"{server.url}/healthz", timeout=10).status == 200
        assert admin("POST", "/workloads", {"spec": sh("true")}).status == 201

        for count, talks in enumerate(kinds.values(), start=1):
            talks.pop().close()  # whoever leaves is noticed, though nothing is said to anybody
            wait_until(lambda gone=count: waiting(server.platform) == len(kinds) * EACH - gone, NOTICED_S)  # type: ignore[misc]

        admin("POST", f"/workloads/{number}/stop")
        for talk in kinds["wait"]:
            answer = talk.answer()
            assert (answer.status, b'"state":"stopped"' in answer.body) == (200, True)
        assert {b"event: end" in list(talk.chunks())[-1] for talk in kinds["events"]} == {True}
        assert {b"".join(talk.chunks()) for talk in kinds["follow"]} == {b""}
        server.platform.feed.close()
        assert {talk.answer().status for kind in ("settle", "study") for talk in kinds[kind]} == {200}
        assert all(any(b"event: study" in chunk for chunk in talk.chunks()) for talk in kinds["news"])
        assert {b"".join(talk.chunks()) for talk in kinds["lines"]} == {b""}
    finally:
        for talks in kinds.values():
            for talk in talks:
                talk.close()
