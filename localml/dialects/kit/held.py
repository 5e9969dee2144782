"""Answers that follow something, or wait for it, without a thread of the server's.

A generator that follows yields bytes, and a :class:`Pause` where it has to wait. A request that waits is answered
once what it waits for has come (:func:`hold_until`). Both use :class:`~localml.core.events.feed.Feed`, and end at once
when the client goes or the server shuts down.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Response, request

from localml.core.events.feed import Feed
from localml.core.subjects import Subject
from localml.httpd.held import HOLDS, PARKED, Held, Parked, Run

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_ROUND = 256 * 1024
"""Bytes that are gathered before they are sent."""
_PACE = 2 << 20
"""Bytes a second of news up to which a follower is woken by each piece; of more, it takes larger pieces less often."""
_REST = 0.1
"""Seconds that a follower rests at most after it has got much."""
_SHORT = 0.002
"""Seconds of a rest that is not worth one."""
_LOOKS, _LOOKS_A_SECOND = 20.0, 4.0
"""So often one who waits looks at once when something changes, which is more than a short job's whole life takes; and
so often a second from then on. A job that writes much wakes whoever waits for its end hundreds of times a second."""


@dataclass(slots=True)
class Pause:
    """Where a generator waits: until ``subject`` changes after ``seen``, at most ``timeout`` seconds.

    ``woken`` is set before the generator goes on: false when the time was over, or the feed is closed.
    """

    subject: Subject
    seen: int
    timeout: float
    woken: bool = False


class _Holding(Response):
    """The head is sent at once, so the client knows it is heard."""

    def __init__(self, held: Held, **options: Any) -> None:
        self._held = held
        super().__init__(held, **options)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, self.get_wsgi_headers(environ).to_wsgi_list())
        return self._held if environ["REQUEST_METHOD"] != "HEAD" else ()


class Following(_Holding):
    """An answer whose body comes as a generator makes it.

    Args:
        steps: bytes and pauses. What it does between two pauses may block: it runs on one of a few threads.
    """

    def __init__(self, feed: Feed, steps: Iterator[bytes | Pause], **options: Any) -> None:
        super().__init__(_Stream(feed, steps), **options)


Say = Callable[[bytes | None], None]


class Telling(_Holding):
    """An answer whose body is what some work says of itself. The work has a thread of its own, and goes on when the
    client leaves.

    Args:
        work: is called with what it says pieces of the body with.
    """

    def __init__(self, work: Callable[[Say], None], **options: Any) -> None:
        super().__init__(_Told(work), **options)


class _Told(Held):
    def __init__(self, work: Callable[[Say], None]) -> None:
        self._work = work

    def _begin(self, say: Say) -> None:
        def work() -> None:
            try:
                self._work(say)
            finally:
                say(None)

        threading.Thread(target=work, name="localml-telling", daemon=True).start()

    async def pieces(self, run: Run) -> AsyncGenerator[bytes, None]:
        loop, said = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()

        def say(piece: bytes | None) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(said.put_nowait, piece)

        self._begin(say)
        while (piece := await said.get()) is not None:
            yield piece

    def __iter__(self) -> Iterator[bytes]:
        said = queue.SimpleQueue[bytes | None]()
        self._begin(said.put)
        while (piece := said.get()) is not None:
            yield piece


class _Stream(Held):
    def __init__(self, feed: Feed, steps: Iterator[bytes | Pause]) -> None:
        self._feed, self._steps = feed, steps

    async def pieces(self, run: Run) -> AsyncGenerator[bytes, None]:
        while True:
            data, pause = await run(self._round)
            if data:
                yield data
            if pause is not None:
                if (rest := min(_REST, pause.timeout, len(data) / _PACE)) > _SHORT:
                    await asyncio.sleep(rest)
                pause.woken = await _changed(self._feed, pause.subject, pause.seen, pause.timeout)
            elif not data:
                return

    def _round(self) -> tuple[bytes, Pause | None]:
        """What comes until a pause, or much; nothing at all is the end."""
        found: list[bytes] = []
        size = 0
        for step in self._steps:
            if isinstance(step, Pause):
                return b"".join(found), step
            found.append(step)
            size += len(step)
            if size >= _ROUND:
                break
        return b"".join(found), None

    def __iter__(self) -> Iterator[bytes]:
        for step in self._steps:
            if isinstance(step, Pause):
                step.woken = self._feed.wait(step.subject, step.seen, step.timeout)
            else:
                yield step


def hold_until(feed: Feed, subject: Subject, over: Callable[[], bool], timeout: float) -> Response | None:
    """Let the request at hand wait until it is ``over``, ``timeout`` seconds passed, or the server shuts down.

    Args:
        subject: whose changes are a reason to ask ``over`` again.
        over: may block; it is asked outside of the request.

    Returns:
        None when there is nothing to wait for (any more): answer. Else what to return from the view, which is then
        called once more, later; then :func:`waited_for` says what it waited for.
    """
    if PARKED in request.environ:
        return None
    deadline = time.monotonic() + timeout
    seen = feed.version(subject)
    while not over() and not feed.closed and (left := deadline - time.monotonic()) > 0:
        if request.environ.get(HOLDS):
            return Waiting(_Until(feed, subject, seen, over, deadline))
        feed.wait(subject, seen, left)  # another server, whose thread this has to be
        seen = feed.version(subject)
    return None


def waited_for() -> int | None:
    """The number of what the request at hand has waited for already; None if it is asked for the first time.

    A name in its path may mean something else by then.
    """
    parked = request.environ.get(PARKED)
    return parked.subject.id if isinstance(parked, _Until) else None


class Waiting(Response):
    """What a view returns for a request that is to be asked for again."""

    def __init__(self, parked: Parked) -> None:
        super().__init__()
        self._parked = parked

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._parked


class _Until(Parked):
    def __init__(self, feed: Feed, subject: Subject, seen: int, over: Callable[[], bool], deadline: float) -> None:
        self.subject = subject
        self._feed, self._seen, self._over, self._deadline = feed, seen, over, deadline

    async def wait(self, run: Run) -> None:
        looks = _LOOKS
        while (left := self._deadline - (began := time.monotonic())) > 0:
            if not await _changed(self._feed, self.subject, self._seen, left):
                return
            self._seen = self._feed.version(self.subject)
            if await run(self._over):
                return
            now = time.monotonic()
            looks = min(_LOOKS, looks + (now - began) * _LOOKS_A_SECOND) - 1
            if looks < 0:
                await asyncio.sleep(min(-looks / _LOOKS_A_SECOND, max(0.0, self._deadline - now)))


async def _changed(feed: Feed, subject: Subject, seen: int, timeout: float) -> bool:
    """``feed.wait`` on an event loop."""
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            loop.call_soon_threadsafe(_finish, woken)

    forget = feed.watch(subject, seen, wake)
    try:
        async with asyncio.timeout(timeout):
            await woken
    except TimeoutError:
        return False
    finally:
        forget()
    return not feed.closed


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
