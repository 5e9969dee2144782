"""How answers go out: at the reader's pace, for as long as it stays, and without a thread that waits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.engine_kits import wait_until
from helpers.http_socket import Talk, serving

from localml.httpd import exchange
from localml.httpd.held import PARKED, FileAnswer, Held, Parked
from localml.httpd.server import HttpServer

MIB = 1 << 20
App = Callable[[dict[str, Any], Any], Any]


class Site:
    """An app of many pages: ``/name`` is answered by the function of that name, given environment and start."""

    def __init__(self, **pages: App) -> None:
        self.pages = pages

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        return self.pages[environ["PATH_INFO"].strip("/")](environ, start_response)


def page(body: Any, *headers: tuple[str, str], status: str = "200 OK") -> App:
    """Always the same answer."""

    def answer(_environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return body() if callable(body) else body

    return answer


class Endless:
    """An iterable that goes on and on, counts its blocks, and knows when it was closed."""

    def __init__(self, block: int = MIB) -> None:
        self.block, self.made, self.closed = block, 0, threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.made += 1
            yield bytes(self.block)

    def close(self) -> None:
        """No more is wanted."""
        self.closed.set()


class Silent(Held):
    """Says hello, and then only what it is told to say; ends with an empty word."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[bytes] = asyncio.Queue()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ended = threading.Event()

    def say(self, word: bytes) -> None:
        """From any thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.words.put_nowait, word)

    async def pieces(self, run: Any) -> AsyncGenerator[bytes, None]:
        self.loop = asyncio.get_running_loop()
        try:
            yield b"hello"
            while word := await self.words.get():
                yield await run(word.upper)
        finally:
            self.ended.set()

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"hello"])


class Until(Parked):
    """Waits for an event that is set on the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.event = asyncio.Event()
        self.entered, self.left = threading.Event(), threading.Event()

    async def wait(self, run: Any) -> None:
        self.loop.close()
        self.loop = asyncio.get_running_loop()
        self.entered.set()
        try:
            await self.event.wait()
        finally:
            self.left.set()


def ask(server: HttpServer, line: str, *headers: str) -> Any:
    with Talk(server.port) as talk:
        talk.ask(line, *headers)
        return talk.answer(head_only=line.startswith("HEAD"))


def test_statuses_headers_and_lengths() -> None:
    site = Site(
        plain=page([b"one", b"two"], ("X-One", "1"), ("X-One", "2"), status="299 My Own Word"),
        empty=page([]),
        nothing=page([], status="204 No Content"),
        unchanged=page([], ("ETag", '"x"'), status="304 Not Modified"),
        lazy=page(lambda: iter([b"", b"abc", b"", b"def"])),
        lazy_length=page(lambda: iter([b"abc", b"def"]), ("Content-Length", "6")),
        too_much=page(lambda: iter([b"abc", b"def", b"ghi"]), ("Content-Length", "4")),
    )
    with serving(site) as server:
        plain = ask(server, "GET /plain")
        assert (plain.status, plain.phrase, plain.body) == (299, "My Own Word", b"onetwo")
        assert plain.headers.get_all("X-One") == ["1", "2"]
        assert plain.headers["Date"].endswith("GMT")
        assert ask(server, "GET /empty").headers["content-length"] == "0"
        assert ask(server, "GET /nothing").headers["content-length"] is None
        assert ask(server, "GET /unchanged").headers["ETag"] == '"x"'
        lazy = ask(server, "GET /lazy")
        assert (lazy.body, lazy.chunks) == (b"abcdef", [3, 3])
        assert ask(server, "GET /lazy_length").body == b"abcdef"
        assert ask(server, "GET /too_much").body == b"abcd"


