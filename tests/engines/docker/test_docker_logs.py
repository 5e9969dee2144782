"""Output comes back as exactly the bytes that were written, once each, from any offset."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from helpers.docker_image import clean_engine, tiny_image
from helpers.engine_kits import DEADLINE
from hypothesis import given
from hypothesis import strategies as st

from localml.engines.base import STREAMS, EngineError, EngineUnreachable, LogChunk, Observed, Phase, ReplicaPlan, Stream
from localml.engines.docker import DockerEngine
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.frames import BLOCK, PART, Cursor, LineJoiner, Message, dechunked, read_frames
from localml.engines.docker.logs import _WINDOW, LogStream

STAMP = b"2026-01-01T00:00:00.000000001Z"
LONG = b"x" * PART + b"\n" + b"y" * 50_000 + b"\n" + b"\n" + b"z" * (PART - 1) + b"\n" + b"w" * (PART + 1) + b"\n"


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with clean_engine() as made:
        yield made


def joined(chunks: Iterable[LogChunk]) -> dict[str, bytes]:
    output = {"stdout": bytearray(), "stderr": bytearray()}
    for chunk in chunks:
        output[chunk.stream] += chunk.data
    return {stream: bytes(data) for stream, data in output.items()}


def run(engine: DockerEngine, name: str, script: str) -> Observed:
    return engine.start(ReplicaPlan(name, engine.resolve_image(tiny_image()), ("/bin/sh", "-c", script)))


@pytest.mark.docker
def test_closing_ends_a_reading_whatever_the_client_stumbles_over(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, "closed-r-0-1", "echo on; while :; do sleep 0.1; done")
    stream = engine.logs("closed-r-0-1", {}, follow=True)

    def taken_away(*_: object, **__: object) -> Iterator[bytes]:
        yield frame("stdout", b"on\n")
        stream.close()  # type: ignore[attr-defined]
        raise AttributeError("'NoneType' object has no attribute 'close'")

    monkeypatch.setattr("localml.engines.docker.logs._body", taken_away)
    assert [chunk.data for chunk in stream] == [b"on\n"]


def frame(stream: Stream, data: bytes, stamp: bytes = STAMP) -> bytes:
    """A frame of the daemon's answer."""
    data = stamp + b" " + data
    return struct.pack(">BxxxL", 1 if stream == "stdout" else 2, len(data)) + data


def fed(cursor: Cursor, body: bytes, cuts: Iterable[int] = ()) -> list[LogChunk]:
    """What a cursor makes of a body that comes in pieces."""
    chunks, at = [], 0
    for cut in (*sorted(cuts), len(body)):
        chunks += cursor.feed(body[at:cut])
        at = max(at, cut)
    return chunks


# Messages as a daemon makes them out of the bytes written to one stream.
def daemon_messages(written: bytes, *, drops_newlines: bool) -> list[bytes]:
    messages = []
    lines = written.split(b"\n")
    for number, line in enumerate(lines):
        ends = number < len(lines) - 1
        parts = []
        while len(line) >= PART:
            parts.append(line[:PART])
            line = line[PART:]
        newline = b"\n" if ends and not (parts and drops_newlines) else b""
        if ends or line:
            parts.append(line + newline)
        messages += parts
    return messages


def pieces() -> st.SearchStrategy[bytes]:
    filler = st.sampled_from([0, 1, 5, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 7]).map(lambda n: b"a" * n)
    return st.lists(st.one_of(filler, st.just(b"\n"), st.binary(max_size=8)), max_size=8).map(b"".join)


@given(pieces(), st.booleans())
def test_lines_of_any_length_are_joined_to_what_was_written(written: bytes, drops: bool) -> None:
    last = written.rpartition(b"\n")[2]
    if drops and len(last) > PART and len(last) % PART:
        written += b"\n"  # the one case that such a daemon does not let us tell apart
    joiner = LineJoiner(lossy=drops)
    got = b"".join(joiner.join(message) for message in daemon_messages(written, drops_newlines=drops))
    assert got + joiner.end() == written


@given(pieces(), st.integers(min_value=0, max_value=4 * PART), st.booleans(), st.lists(st.integers(0, 5 * PART)))
def test_reading_goes_on_at_any_byte(written: bytes, offset: int, drops: bool, cuts: list[int]) -> None:
    messages = daemon_messages(written + b"\n", drops_newlines=drops)
    offset = min(offset, len(written) + 1)
    body = b"".join(frame("stdout", data) for data in messages)
    for chunks in (
        lambda cursor: [c for data in messages for c in cursor.take(Message("stdout", STAMP, data))],
        lambda cursor: fed(cursor, body, cuts),
    ):
        cursor = Cursor({"stdout": offset, "stderr": 0}, lossy=drops)
        got = [*chunks(cursor), *cursor.end(0.0)]
        assert b"".join(chunk.data for chunk in got) == (written + b"\n")[offset:]


