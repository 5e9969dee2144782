"""Output: one more line while somebody follows, and the last ten of very much.

A real job writes a million lines and then one more whenever it is told to, with the time at which it wrote it; what is
measured goes from there until the line is in the client's hands: through the job's pipe, the disk, the server and the
socket. The same behind no lines at all is the floor.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.client import Client
from bench.rows import Row, folder, ms
from bench.server import IMAGE, Server, serving

_MORE = 0.005
_SILENCE = 0.5
_MOST_READ = 1 << 20
_MARK = b"now "
_WRITER = """
import os, sys, time
size, line = int(sys.argv[1]), b"%011d a line of output as long as many are, more or less\\n"
written = number = 0
while written < size:
    block = b"".join(line % one for one in range(number, number + 1000))
    number, written = number + 1000, written + len(block)
    while block:
        block = block[os.write(1, block):]
if len(sys.argv) > 2:
    with open(sys.argv[2]) as told:
        for _ in told:
            os.write(1, b"now %d\\n" % time.monotonic_ns())
"""
_LINE = 64
"""Bytes of a line of the writer's."""


def followed(quick: bool) -> Iterator[Row]:
    """One more line, for who follows through the native and through the Cloud-ML API: one after the other, and after a
    silence."""
    behind, rounds = (100_000, 30) if quick else (1_000_000, 150)
    with folder() as path, serving(path / "data", "process") as server:
        for what, api in (("native", _Native(server, path)), ("Cloud-ML", _CloudMl(server, path))):
            floor, p50, silent = _in_turn(api, behind, rounds)
            measured = f"{ms(p50)} ({(p50 - floor) * 1000:+.2f} ms)"
            name = f"one more line behind {behind:,}, {what}: p50"
            yield Row(name, measured, "<= none + 5 ms", f"{ms(floor)} behind none", p50 - floor <= _MORE)
            yield Row("the same after a silence", ms(silent), "<= 5 ms", "", silent <= _MORE)


class _Native:
    """Jobs and server-sent events of localml's own API."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server = server
        self.path = path
        self.script = path / "writer.py"
        self.script.write_text(_WRITER)

    def command(self, lines: int, name: str) -> list[str]:
        """The writer, which listens at a pipe of that name."""
        os.mkfifo(self.path / name)
        return [sys.executable, str(self.script), str(lines * _LINE), str(self.path / name)]

    def submit(self, name: str, lines: int) -> None:
        """Start a job that writes."""
        spec = {"roles": [{"command": self.command(lines, name)}]}
        self.server.ask("POST", "/workloads", {"name": name, "spec": spec})

    def follow(self, name: str) -> bytes:
        """The request for what comes."""
        return self.server.native("GET", f"/workloads/{name}/logs?tail=1", Accept="text/event-stream")


class _CloudMl(_Native):
    def submit(self, name: str, lines: int) -> None:
        given = {"job_name": name, "module_name": "m", "trainer_uri": "fds://none/none.tar.gz", "docker_image": IMAGE}
        command = " ".join(self.command(lines, name))
        body = {**given, "docker_command": f"exec {command}"}
        self.server.control.send(self.server.cloudml("POST", "/train", body))

    def follow(self, name: str) -> bytes:
        return self.server.cloudml("GET", f"/train/{name}/logs?follow=true&lines=1")


def _in_turn(api: _Native, behind: int, rounds: int) -> tuple[float, float, float]:
    """Median delays of one more line: behind none, behind many, and behind many when none had come for a while."""
    kind = type(api).__name__.strip("_").lower()
    with ExitStack() as stack:
        pairs = [stack.enter_context(_follower(api, f"{kind}-{lines}", lines)) for lines in (0, behind)]
        found = [[_delay(*pair) for pair in pairs] for _ in range(rounds)]
        silent = [_delay(*pairs[1], after=_SILENCE) for _ in range(rounds // 5)]
    few, many = zip(*found[5:], strict=True)
    return statistics.median(few), statistics.median(many), statistics.median(silent)


@contextmanager
def _follower(api: _Native, name: str, lines: int) -> Iterator[tuple[int, Client]]:
    """The pipe that makes the job write, and a client that has all that was written before."""
    api.submit(name, lines)
    pipe = os.open(api.path / name, os.O_WRONLY)  # waits for the job, which has written everything then
    os.write(pipe, b"\n")
    _await_output(api.server, name, lines * _LINE)
    client = api.server.client()
    client.follow(api.follow(name))
    try:
        client.until(_MARK)
        yield pipe, client
    finally:
        client.close()
        os.close(pipe)
        api.server.ask("GET", f"/workloads/{name}/wait?timeout=30")


def _await_output(server: Server, name: str, size: int) -> None:
    files = server.data / "logs" / str(server.ask("GET", f"/workloads/{name}")["id"])
    deadline = time.monotonic() + 120
    while sum(one.stat().st_size for one in files.glob("*.stdout")) <= size:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the output of {name} did not arrive")
        time.sleep(0.01)


def _delay(pipe: int, client: Client, after: float = 0.0) -> float:
    time.sleep(after)
    os.write(pipe, b"\n")
    written = int(client.until(_MARK).split(b"\\n")[0])  # in an event the newline is an escape
    return (time.monotonic_ns() - written) / 1e9


def last_lines(quick: bool) -> Iterator[Row]:
    """The last ten lines of an ended job's output."""
    size = (1 << 26) if quick else (1 << 30)
    with folder() as path, serving(path / "data", "process") as server:
        api = _CloudMl(server, path)
        given = {"job_name": "large", "module_name": "m", "trainer_uri": "fds://none/none.tar.gz"}
        command = f"exec {sys.executable} {api.script} {size}"
        server.control.send(
            server.cloudml("POST", "/train", {**given, "docker_image": IMAGE, "docker_command": command})
        )
        server.settled(1)
        for what, raw in (
            ("native tail=10", server.native("GET", "/workloads/1/logs?tail=10")),
            ("Cloud-ML lines=10", server.cloudml("GET", "/train/large/logs?lines=10")),
        ):
            read, spent = min(_read_by(server, raw) for _ in range(3))
            measured = f"reads {read / 1024:,.0f} KiB, {ms(spent)}"
            yield Row(f"{what} of {size >> 20:,} MiB", measured, "<= 1 MiB", "", read <= _MOST_READ)


def _read_by(server: Server, raw: bytes) -> tuple[int, float]:
    """Bytes that the server read from files to answer, and seconds."""
    before = _bytes_read(server.pid)
    spent = server.control.time(raw)
    return _bytes_read(server.pid) - before, spent


def _bytes_read(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])
