"""Probing: soon while something starts, patient with one that is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from helpers.rig import wait_until

from localml.control.serving.probes import Answer, Page, Prober, ask
from localml.core.serving.specs import REPLICA_TOKEN


class Spoken(BaseHTTPRequestHandler):
    """Answers with what the server holds."""

    def do_GET(self) -> None:
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.server.shown = self.headers.get(REPLICA_TOKEN)  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Spoken)
    server.answer = (200, b"")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, b"{}"), ""),
        ((204, b""), ""),
        ((503, b'{"error": "the model is being loaded"}'), "answers 503: the model is being loaded"),
        ((500, b"<html>"), "answers 500"),
    ],
)
def test_what_a_page_says(
    page: HTTPServer, answer: tuple[int, bytes], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.control.serving.probes._TIMEOUT_S", 60.0)
    page.answer = answer  # type: ignore[attr-defined]
    assert ask(Page(f"http://127.0.0.1:{page.server_port}/v2/health/ready", "word")) == said
    assert page.shown == "word"  # type: ignore[attr-defined]


def test_nobody_listens() -> None:
    assert ask(Page("http://127.0.0.1:9/x")) == "does not answer yet (Connection refused)"


@pytest.fixture
def probing() -> Iterator[Callable[[Callable[[Page], str]], tuple[Prober, list[None]]]]:
    made: list[Prober] = []

    def make(says: Callable[[Page], str]) -> tuple[Prober, list[None]]:
        changes: list[None] = []
        made.append(Prober(lambda: changes.append(None), says))
        return made[-1], changes

    yield make
    for one in made:
        one.close()


def test_one_that_becomes_ready_is_noticed_and_told_once(
    probing: Callable[[Callable[[Page], str]], tuple[Prober, list[None]]],
) -> None:
    answers = iter(["loading", "loading", ""])
    prober, changes = probing(lambda _: next(answers, ""))
    assert prober.answer("a") is None
    prober.watch({"a": Page("http://a")})
    wait_until(lambda: prober.answer("a") == Answer(True))
    wait_until(lambda: len(changes) == 2)  # loading, ready


def test_one_failure_of_a_ready_one_is_forgiven(
    probing: Callable[[Callable[[Page], str]], tuple[Prober, list[None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.control.serving.probes.READY_S", 0.01)
    monkeypatch.setattr("localml.control.serving.probes._AGAIN_S", 0.01)
    said: list[str] = []
    script = ["", "busy", "busy", "", "busy", "busy", "busy"]

    def says(_: Page) -> str:
        said.append(script[min(len(said), len(script) - 1)])
        return said[-1]

    prober, changes = probing(says)
    prober.watch({"a": Page("http://a")})
    wait_until(lambda: prober.answer("a") == Answer(False, "busy"))
    assert said[:7] == script
    wait_until(lambda: len(changes) >= 2)  # told a moment after it is known
    assert len(changes) == 2  # ready, and not ready after three in a row


def test_one_that_is_watched_no_more_is_forgotten(
    probing: Callable[[Callable[[Page], str]], tuple[Prober, list[None]]],
) -> None:
    prober, _ = probing(lambda page: "" if page.url.endswith("b") else "no")
    prober.watch({"a": Page("http://a")})
    wait_until(lambda: prober.answer("a") is not None)
    prober.watch({"a": Page("http://b")})
    wait_until(lambda: prober.answer("a") == Answer(True))
    prober.watch({})
    assert prober.answer("a") is None
