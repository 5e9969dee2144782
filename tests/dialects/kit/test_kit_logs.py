"""Output as one text: merged, labelled, and complete."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers.outputs import counted

from localml.core.events.feed import Feed
from localml.core.logs.files import MARK, LogStore
from localml.core.logs.sources import ALL
from localml.core.subjects import Subject
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.states import State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Full
from localml.dialects.kit import logs
from localml.dialects.kit.held import Pause
from localml.dialects.kit.logs import LineBody, followed, json_answer, json_blocks, log_blocks, log_text
from localml.platform import Platform


class Output:
    """Writes files as the log pumps do."""

    def __init__(self, data: Path, replicas: int = 1) -> None:
        self.store = LogStore(data)
        self.replicas = replicas
        self.attempts: list[Attempt] = []
        self.state = State.SUCCEEDED

    def attempt(self, index: int = 0, number: int = 1) -> str:
        name = f"r-{index}-{number}"
        self.attempts.append(
            Attempt(id=len(self.attempts), workload_id=1, role="worker", index=index, number=number, name=name,
                    created_at=0)
        )  # fmt: skip
        return name

    def write(self, name: str, at: float, data: bytes, stream: str = "stdout") -> None:
        path = self.store.path(1, name, stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file, path.with_suffix(f".{stream}.idx").open("ab") as index:
            index.write(MARK.pack(file.tell(), at))
            file.write(data)

    @property
    def full(self) -> Full:
        row = Workload(id=1, state=self.state)
        return Full(row, WorkloadSpec(roles=(Role(name="worker", count=self.replicas),)), None, attempts=self.attempts)

    def body(self, lines: int | None = None) -> LineBody:
        """Follows what is written here, as if it were a running job's."""
        self.state = State.RUNNING
        workloads = SimpleNamespace(
            glance=lambda _: (self.state, len(self.attempts)), attempts=lambda _: list(self.attempts)
        )
        return LineBody(cast("Platform", SimpleNamespace(logs=self.store, workloads=workloads)), self.full, lines)

    def text(self, lines: int | None = None) -> str:
        return log_text(self.store, self.full, lines=lines)


def test_nothing_written_is_an_empty_text(tmp_path: Path) -> None:
    assert Output(tmp_path).text() == ""


def test_streams_are_merged_in_the_order_of_writing(tmp_path: Path) -> None:
    output = Output(tmp_path)
    name = output.attempt()
    output.write(name, 1, b"a\n")
    output.write(name, 2, b"b\n", "stderr")
    output.write(name, 3, b"c\n")
    assert output.text() == "a\nb\nc\n"
    assert output.text(lines=2) == "b\nc\n"
    assert output.text(lines=0) == ""


def test_a_line_that_came_in_parts_is_not_torn_by_another_stream(tmp_path: Path) -> None:
    output = Output(tmp_path)
    name = output.attempt()
    output.write(name, 1, b"half ")
    output.write(name, 2, b"other\n", "stderr")
    output.write(name, 3, "whole ä\n".encode()[:-2])
    output.write(name, 4, "ä\n".encode()[1:])
    assert output.text() == "other\nhalf whole ä\n"


def test_the_last_line_keeps_its_missing_newline(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(), 1, b"a\nb")
    assert output.text() == "a\nb"


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(), 1, b"\xff\x00\n")
    assert output.text() == "\ufffd\x00\n"


def test_lines_of_several_replicas_carry_their_names(tmp_path: Path) -> None:
    output = Output(tmp_path, replicas=2)
    first, second = output.attempt(0), output.attempt(1)
    output.write(second, 1, b"b1\n")
    output.write(first, 2, b"a1\nrest")
    output.write(second, 3, b"b2\n")
    assert output.text() == "[worker-1] b1\n[worker-0] a1\n[worker-1] b2\n[worker-0] rest"


def test_one_stream_or_replica_alone_is_shown_where_that_is_asked_for(tmp_path: Path) -> None:
    output = Output(tmp_path, replicas=2)
    first, second = output.attempt(0), output.attempt(1)
    output.write(first, 1, b"out\n")
    output.write(first, 2, b"err\n", "stderr")
    output.write(second, 3, b"other\n")

    def shown(**only: Any) -> bytes:
        return b"".join(log_blocks(output.store, output.full, selection=replace(ALL, **only)))

    assert shown(stream="stderr") == b"[worker-0] err\n"
    assert shown(index=0, stream="stdout") == b"out\n"
    assert shown(role="worker", index=1) == b"other\n"


def test_retries_are_parted_by_a_line_that_says_so(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(number=1), 1, b"first, torn")
    output.write(output.attempt(number=2), 2, b"second\n")
    assert output.text() == "first, torn\n[localml] the job is tried again (try 2)\nsecond\n"


def test_an_endless_log_is_cut_at_its_beginning_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_TEXT", 100)
    output = Output(tmp_path)
    output.write(output.attempt(), 1, b"".join(b"%03d\n" % number for number in range(100)))
    first, *_, last = output.text().splitlines()
    assert first == "[localml] 400 bytes of output; only the last ones of each replica are shown"
    assert last == "099"
    assert len(output.text()) < 200


def test_the_line_that_parts_retries_is_one_of_the_last_lines(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(number=1), 1, b"first\ntorn")
    output.write(output.attempt(number=2), 2, b"second")
    retry = "[localml] the job is tried again (try 2)\n"
    assert output.text(lines=1) == "second"
    assert output.text(lines=2) == retry + "second"
    assert output.text(lines=3) == f"torn\n{retry}second"
    output.attempt(number=3)
    assert output.text(lines=2) == "second\n[localml] the job is tried again (try 3)\n"


