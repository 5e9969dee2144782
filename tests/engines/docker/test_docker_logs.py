"""Output comes back as exactly the bytes that were written, once each, from any offset."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest
from helpers.docker_image import clean_engine, tiny_image
from helpers.engine_kits import DEADLINE
from hypothesis import given
from hypothesis import strategies as st

from localml.engines.base import EngineError, LogChunk, Observed, Phase, ReplicaPlan, Stream
from localml.engines.docker import DockerEngine
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.logs import _WINDOW, PART, Cursor, LineJoiner, LogStream, Message, read_frames

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


def test_closing_ends_a_reading_whatever_the_client_stumbles_over(
    engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, "closed-r-0-1", "echo on; while :; do sleep 0.1; done")
    stream = engine.logs("closed-r-0-1", {}, follow=True)
    assert next(stream).data == b"on\n"

    def taken_away(*_: object) -> None:
        stream.close()  # type: ignore[attr-defined]
        raise AttributeError("'NoneType' object has no attribute 'close'")

    monkeypatch.setattr("http.client.HTTPResponse.read1", taken_away)
    assert list(stream) == []


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


@given(pieces(), st.integers(min_value=0, max_value=4 * PART), st.booleans())
def test_reading_goes_on_at_any_byte(written: bytes, offset: int, drops: bool) -> None:
    messages = daemon_messages(written + b"\n", drops_newlines=drops)
    offset = min(offset, len(written) + 1)
    cursor = Cursor({"stdout": offset, "stderr": 0}, lossy=drops)
    stamp = b"2026-01-01T00:00:00.000000001Z"
    got = [c for data in messages for c in cursor.take(Message("stdout", stamp, data))]
    got += cursor.end(0.0)
    assert b"".join(chunk.data for chunk in got) == (written + b"\n")[offset:]


def test_a_log_that_is_shorter_than_it_was_is_not_taken_for_a_complete_one() -> None:
    cursor = Cursor({"stdout": 10, "stderr": 0}, lossy=True)
    stamp = b"2026-01-01T00:00:00.000000001Z"
    assert list(cursor.take(Message("stdout", stamp, b"hello\n"))) == []
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
    stamp = b"2026-01-01T00:00:00.000000001Z"
    written = [Message("stdout", stamp, b"line %d\n" % number) for number in range(lines)]

    def messages(_: LogStream, *, follow: bool, tail: str = "all") -> Iterator[Message]:
        if follow:
            return iter(written[: round(lines * share)])
        return iter(written if tail == "all" else written[-int(tail) :])

    monkeypatch.setattr(LogStream, "_messages", messages)
    monkeypatch.setattr(LogStream, "_state", lambda _: (Phase.EXITED, 0.0))
    daemon = Daemon()
    monkeypatch.setattr(daemon, "info", lambda: {"ServerVersion": "20.10.24"})
    output = joined(LogStream(daemon, "any", {}, follow=True))
    assert output["stdout"] == b"".join(message.data for message in written)


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
