"""What the replicas of an endpoint wrote, together; also of those that come while it is followed."""

from __future__ import annotations

import codecs
import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import typer

from localml.cli import INTERRUPTED
from localml.cli.common import as_dict, print_json
from localml.cli.marked import Marked
from localml.cli.output import print_output
from localml.client.errors import ClientError
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client, Endpoint, LogPiece

_LOOK_S = 2.0
_OVER = ("stopped", "failed")
_Item = tuple[str, "LogPiece | ClientError | None"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which output of which endpoint, and how; ``query`` as for a workload's, whose ``index`` chooses a replica."""

    endpoint: int
    query: Mapping[str, Any]
    follow: bool
    raw: bool
    as_json: bool

    def replicas(self, one: Endpoint) -> list[tuple[int, str]]:
        """(workload id, name) of the replicas that are meant."""
        found = [(at["workload_id"], at["workload"]) for variant in one.variants for at in variant["replicas"]]
        index = self.query.get("index")
        return found if index is None else found[index : index + 1]

    @property
    def of_each(self) -> dict[str, Any]:
        """What to ask of each replica."""
        return {name: value for name, value in self.query.items() if name != "index"}


def print_endpoint(client: Client, wanted: Wanted) -> int:
    """Show it; returns the exit code."""
    if "role" in wanted.query:
        raise invalid("--role", "an endpoint has no roles; --index chooses one of its replicas")
    one = client.endpoint(wanted.endpoint)
    if wanted.follow:
        try:
            _follow(client, wanted)
        except KeyboardInterrupt:
            return INTERRUPTED
        return 0
    replicas = wanted.replicas(one)
    if wanted.as_json:
        text = "".join(_marked(client, wanted, *replica, alone=len(replicas) == 1) for replica in replicas)
        print_json({"name": one.name, "text": text})
    elif len(replicas) == 1:
        print_output(client, replicas[0][0], wanted.of_each, raw=wanted.raw)
    else:
        _print_all(client, wanted, replicas)
    if not replicas:
        typer.echo(f"{one.name} has no replica now: it is {one.state}", err=True)
    return 0


def _marked(client: Client, wanted: Wanted, number: int, name: str, *, alone: bool) -> str:
    text = client.text(number, **wanted.of_each)
    return text if alone else "".join(f"[{name}] {line}\n" for line in text.splitlines())


def _print_all(client: Client, wanted: Wanted, replicas: list[tuple[int, str]]) -> None:
    shown, stream = Marked(raw=wanted.raw), wanted.query.get("stream", "stdout")
    for number, name in replicas:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for block in client.blocks(number, **wanted.of_each):
            shown.show(sys.stdout, name, decoder.decode(block), stream)
        shown.rest(lambda _: sys.stdout)


def _follow(client: Client, wanted: Wanted) -> None:
    shown = Marked(raw=wanted.raw)
    for name, piece in _Followed(client, wanted).pieces():
        if wanted.as_json:
            typer.echo(json.dumps({**as_dict(piece), "replica": name}))
        else:
            target = _target(piece.stream)
            shown.show(target, name, piece.text, piece.stream)
            target.flush()
    shown.rest(_target)
    sys.stdout.flush()


def _target(stream: str) -> TextIO:
    return sys.stderr if stream == "stderr" else sys.stdout


@dataclass
class _Followed:
    """A thread for each replica, which puts what it wrote into one line."""

    client: Client
    wanted: Wanted
    items: queue.Queue[_Item] = field(default_factory=lambda: queue.Queue(1000))
    seen: set[int] = field(default_factory=set)
    live: int = 0

    def pieces(self) -> Iterator[tuple[str, LogPiece]]:
        """What they write, until the endpoint has ended and none of them writes any more."""
        more, next_look = True, 0.0
        while more or self.live:
            if (now := time.monotonic()) >= next_look:
                more, next_look = self._look(), now + _LOOK_S
            try:
                name, piece = self.items.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if isinstance(piece, ClientError):
                raise piece
            if piece is None:
                self.live -= 1
            else:
                yield name, piece

    def _look(self) -> bool:
        """Follow the replicas that are new; whether there may be more."""
        try:
            one = self.client.endpoint(self.wanted.endpoint)
        except ClientError as error:
            if error.code != "not_found":
                raise
            return False
        for number, name in self.wanted.replicas(one):
            if number not in self.seen:
                self.seen.add(number)
                self.live += 1
                threading.Thread(target=self._read, args=(number, name), daemon=True).start()
        return one.state not in _OVER

    def _read(self, number: int, name: str) -> None:
        try:
            for piece in self.client.follow(number, **self.wanted.of_each):
                self.items.put((name, piece))
        except ClientError as error:
            self.items.put((name, error))
        self.items.put((name, None))