MESSAGES = st.tuples(st.sampled_from(STREAMS), pieces(), st.integers(0, 40))


@given(st.lists(MESSAGES, max_size=30), st.booleans(), st.lists(st.integers(0, 4000), max_size=20))
def test_blocks_are_the_lines_that_they_are_made_of(
    written: list[tuple[Stream, bytes, int]], drops: bool, cuts: list[int]
) -> None:
    """In both streams' order, with times that are right to ten milliseconds."""
    messages, at = [], 0
    for stream, data, later in written:
        at += later
        stamp = b"2026-01-01T00:00:%02d.%03d000007Z" % divmod(at, 1000)
        messages += [Message(stream, stamp, one) for one in daemon_messages(data + b"\n", drops_newlines=drops)]
    plain, blocks = (Cursor({"stdout": 0, "stderr": 0}, lossy=drops) for _ in range(2))
    expected = [chunk for message in messages for chunk in plain.take(message)]
    got = fed(blocks, b"".join(frame(one.stream, one.data, one.stamp) for one in messages), cuts)
    assert [(s, d) for s, d, _ in bytewise(got)] == [(s, d) for s, d, _ in bytewise(expected)]
    assert all(abs(a - b) < 0.01 for (_, _, a), (_, _, b) in zip(bytewise(got), bytewise(expected), strict=True))
    assert not messages or blocks.last == messages[-1]


def bytewise(chunks: Iterable[LogChunk]) -> list[tuple[str, int, float]]:
    return [(chunk.stream, byte, chunk.at) for chunk in chunks for byte in chunk.data]


def test_short_lines_become_blocks() -> None:
    line = b"a line of output\n"
    body = b"".join(frame("stdout", line, b"2026-01-01T00:00:00.%09dZ" % (n * 1000)) for n in range(30_000))
    chunks = fed(Cursor({"stdout": 0, "stderr": 0}, lossy=True), body, range(0, len(body), BLOCK))
    assert b"".join(chunk.data for chunk in chunks) == line * 30_000
    assert len(chunks) <= len(body) / BLOCK + 3 + 2


def test_what_the_daemon_says_of_its_log_is_no_output() -> None:
    said = b"Error grabbing logs: unexpected EOF\n"
    body = frame("stdout", b"fine\n") + struct.pack(">BxxxL", 3, len(said)) + said
    with pytest.raises(EngineError, match="unexpected EOF"):
        fed(Cursor({"stdout": 0, "stderr": 0}, lossy=True), body)


class Wire(io.RawIOBase):
    """Gives bytes in pieces, as a socket does."""

    def __init__(self, body: bytes, cuts: Iterable[int]) -> None:
        self._pieces = [body[a:b] for a, b in pairwise(sorted({0, len(body), *(c for c in cuts if c < len(body))}))]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._pieces.pop(0) if self._pieces else b""
        buffer[: len(piece)] = piece
        return len(piece)


def read(file: io.BufferedReader) -> Iterator[bytes]:
    return iter(lambda: file.read1(BLOCK), b"")


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(0, 3000), max_size=30))
def test_chunks_of_http_are_put_together(parts: list[bytes], cuts: list[int]) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    whole = io.BufferedReader(Wire(body + b"0\r\n\r\n", cuts))
    assert b"".join(dechunked(read(whole))) == b"".join(parts)
    broken = io.BufferedReader(Wire(body, cuts))
    got = []
    with pytest.raises(EngineUnreachable):
        got.extend(dechunked(read(broken)))


def test_a_log_that_is_shorter_than_it_was_is_not_taken_for_a_complete_one() -> None:
    cursor = Cursor({"stdout": 10, "stderr": 0}, lossy=True)
    assert list(cursor.take(Message("stdout", STAMP, b"hello\n"))) == []
    with pytest.raises(EngineError, match="stdout lacks 4 bytes"):
        list(cursor.end(0.0))


def test_frames_cut_short_are_left_out() -> None:
    body = b"\x01\0\0\0\0\0\0\x02hi" + b"\x02\0\0\0\0\0\0\x05err"
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        at += size
        return body[at - size : at]

    assert list(read_frames(read)) == [("stdout", b"hi")]


