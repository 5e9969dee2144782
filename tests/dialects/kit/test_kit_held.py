"""Held answers do the same behind our server and behind any other."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, Response
from helpers.http_socket import Talk, serving

from localml.core.events.feed import Feed
from localml.core.subjects import Subject
from localml.dialects.kit.held import Following, Pause, _Until, hold_until, waited_for

JOB = Subject.workload(7)
Ask = Callable[[str], tuple[int, bytes]]


class Site:
    """An app whose ``/follow`` tells how it was woken, and whose ``/wait`` waits until it is ``over``."""

    def __init__(self) -> None:
        self.feed, self.over, self.looked = Feed(), False, threading.Semaphore(0)
        self.app = Flask(__name__)
        self.app.add_url_rule("/follow/<float:timeout>", "follow", self.follow)
        self.app.add_url_rule("/wait/<float:timeout>", "wait", self.wait)

    def follow(self, timeout: float) -> Response:
        return Following(self.feed, self.steps(timeout), mimetype="text/plain")

    def steps(self, timeout: float) -> Iterator[bytes | Pause]:
        yield b"begin "
        pause = Pause(JOB, self.feed.version(JOB), timeout)
        self.looked.release()
        yield pause
        yield b"woken" if pause.woken else b"not woken"

    def wait(self, timeout: float) -> Response | dict[str, int | None]:
        return hold_until(self.feed, JOB, self.is_over, timeout) or {"waited_for": waited_for()}

    def is_over(self) -> bool:
        over = self.over
        self.looked.release()
        return over

    def change(self) -> None:
        """Once somebody has looked, make it over."""
        assert self.looked.acquire(timeout=60)
        self.feed.changed(JOB)  # for nothing: it is looked at again
        self.over = True
        self.feed.changed(JOB)

    def end(self) -> None:
        """Once somebody has looked, shut down."""
        assert self.looked.acquire(timeout=60)
        self.feed.close()


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture(params=["ours", "another"])
def ask(site: Site, request: pytest.FixtureRequest) -> Iterator[Ask]:
    if request.param == "another":
        client = site.app.test_client()
        yield lambda path: (lambda answer: (answer.status_code, answer.data))(client.get(path))
        return
    with serving(site.app, threads=1) as server, Talk(server.port) as talk:

        def send(path: str) -> tuple[int, bytes]:
            talk.ask(f"GET {path}")
            answer = talk.answer()
            return answer.status, answer.body

        yield send


@pytest.mark.parametrize(
    ("event", "timeout", "words"),
    [("change", 60.0, b"begin woken"), ("end", 60.0, b"begin not woken"), (None, 0.01, b"begin not woken")],
)
def test_who_follows_is_told_why_it_goes_on(
    site: Site, ask: Ask, event: str | None, timeout: float, words: bytes
) -> None:
    if event is not None:
        threading.Thread(target=getattr(site, event)).start()
    assert ask(f"/follow/{timeout}") == (200, words)


@pytest.mark.parametrize(("event", "timeout"), [("change", 60.0), ("end", 60.0), (None, 0.01)])
def test_who_waits_is_answered_in_the_end(site: Site, ask: Ask, event: str | None, timeout: float) -> None:
    if event is not None:
        threading.Thread(target=getattr(site, event)).start()
    status, body = ask(f"/wait/{timeout}")
    assert status == 200
    assert b'"waited_for"' in body


def test_what_is_over_is_answered_at_once(site: Site, ask: Ask) -> None:
    site.over = True
    assert ask("/wait/60.0") == (200, b'{"waited_for":null}\n')


def test_the_second_time_it_is_known_what_was_waited_for(site: Site) -> None:
    threading.Thread(target=site.change).start()
    with serving(site.app, threads=1) as server, Talk(server.port) as talk:
        talk.ask("GET /wait/60.0")
        assert talk.answer().body == b'{"waited_for":7}\n'
    assert site.feed._watchers == {}


@pytest.mark.parametrize(("changes", "rests"), [(15, 0), (30, 10)])
def test_who_waits_for_a_short_job_looks_at_each_change(
    monkeypatch: pytest.MonkeyPatch, changes: int, rests: int
) -> None:
    """Who waits for one that changes all the time rests in between."""
    feed, slept, looks = Feed(), list[float](), 0

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def over() -> bool:
        nonlocal looks
        looks += 1
        feed.changed(JOB)
        return looks == changes

    async def run(act: Callable[[], bool]) -> bool:
        return act()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    until = _Until(feed, JOB, feed.version(JOB), over, time.monotonic() + 3600)
    feed.changed(JOB)
    asyncio.run(until.wait(run))
    assert looks == changes
    assert len(slept) == pytest.approx(rests, abs=rests // 5)
