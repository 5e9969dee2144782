"""One request, however large what it holds, is answered soon and makes little: every operation of every API is asked
with each of its members too large."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest
from helpers.counts import count
from helpers.oversize import Document, Large, requests_of
from helpers.two_users import Operation, Things, Try, World
from helpers.two_users_recipes import recipes
from helpers.wmla import BASE

PATIENCE_S = 30.0
"""For one answer, on a machine that others use."""
MOST_ROWS = 50
"""Rows that one request may make, points and their series apart."""
DOCUMENTS = {"native": "/localml/v1", "cloudml": "/cloud_ml", "openpai": "/api/v1", "mlbench": "/api", "wmla": BASE}
PARTS = 4
"""Tests that our own API's operations are shared out over."""
UNTRIED = ("DELETE /localml/v1/users/<name>/credentials", "POST /localml/v1/backup", "POST /localml/v1/images/build")
"""What ends the credentials that are tried with, and what works for long whatever it is given."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    opened = World(tmp_path_factory.mktemp("data"))
    opened.furnish()
    yield opened
    opened.close()


def documents(world: World) -> dict[str, Document]:
    """dialect -> its document, as the server answers it."""
    found = {}
    for name, prefix in DOCUMENTS.items():
        answer = world.send(world.admin, Operation(name, "GET", f"{prefix}/openapi.json", ""), Try(""), {})
        found[name] = Document(json.loads(answer.data))
    return found


def rows(world: World) -> int:
    """Rows of all tables, points of series and the series themselves apart."""
    with world.platform.db.read_raw() as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counted = [name for name in tables if name not in ("sample", "series")]
        return sum(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in counted)


def tried(world: World, op: Operation, large: Large, things: Things, words: set[int]) -> str:
    """What is wrong with the answer; empty for nothing. ``words``: what its vendor answers where it refuses."""
    before, begin = rows(world), time.monotonic()
    answer = world.send(world.admin, op, large.make(), things, timeout=2 * PATIENCE_S)
    took, made = time.monotonic() - begin, rows(world) - before
    count("requests tried")
    failed = answer.status >= 500 and (answer.status not in words or b"internal error" in answer.data)
    faults = [
        f"is answered {answer.status}: {answer.data[:300]!r}" if failed else "",
        f"took {took:.1f} s" if took > PATIENCE_S else "",
        f"made {made} rows" if made > MOST_ROWS else "",
    ]
    wrong = "; ".join(filter(None, faults))
    return f"{op}: {large.what}: {wrong}" if wrong else ""


def requests(world: World, dialect: str) -> Iterator[tuple[Operation, Large, set[int]]]:
    """All that is tried with the operations of a dialect, and which failures its vendor names for each."""
    document, known, things = documents(world)[dialect], recipes(), things_of(world)
    for op in world.operations():
        if op.dialect != dialect or op.method == "HEAD" or str(op) in UNTRIED:
            continue
        base = [one for one in known[str(op)] if "follow" not in one.query][-1]
        for large in requests_of(document, op, base, things):
            if op.method != "DELETE" or "in the path" in large.what:  # else what is asked about would be gone
                yield op, large, document.statuses(op)


def things_of(world: World) -> Things:
    """label -> what stands for it."""
    return world.names | {"new": "large", "bobs": world.bobs}


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "part"), [*((name, 0) for name in DOCUMENTS), *(("native", n) for n in (1, 2, 3))])
def test_no_member_of_any_request_is_too_large_for_the_server(
    world: World, dialect: str, part: int, caplog: pytest.LogCaptureFixture, long_form: bool
) -> None:
    parts = PARTS if dialect == "native" else 1
    mine = [one for number, one in enumerate(requests(world, dialect)) if number % parts == part]
    with caplog.at_level(logging.ERROR):
        faults = [
            tried(world, op, large, things_of(world), words) for op, large, words in mine[:: 1 if long_form else 4]
        ]
    faults += [f"logged: {one.getMessage()[:200]}" for one in caplog.records]
    assert not any(faults), "\n".join(filter(None, faults))
