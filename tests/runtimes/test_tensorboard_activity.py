"""The gate before TensorBoard tells when somebody last used it, to those who may know."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import pytest

from localml.core.catalog import runtimes_dir
from localml.core.clock import ManualClock

TOKEN = "open-sesame"
KNOWN = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
PATH = "/localml/activity"

Module = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Module:
    monkeypatch.syspath_prepend(str(runtimes_dir() / "tensorboard"))
    return lambda name: importlib.import_module(f"localml_tensorboard.{name}")


class Board:
    """A gate, and behind it an application that does what the test wants."""

    def __init__(self, module: Module, token: str = TOKEN) -> None:
        self.clock = ManualClock()
        self.began = self.clock.now()
        self.work: Callable[[], object] = lambda: None
        self.asked: list[str] = []
        activity = module("activity").Activity(self.clock.now)
        self.gate = module("gate").Gate(self._inner, token, 6006, activity)

    def _inner(self, environ: dict[str, str], start: Any) -> Iterable[bytes]:
        self.asked.append(environ["PATH_INFO"])
        self.work()
        start("200 OK", [])
        return [b"board"]

    def get(self, path: str = "/", query: str = "", method: str = "GET", **headers: str) -> tuple[str, bytes]:
        said: list[str] = []
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, **headers}
        body = b"".join(self.gate(environ, lambda status, _: said.append(status)))
        return said[0], body

    def activity(self, **headers: str) -> dict[str, Any]:
        status, body = self.get(PATH, **(headers or KNOWN))
        assert status == "200 OK"
        return dict(json.loads(body))


@pytest.fixture
def board(module: Module) -> Board:
    return Board(module)


def test_before_anybody_came_it_tells_when_it_began(board: Board) -> None:
    board.clock.advance(60)
    assert board.activity() == {"started": board.began, "last_activity": board.began, "in_flight": 0}


def test_a_request_that_is_let_through_counts(board: Board) -> None:
    now = board.clock.advance(60)
    assert board.get("/data/runs", **KNOWN) == ("200 OK", b"board")
    board.clock.advance(60)
    assert board.activity() == {"started": board.began, "last_activity": now, "in_flight": 0}


def test_opening_the_page_with_its_address_counts(board: Board) -> None:
    now = board.clock.advance(60)
    assert board.get("/", f"token={TOKEN}")[0] == "302 Found"
    assert board.activity()["last_activity"] == now


def test_neither_refusals_nor_the_question_itself_count(board: Board) -> None:
    board.clock.advance(60)
    assert board.get()[0] == "401 Unauthorized"
    assert board.get("/", "token=wrong")[0] == "401 Unauthorized"
    board.activity()
    assert board.activity()["last_activity"] == board.began
    assert board.asked == []


def test_the_answer_needs_the_token_in_any_of_its_forms(board: Board) -> None:
    assert board.get(PATH)[0] == "401 Unauthorized"
    assert board.get(PATH, HTTP_AUTHORIZATION="Bearer wrong")[0] == "401 Unauthorized"
    assert board.get(PATH, f"token={TOKEN}")[0] == "200 OK"
    assert board.activity(HTTP_AUTHORIZATION=f"token {TOKEN}")["in_flight"] == 0


def test_a_request_that_takes_long_is_in_flight_and_counts_until_it_is_answered(board: Board) -> None:
    seen: list[dict[str, Any]] = []

    def work() -> None:
        board.clock.advance(600)
        seen.append(board.activity())

    board.work = work
    board.get(method="POST", **KNOWN)
    assert seen == [{"started": board.began, "last_activity": board.began, "in_flight": 1}]
    assert board.activity() == {"started": board.began, "last_activity": board.began + 600, "in_flight": 0}


def test_a_request_that_fails_is_over(board: Board) -> None:
    def work() -> None:
        raise OSError("the event file is gone")

    board.work = work
    with pytest.raises(OSError, match="gone"):
        board.get(**KNOWN)
    assert board.activity()["in_flight"] == 0


def test_a_board_without_a_token_tells_everybody(module: Module) -> None:
    board = Board(module, token="")
    now = board.clock.advance(60)
    assert board.get() == ("200 OK", b"board")
    board.clock.advance(60)
    status, body = board.get(PATH)
    assert (status, json.loads(body)["last_activity"]) == ("200 OK", now)