@pytest.mark.parametrize("lines", [0, 1, _WINDOW - 1, _WINDOW, _WINDOW + 1])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_following_did_not_give_comes_when_the_container_has_ended(
    lines: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [b"line %d\n" % number for number in range(lines)]

    def bodies(_: LogStream, *, follow: bool, tail: str = "all") -> Iterator[bytes]:
        share_of_them = written[: round(lines * share)] if follow else written
        return (frame("stdout", line) for line in share_of_them[0 if tail == "all" else -int(tail) :])

    monkeypatch.setattr(LogStream, "_bodies", bodies)
    monkeypatch.setattr(LogStream, "_state", lambda _: (Phase.EXITED, 0.0))
    daemon = Daemon()
    monkeypatch.setattr(daemon, "info", lambda: {"ServerVersion": "20.10.24"})
    output = joined(LogStream(daemon, "any", {}, follow=True))
    assert output["stdout"] == b"".join(written)


def test_who_passes_over_what_was_given_before_says_that_reading_goes_on() -> None:
    """Of short lines, too, which a daemon under load gives slowly: a reader that seems to hang is begun again."""
    lines = [b"%06d\n" % number for number in range(20_000)]
    cursor = Cursor({"stdout": 7 * len(lines), "stderr": 0}, lossy=False)
    silent = longest = 0
    for line in lines:
        chunks = list(cursor.feed(frame("stdout", line)))
        assert all(not chunk.data for chunk in chunks)
        silent = 0 if chunks else silent + len(line)
        longest = max(longest, silent)
    assert longest <= 16 << 10
    assert [chunk.data for chunk in cursor.feed(frame("stdout", b"new\n"))] == [b"new\n"]


@pytest.mark.docker
def test_binary_output_survives_and_streams_stay_apart(engine: DockerEngine) -> None:
    run(engine, "binary", r"printf 'a\000b\377\376\r\n\n\nlast'; printf 'err\n\n\200' >&2")
    followed = joined(engine.logs("binary", {}, follow=True))
    assert followed == {"stdout": b"a\x00b\xff\xfe\r\n\n\nlast", "stderr": b"err\n\n\x80"}
    assert joined(engine.logs("binary", {}, follow=False)) == followed


@pytest.mark.docker
def test_lines_longer_than_the_daemons_buffer_keep_their_newlines(engine: DockerEngine) -> None:
    fill = "head -c {} /dev/zero | tr '\\0' {}; "
    script = fill.format(PART, "x") + "echo; " + fill.format(50_000, "y") + "echo; echo; "
    script += fill.format(PART - 1, "z") + "echo; " + fill.format(PART + 1, "w") + "echo"
    run(engine, "long", script)
    assert joined(engine.logs("long", {}, follow=True))["stdout"] == LONG
    since: dict[Stream, int] = {"stdout": 40_000}
    assert joined(engine.logs("long", since, follow=False))["stdout"] == LONG[40_000:]


@pytest.mark.docker
def test_following_gives_the_last_lines_of_containers_that_end_at_once(engine: DockerEngine) -> None:
    expected = b"".join(b"line %d\n" % number for number in range(150)) + b"end"
    script = "i=0; while [ $i -lt 150 ]; do echo line $i; i=$((i+1)); done; printf end"
    for number in range(6):  # Docker 20.10 loses the end in about half of such runs
        name = f"short-{number}"
        run(engine, name, script)
        assert joined(engine.logs(name, {}, follow=True))["stdout"] == expected
        since: dict[Stream, int] = {"stdout": 100}
        assert joined(engine.logs(name, since, follow=True))["stdout"] == expected[100:]


@pytest.mark.docker
def test_much_output_is_followed_without_a_gap(engine: DockerEngine) -> None:
    run(engine, "much", "seq 1 60000; seq 1 3 >&2")
    output = joined(engine.logs("much", {}, follow=True))
    assert output["stdout"] == b"".join(b"%d\n" % number for number in range(1, 60001))
    assert output["stderr"] == b"1\n2\n3\n"


@pytest.mark.docker
def test_another_thread_ends_a_reading_that_waits(engine: DockerEngine) -> None:
    run(engine, "quiet", "echo first; sleep 600")
    chunks = engine.logs("quiet", {}, follow=True)
    assert next(chunks).data == b"first\n"
    rest: list[LogChunk] = []
    reader = threading.Thread(target=lambda: rest.extend(chunks))
    reader.start()
    chunks.close()  # type: ignore[attr-defined]
    reader.join(DEADLINE)
    assert not reader.is_alive()
    assert rest == []
    engine.remove("quiet")


@pytest.mark.docker
def test_a_container_that_is_gone_gives_nothing(engine: DockerEngine) -> None:
    assert list(engine.logs("never-was", {}, follow=True)) == []
    assert list(engine.logs("never-was", {}, follow=False)) == []
