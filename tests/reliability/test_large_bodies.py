"""Bodies that are as large as they may be, or say more than can be meant, are refused at little cost, and eight at once
stop nobody else."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator

import pytest
from helpers.counts import count
from helpers.limited_server import Limited, limited
from helpers.native import spec

from localml.core.limits import MOST_POINTS, MOST_VALUES

AT_ONCE = 8
SECONDS_OF_ONE = 1.5
"""Of a processor, for a body that is refused; it was 6, of which 4 with all other threads stopped."""
FROZEN = 6.0
"""Seconds that nobody else may wait on a busy machine; it was 36."""


def filled(before: bytes, one: bytes, after: bytes, size: int) -> bytes:
    return before + (one + b",") * ((size - len(before) - len(after)) // (len(one) + 1) - 1) + one + after


def keys(before: bytes, after: bytes, size: int) -> bytes:
    return before + b",".join(b'"%d":0' % number for number in range(size // 14)) + after


WORKLOADS, SAMPLES, TRAIN, JOBS = (
    "/localml/v1/workloads",
    "/localml/v1/workloads/w/samples",
    "/cloud_ml/v1/train",
    "/api",
)
MIB = 1 << 20
LARGE = {
    "numbers": (WORKLOADS, filled(b'{"spec":{"roles":[', b"0", b"]}}", 2 * MIB)),
    "objects": (WORKLOADS, filled(b'{"spec":{"roles":[', b"{}", b"]}}", 2 * MIB)),
    "members": (WORKLOADS, keys(b'{"spec":{},', b"}", 2 * MIB)),
    "members of a role": (WORKLOADS, keys(b'{"spec":{"roles":[{"command":["a"],', b"}]}}", 2 * MIB)),
    "somebody else's": ("/localml/v1/endpoints", filled(b'{"name":"e","variants":[', b"{}", b"]}", 2 * MIB)),
    "texts": (WORKLOADS, filled(b'{"spec":{"roles":[{"command":[', b'"\\\\\\",{"', b"]}]}}", 2 * MIB)),
    "a text without an end": (WORKLOADS, b'{"name":"' + b'\\",' * (2 * MIB // 3 - 9)),
    "lists in lists": (WORKLOADS, b'{"name":' + b"[" * (2 * MIB - 9)),
    "points": (SAMPLES, filled(b'{"points":[', b"{}", b"]}", 16 * MIB)),
    "wrong points": (SAMPLES, filled(b'{"points":[', b'{"a":0}', b"]}", 8 * MOST_POINTS)),
    "more than a body": (WORKLOADS, filled(b'{"spec":{"roles":[', b"{}", b"]}}", 16 * MIB)),
}
FINE = b'{"points":[' + b",".join(b'{"name":"s%d","value":%d.5}' % (n % 99, n) for n in range(MOST_POINTS)) + b"]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    with limited(tmp_path_factory.mktemp("large"), 1024, 4096) as one:
        one.api.submit("w", spec("sleep", "600"))
        yield one


def post(server: Limited, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def together(server: Limited, path: str, body: bytes, number: int = AT_ONCE) -> tuple[list[int], float]:
    """The statuses of several at once, and how long anybody else waited at most meanwhile."""
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(post(server, path, body)[0]), daemon=True)
        for _ in range(number)
    ]
    for thread in threads:
        thread.start()
    longest = 0.0
    while True:
        begin = time.monotonic()
        assert server.api.call("GET", "/workloads?limit=1").ok
        longest = max(longest, time.monotonic() - begin)
        if not any(thread.is_alive() for thread in threads):
            break
    count("requests tried", number)
    return statuses, longest


@pytest.mark.parametrize("what", LARGE)
def test_a_body_of_too_much_is_refused_at_little_cost(server: Limited, what: str) -> None:
    path, body = LARGE[what]
    before = server.seconds
    status, answer = post(server, path, body)
    assert status in (400, 413), answer
    assert server.seconds - before < SECONDS_OF_ONE, answer
    statuses, longest = together(server, path, body)
    assert statuses == [status] * AT_ONCE
    assert longest < FROZEN
    assert server.process.memory_info().rss < 1 << 30


def test_as_many_points_as_may_be_stop_nobody(server: Limited, long_form: bool) -> None:
    number = AT_ONCE if long_form else 3
    statuses, longest = together(server, SAMPLES, FINE, number)
    assert statuses == [202] * number
    assert longest < FROZEN


def test_the_refusal_says_both_numbers_and_counts_values_alone(server: Limited) -> None:
    status, answer = post(server, WORKLOADS, filled(b'{"spec": [', b"[ ]", b"]}", 6 * MOST_VALUES))
    assert status == 400
    assert f"body: at most {MOST_VALUES} values, not ".encode() in answer
    exactly = b'{"name": [' + b",".join([b'"a,[{\\"}"', b"{ }", b"[]", b"1"] * (MOST_VALUES // 4)) + b"]}"
    assert (
        f"at most {MOST_VALUES} values, not {MOST_VALUES + 2}".encode() in post(server, "/localml/v1/users", exactly)[1]
    )
    fewer = exactly.replace(b"{ },[],1,", b"1,", 1)
    assert b"name: should be a valid string" in post(server, "/localml/v1/users", fewer)[1]


def test_text_in_a_text_is_bounded_alike(server: Limited) -> None:
    """OpenPAI's task roles may come as JSON in a text."""
    deep = {"jobName": "j", "image": "i", "taskRoles": "[" * 300_000}
    status, answer = post(server, "/api/v1/jobs", json.dumps(deep).encode())
    assert (status, b"taskRoles" in answer) == (500, True), answer
