"""A progress bar is seen while it moves, and the log is what was written, to the byte."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.docker_image import clean_engine, tiny_image
from helpers.engine_kits import wait_until

from localml.control.jobs.pumps import LogPumps
from localml.core.logs.files import LogStore
from localml.engines.base import STREAMS, Phase, ReplicaPlan, Stream
from localml.engines.docker import DockerEngine
from localml.engines.docker.live import Live


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with clean_engine() as made:
        yield made


def live() -> Live:
    nothing: Any = None
    return Live(nothing, None)


@pytest.mark.parametrize("seed", range(20))
def test_what_lies_behind_an_offset(seed: int) -> None:
    chance = random.Random(seed)
    one, written, body = live(), dict.fromkeys(STREAMS, b""), b""
    for _ in range(40):
        number, data = chance.choice((1, 2)), chance.randbytes(chance.choice((1, 9, 5000)))
        written[STREAMS[number - 1]] += data
        body += struct.pack(">BxxxL", number, len(data)) + data
    step = chance.choice((1, 7, 4096))
    for at in range(0, len(body), step):
        one.take(body[at : at + step])
    for stream in STREAMS:
        size = len(written[stream])
        for behind in (0, 1, 100, 60_000):
            expected = written[stream][size - behind :] if 0 < behind <= size else b""
            assert one.after(stream, size - behind) == expected
        assert one.after(stream, size + 1) == b""
        assert one.after(stream, size - 70_000) == b""


class Carried:
    """A container whose output is carried into files."""

    def __init__(self, engine: DockerEngine, data: Path, name: str, script: str) -> None:
        self.engine, self.name = engine, name
        self.store = LogStore(data)
        self.news = threading.Event()
        self.told: list[str] = []
        engine.start(ReplicaPlan(name, engine.resolve_image(tiny_image()), ("/bin/sh", "-c", script)))
        self.pumps = self.carry()

    def carry(self) -> LogPumps:
        made = LogPumps(
            self.engine,
            self.store,
            done=lambda: None,
            changed=lambda _: self.news.set(),
            tell=lambda _, __, reason, ___: self.told.append(reason) is None,
        )
        made.ensure(1, self.name)
        return made

    def kept(self, stream: Stream = "stdout") -> bytes:
        return self.store.read(1, self.name, stream, 0, 1 << 24)

    def has(self, output: bytes) -> bool:
        return self.kept() == output

    def exec(self, script: str) -> None:
        self.engine.exec(self.name, ("/bin/sh", "-c", script))

    def finish(self) -> None:
        wait_until(lambda: self.engine.inspect(self.name).phase is Phase.EXITED, "the end")
        wait_until(lambda: self.pumps.drained(self.name), "the end of the output")
        self.pumps.close()
        assert self.told == []


STEPS = r"""
mkfifo /tmp/go; exec 3<>/tmp/go
while read line <&3; do
  case $line in
    end) break;;
    long) head -c 40000 /dev/zero | tr '\0' x;;
    err) printf '\377\000%s\r' "$line" >&2;;
    nl) printf '\n';;
    *) printf '%s \201\000\r' "$line";;
  esac
done
printf 'last words'
"""


@pytest.mark.docker
def test_a_bar_is_seen_within_a_second(engine: DockerEngine, tmp_path: Path) -> None:
    one = Carried(engine, tmp_path, "bar", STEPS)
    expected = b""
    for number in range(5):
        one.exec(f"echo {number} > /tmp/go")
        expected += b"%d \x81\0\r" % number
        wait_until(partial(one.has, expected), "a step of the bar")
    assert one.kept() == expected
    one.exec("echo end > /tmp/go")
    one.finish()
    assert one.kept() == expected + b"last words"


@pytest.mark.docker
@pytest.mark.parametrize("seed", range(2))
def test_bars_lines_and_restarts_lose_and_double_nothing(engine: DockerEngine, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    one = Carried(engine, tmp_path, f"mixed-{seed}", STEPS)
    expected: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
    words = {"nl": b"\n", "long": b"x" * 40_000, "step": b"step \x81\0\r"}
    for _ in range(25):
        word = chance.choice(("nl", "long", "step", "step", "err"))
        one.exec(f"echo {word} > /tmp/go")
        if word == "err":
            expected["stderr"] += b"\xff\0err\r"
        else:
            expected["stdout"] += words[word]
        if chance.random() < 0.4:
            wait_until(lambda: all(one.kept(stream) == expected[stream] for stream in STREAMS), "what was written")
        if chance.random() < 0.3:
            one.pumps.close()
            one.pumps = one.carry()
            count("readings cut short")
    one.exec("echo nl > /tmp/go; echo end > /tmp/go")
    one.finish()
    assert one.kept() == expected["stdout"] + b"\nlast words"
    assert one.kept("stderr") == expected["stderr"]


@pytest.mark.docker
def test_another_server_goes_on_where_the_first_was(engine: DockerEngine, tmp_path: Path) -> None:
    one = Carried(engine, tmp_path, "adopted", STEPS)
    one.exec("echo a > /tmp/go")
    wait_until(lambda: one.kept() == b"a \x81\0\r", "a step of the bar")
    one.pumps.close()
    other = DockerEngine(engine._install)
    one.engine = other
    one.pumps = one.carry()
    one.exec("echo b > /tmp/go; echo nl > /tmp/go; echo end > /tmp/go")
    one.finish()
    other.close()
    assert one.kept() == b"a \x81\0\rb \x81\0\r\nlast words"
