"""Output as one text: merged, labelled, and complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from localml.core.logs.files import MARK, LogStore
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.states import State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Full
from localml.dialects.kit import logs
from localml.dialects.kit.logs import log_text


class Output:
    """Writes files as the log pumps do."""

    def __init__(self, data: Path, replicas: int = 1) -> None:
        self.store = LogStore(data)
        self.replicas = replicas
        self.attempts: list[Attempt] = []

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
        row = Workload(id=1, state=State.SUCCEEDED)
        return Full(row, WorkloadSpec(roles=(Role(name="worker", count=self.replicas),)), None, attempts=self.attempts)

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