def test_the_last_lines_of_an_endless_log_read_its_end_alone(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(), 1, b"0123456789abcde\n" * (8 << 16))
    with counted() as reads:
        assert output.text(lines=10) == "0123456789abcde\n" * 10
    assert reads.bytes < 20_000


def test_a_text_is_read_as_it_is_given(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(), 1, b"0123456789abcde\n" * (8 << 16))
    with counted() as reads:
        blocks = log_blocks(output.store, output.full)
        next(blocks)
        assert reads.bytes <= 2 << 16
        assert max(map(len, blocks)) < 2 << 16
    assert reads.bytes == 8 << 20


def test_a_text_of_any_length_takes_little_memory(tmp_path: Path) -> None:
    output = Output(tmp_path, replicas=2)
    for index in range(2):
        output.write(output.attempt(index), 1, b"0123456789abcde\n" * (1 << 20))
    tracemalloc.start()
    try:
        blocks = json_blocks("logs", log_blocks(output.store, output.full))
        assert sum(map(len, blocks)) > 2 * (16 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_text_as_json_is_the_same_in_any_blocks() -> None:
    text = 'caf\u00e9 "\\ \U0001f600\x00\n'
    for size in range(1, 8):
        data = text.encode() + b"\xff\xf0"
        found = b"".join(json_blocks("logs", [data[at : at + size] for at in range(0, len(data), size)]))
        assert json.loads(found) == {"logs": data.decode("utf-8", "replace")}


def test_a_short_text_has_a_length_and_a_long_one_is_streamed() -> None:
    short, long = json_answer("logs", iter([b"hello"])), json_answer("logs", iter([b"hello"] * 3))
    assert (short.content_length, short.json) == (18, {"logs": "hello"})
    assert (long.content_length, long.is_streamed, long.get_json()) == (None, True, {"logs": "hello" * 3})
    assert json_answer("logs", iter([])).json == {"logs": ""}


def test_followed_lines_come_whole_and_once(tmp_path: Path) -> None:
    output = Output(tmp_path, replicas=2)
    first = output.attempt(0)
    output.write(first, 1, b"old\nhalf ")
    body = output.body()
    assert b"".join(body.news()) == b"[worker-0] old\n"
    output.write(output.attempt(1), 2, b"other\n")
    assert b"".join(body.news()) == b"[worker-1] other\n"
    output.write(first, 3, b"line\nrest")
    assert (b"".join(body.news()), body.over) == (b"[worker-0] half line\n", False)
    output.state = State.SUCCEEDED
    assert (b"".join(body.news()), body.over) == (b"[worker-0] rest\n", True)


def test_a_follower_is_told_of_a_new_try_behind_the_end_of_the_old_one(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(output.attempt(number=1), 1, b"torn")
    body = output.body()
    assert b"".join(body.news()) == b""
    second = output.attempt(number=2)
    assert b"".join(body.news()) == b"torn\n[localml] the job is tried again (try 2)\n"
    output.write(second, 2, b"sec")
    assert b"".join(body.news()) == b""
    output.write(second, 3, b"ond\n")
    assert b"".join(body.news()) == b"second\n"


def test_the_last_lines_before_following_are_whole_ones_and_what_is_begun_follows(tmp_path: Path) -> None:
    output = Output(tmp_path)
    name = output.attempt()
    output.write(name, 1, b"one\ntwo\nthr")
    body = output.body(lines=1)
    assert b"".join(body.news()) == b"two\n"
    output.write(name, 2, b"ee\nfour")
    output.state = State.SUCCEEDED
    assert b"".join(body.news()) == b"three\nfour\n"


def test_no_number_of_last_lines_makes_a_follower_hold_an_endless_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_TEXT", 100)
    output = Output(tmp_path)
    output.write(output.attempt(), 1, b"".join(b"%03d\n" % number for number in range(100)))
    assert b"".join(output.body(lines=10**9).news()).splitlines() == [b"%03d" % number for number in range(75, 100)]


def test_following_from_the_last_lines_on_does_not_read_the_first(tmp_path: Path) -> None:
    output = Output(tmp_path)
    name = output.attempt()
    output.write(name, 1, b"0123456789abcde\n" * (8 << 16) + b"half")
    with counted() as reads:
        body = output.body(lines=2)
        assert b"".join(body.news()) == b"0123456789abcde\n" * 2
        output.write(name, 2, b" line\n")
        assert b"".join(body.news()) == b"half line\n"
    assert reads.bytes < 20_000


class Steps:
    """A body of three steps."""

    def __init__(self) -> None:
        self.left = [b"a", b"", b"ccc"]

    def news(self) -> Iterator[bytes]:
        for letter in self.left.pop(0):
            yield bytes([letter])

    def beat(self) -> bytes:
        return b"."

    @property
    def over(self) -> bool:
        return not self.left


def test_a_followed_body_steps_at_each_change_and_beats_in_between() -> None:
    feed, subject = Feed(), Subject.workload(1)
    steps = followed(feed, subject, Steps(), beat_s=7)
    assert next(steps) == b"a"
    pause = next(steps)
    assert isinstance(pause, Pause)
    assert (pause.subject, pause.seen, pause.timeout) == (subject, 0, 7)
    assert isinstance(step := next(steps), bytes)
    assert step == b"."
    pause = next(steps)
    assert isinstance(pause, Pause)
    feed.changed(subject)
    pause.woken = True
    assert list(steps) == [b"c", b"c", b"c"]


def test_a_followed_body_ends_in_time_and_with_the_server() -> None:
    feed, subject = Feed(), Subject.workload(1)
    assert list(followed(feed, subject, Steps(), limit_s=0)) == [b"a"]
    steps = followed(feed, subject, Steps())
    assert [type(step) for step in (next(steps), next(steps))] == [bytes, Pause]
    feed.close()
    assert list(steps) == []
