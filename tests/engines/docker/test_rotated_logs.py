"""A log that the daemon rotates is read without a gap and without doubles, across restarts; what is lost is told."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.docker_image import clean_engine, tiny_image
from helpers.engine_kits import wait_until

from localml.control.jobs.pumps import LogPumps
from localml.core.logs.files import LogStore
from localml.engines.base import STREAMS, LogChunk, Phase, ReplicaPlan, Stream
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.rotated import RotatedStream


class Rotating:
    """A daemon's log: the last messages of what a container wrote, of which some have one stamp."""

    def __init__(self, seed: int, keeps: int) -> None:
        self.chance = random.Random(seed)
        self.keeps = keeps
        self.messages: list[tuple[Stream, bytes, bytes]] = []
        self.dropped = 0
        self.clock = 0
        self.ended = False

    def write(self, lines: int) -> None:
        for _ in range(lines):
            self.clock += self.chance.choice((0, 1, 1, 5_000_000))
            stamp = b"2026-01-01T00:%02d:%02d.%09dZ" % (
                self.clock // 60_000_000_000,
                self.clock // 1_000_000_000 % 60,
                self.clock % 1_000_000_000,
            )
            line = b"line %d %s\n" % (len(self.messages), b"x" * self.chance.choice((0, 3, 90)))
            self.messages.append((self.chance.choice(STREAMS), stamp, line))

    def rotate(self) -> None:
        self.dropped = max(self.dropped, len(self.messages) - self.keeps)

    def bodies(self, tail: str) -> Iterator[bytes]:
        there = self.messages[self.dropped :]
        there = there if tail == "all" else there[-int(tail) :]
        body = b"".join(
            struct.pack(">BxxxL", 1 + STREAMS.index(stream), len(line) + 31) + stamp + b" " + line
            for stream, stamp, line in there
        )
        step = self.chance.choice((7, 100, 1 << 16))
        return (body[at : at + step] for at in range(0, len(body), step))

    def written(self, stream: Stream, first: int = 0) -> bytes:
        return b"".join(line for one, _, line in self.messages[first:] if one == stream)


class Files:
    """What the pump keeps across a kill: bytes, and the last place that it wrote down."""

    def __init__(self) -> None:
        self.data: dict[Stream, bytes] = dict.fromkeys(STREAMS, b"")
        self.place = ""
        self.gaps = 0

    def take(self, chunk: LogChunk) -> None:
        self.gaps += bool(chunk.gap)
        self.place = chunk.place or self.place
        self.data[chunk.stream] += chunk.data


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> list[Rotating]:
    """Streams read the log that the list holds."""
    log: list[Rotating] = []

    def bodies(_: RotatedStream, *, follow: bool, tail: str = "all") -> Iterator[bytes]:
        return log[0].bodies(tail)

    def state(_: RotatedStream) -> tuple[Phase, float]:
        return (Phase.EXITED if log[0].ended else Phase.RUNNING), 0.0

    monkeypatch.setattr(RotatedStream, "_bodies", bodies)
    monkeypatch.setattr(RotatedStream, "_state", state)
    monkeypatch.setattr("localml.engines.docker.rotated._TAILS", ("5", "40", "all"))
    monkeypatch.setattr("localml.engines.docker.rotated._NOTE_S", 0.0)
    return log


def read(log: list[Rotating], files: Files, upto: int | None = None) -> None:
    """One life of a server that is killed after so many chunks, or when there is no more for now."""
    daemon = Daemon()
    daemon._info = {"ServerVersion": "20.10.24"}
    since = {stream: len(data) for stream, data in files.data.items()}
    for number, chunk in enumerate(RotatedStream(daemon, "any", since, files.place, follow=False)):
        if number == upto:
            return
        files.take(chunk)


@pytest.mark.parametrize("seed", range(40))
def test_rounds_and_kills_lose_and_double_nothing(patched: list[Rotating], seed: int) -> None:
    log = Rotating(seed, keeps=60)
    patched.append(log)
    files = Files()
    for _ in range(30):
        log.write(log.chance.choice((0, 1, 4, 30)))
        log.rotate()
        read(patched, files, log.chance.choice((0, 1, 2, 5, None)))
        read(patched, files)
    log.ended = True
    read(patched, files)
    assert files.gaps == 0
    for stream in STREAMS:
        assert files.data[stream] == log.written(stream)
    count("readings cut short", 60)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_rotation_took_is_told_and_what_is_there_comes_once(patched: list[Rotating], seed: int) -> None:
    log = Rotating(seed, keeps=60)
    patched.append(log)
    files = Files()
    log.write(50)
    read(patched, files)
    log.write(200)
    log.rotate()
    for upto in (0, 1, 2, log.chance.randrange(3, 30)):
        read(patched, files, upto)
    log.ended = True
    read(patched, files)
    assert files.gaps >= 1
    for stream in STREAMS:
        expected = b"".join(line for one, _, line in log.messages[:50] if one == stream)
        assert files.data[stream] == expected + log.written(stream, log.dropped)


@pytest.mark.docker
def test_a_service_is_followed_over_rotations_and_restarts(tmp_path: Path) -> None:
    lines = 400
    script = f"i=0; while [ $i -lt {lines} ]; do echo line $i; echo to stderr $i >&2; i=$((i+1)); done; exec sleep 600"
    with clean_engine() as engine:
        plan = ReplicaPlan("rotated-svc", engine.resolve_image(tiny_image()), ("/bin/sh", "-c", script), rotate=True)
        engine.start(plan)
        store, told = LogStore(tmp_path), list[str]()

        def pumps() -> LogPumps:
            made = LogPumps(
                engine,
                store,
                done=lambda: None,
                changed=lambda _: None,
                tell=lambda _, __, reason, ___: told.append(reason) is None,
            )
            made.ensure(1, "rotated-svc")
            return made

        first = b"".join(b"line %d\n" % number for number in range(lines))
        one = pumps()
        wait_until(lambda: store.size(1, "rotated-svc", "stdout") >= len(first), "the output")
        one.close()
        two = pumps()
        engine.stop("rotated-svc", 1)
        wait_until(lambda: engine.inspect("rotated-svc").phase is Phase.EXITED, "the end")
        wait_until(lambda: two.drained("rotated-svc"), "the end of the output")
        two.close()
        assert store.read(1, "rotated-svc", "stdout", 0, 1 << 20) == first
        assert store.size(1, "rotated-svc", "stderr") == len(first) + lines * len(b"to stderr ") - lines * len(b"line ")
        assert told == []