@pytest.mark.parametrize("path", ["list", "length", "lazy", "file", "held"])
def test_an_answer_to_head_has_no_body_and_the_connection_goes_on(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    held: list[Silent] = []

    def stream() -> Silent:
        held.append(Silent())
        return held[-1]

    site = Site(
        list=page([b"abc"]),
        length=page(lambda: iter([b"abc"]), ("Content-Length", "3")),
        lazy=page(lambda: iter([b"abc", b"def"])),
        file=page(lambda: FileAnswer((tmp_path / "file").open("rb")), ("Content-Length", "1000")),
        held=page(stream),
    )
    with serving(site) as server, Talk(server.port) as talk:
        talk.ask(f"HEAD /{path}")
        answer = talk.answer(head_only=True)
        expected = {"list": "3", "length": "3", "file": "1000"}.get(path)
        assert (answer.status, answer.headers["content-length"]) == (200, expected)
        talk.ask("GET /list")
        assert talk.answer().body == b"abc"


def test_failures_of_the_app_are_500_and_later_ones_cut_the_answer() -> None:
    def breaks(_environ: Any, _start: Any) -> Any:
        raise RuntimeError("a defect")

    def breaks_late() -> Iterator[bytes]:
        yield b"abc"
        raise RuntimeError("a defect in the middle")

    site = Site(
        breaks=breaks,
        silent=lambda _environ, _start: [b"no status"],
        injected=page([], ("X-Evil", "a\r\nb: c")),
        late=page(breaks_late),
        short=page(lambda: iter([b"abc"]), ("Content-Length", "5")),
        fine=page([b"fine"]),
    )
    with serving(site) as server:
        for path in ("breaks", "silent", "injected"):
            answer = ask(server, f"GET /{path}")
            assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal")
        for path in ("late", "short"):
            with pytest.raises((ConnectionError, AssertionError, ValueError)):
                ask(server, f"GET /{path}")
        assert ask(server, "GET /fine").body == b"fine"


@pytest.mark.parametrize("what", [StopIteration, SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_what_means_something_else_to_the_event_loop_is_a_failure_of_the_app(what: type[BaseException]) -> None:
    def breaks(_environ: Any, _start: Any) -> Any:
        raise what

    with serving(Site(breaks=breaks, fine=page([b"fine"]))) as server:
        for _ in range(2):
            assert ask(server, "GET /breaks").status == 500
        assert ask(server, "GET /fine").body == b"fine"


def test_pieces_are_sent_as_they_are_made_and_what_is_written_comes_first() -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert go.wait(60)
        yield b"second"

    def writes(_environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"written")
        return iter([b"returned"])

    with serving(Site(pieces=page(pieces), writes=writes)) as server:
        with Talk(server.port) as talk:
            talk.ask("GET /pieces")
            talk.head()
            chunks = talk.chunks()
            assert next(chunks) == b"first"
            go.set()
            assert list(chunks) == [b"second"]
        assert ask(server, "GET /writes").body == b"writtenreturned"


def test_a_slow_reader_holds_neither_thread_nor_memory(tmp_path: Path) -> None:
    endless, process = Endless(), psutil.Process()
    with (tmp_path / "file").open("wb") as file:
        file.truncate(500 * MIB)
    files = [(tmp_path / "file").open("rb") for _ in range(8)]
    waiting = list(files)
    site = Site(
        endless=page(endless),
        file=page(lambda: FileAnswer(waiting.pop()), ("Content-Length", str(500 * MIB))),
        quick=page([b"quick"]),
    )
    with serving(site, threads=1) as server:
        before = process.memory_info().rss
        readers = [Talk(server.port, receive_buffer=4096) for _ in range(9)]
        for number, talk in enumerate(readers):
            talk.ask("GET /file" if number else "GET /endless")
            talk.head()
        for _ in range(5):
            assert ask(server, "GET /quick").body == b"quick"
        assert endless.made < 20
        assert process.memory_info().rss - before < 40 * MIB
        for talk in readers:
            talk.close()
        assert endless.closed.wait(10)
        wait_until(lambda: all(file.closed for file in files), "the end of the files")


def test_a_slow_reader_that_goes_on_gets_everything(tmp_path: Path) -> None:
    data = bytes(range(256)) * (20 * MIB // 256)
    (tmp_path / "file").write_bytes(data)
    site = Site(file=page(lambda: FileAnswer((tmp_path / "file").open("rb"))))
    with serving(site) as server, Talk(server.port, receive_buffer=4096) as talk:
        talk.ask("GET /file")
        talk.head()
        assert b"".join(talk.chunks()) == data


def test_a_client_that_reads_nothing_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "STALLED", 0.2)
    endless = Endless()
    with serving(Site(endless=page(endless))) as server, Talk(server.port, receive_buffer=4096) as talk:
        talk.ask("GET /endless")
        assert endless.closed.wait(30)


def test_held_streams_take_no_thread_and_say_what_they_are_told() -> None:
    streams: list[Silent] = []

    def stream() -> Silent:
        streams.append(Silent())
        return streams[-1]

    with serving(Site(held=page(stream), quick=page([b"quick"])), threads=1) as server:
        talks = [Talk(server.port) for _ in range(64)]
        chunks = []
        for talk in talks:
            talk.ask("GET /held")
            talk.head()
            chunks.append(talk.chunks())
            assert next(chunks[-1]) == b"hello"
        assert ask(server, "GET /quick").body == b"quick"
        for stream_ in streams:
            stream_.say(b"word")
            stream_.say(b"")
        for talk, rest in zip(talks, chunks, strict=True):
            assert list(rest) == [b"WORD"]
            talk.ask("GET /quick")
            assert talk.answer().body == b"quick"
            talk.close()


def test_a_client_that_leaves_ends_its_stream_while_nothing_is_sent() -> None:
    stream = Silent()
    with serving(Site(held=page(lambda: stream))) as server:
        with Talk(server.port) as talk:
            talk.ask("GET /held")
            assert next(talk.chunks()) if talk.head() else False
        assert stream.ended.wait(2.0)


def test_a_parked_request_is_asked_again_and_takes_no_thread() -> None:
    parked: list[Until] = []

    def poll(environ: dict[str, Any], start_response: Any) -> Any:
        if PARKED in environ:
            assert environ[PARKED] in parked
            start_response("200 OK", [])
            return [environ["wsgi.input"].read()]
        parked.append(Until())
        return parked[-1]

    with serving(Site(poll=poll, quick=page([b"quick"])), threads=1) as server:
        talks = [Talk(server.port) for _ in range(64)]
        for number, talk in enumerate(talks):
            talk.ask("POST /poll", body=b"%d" % number)
        wait_until(lambda: len(parked) == 64 and all(one.entered.is_set() for one in parked), "the parking of all")
        assert ask(server, "GET /quick").body == b"quick"
        talks.pop().close()
        wait_until(lambda: sum(one.left.is_set() for one in parked) == 1, "one who leaves")
        for one in parked:
            one.loop.call_soon_threadsafe(one.event.set)
        for number, talk in enumerate(talks):
            assert talk.answer().body == b"%d" % number
            talk.close()


def test_closing_waits_for_what_is_under_way_and_cuts_what_stays() -> None:
    begun, go = threading.Event(), threading.Event()
    stream = Silent()

    def slow(_environ: Any, start_response: Any) -> Any:
        begun.set()
        assert go.wait(60)
        start_response("200 OK", [])
        return [b"done"]

    server = HttpServer(Site(slow=slow, held=page(lambda: stream)))
    server.start()
    with Talk(server.port) as talk, Talk(server.port) as held, Talk(server.port) as idle:
        talk.ask("GET /slow")
        held.ask("GET /held")
        held.head()
        assert begun.wait(10)
        closing = threading.Thread(target=server.close, args=(1.0,))
        begin = time.monotonic()
        closing.start()
        assert idle.closed()
        go.set()
        answer = talk.answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        closing.join(30)
        assert time.monotonic() - begin < 10
        assert stream.ended.is_set()
        with pytest.raises(ConnectionError):
            Talk(server.port)
