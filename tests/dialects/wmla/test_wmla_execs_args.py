"""The texts that come with a task: its options, and objects in JSON or as Python writes them."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.errors import Code, LocalmlError
from localml.core.limits import MOST_LEVELS
from localml.core.work.states import State
from localml.core.work.survey import Stages
from localml.core.work.tables import Workload
from localml.dialects.wmla.translate.args import OPTIONS, REFUSED, USER_COMMAND, WITHOUT_EFFECT, parse_args
from localml.dialects.wmla.translate.literals import parse_object
from localml.dialects.wmla.translate.states import (
    ACTIVE_WORDS,
    FINAL_WORDS,
    STATE_WORDS,
    stages_called,
    state_word,
)
from localml.dialects.wmla.translate.tasks import notes

PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
OURS = {*OPTIONS, *WITHOUT_EFFECT, *REFUSED, USER_COMMAND, "--"}


def test_a_command_line_as_clients_send_it_is_taken_apart() -> None:
    text = (
        "--exec-start PyTorch --model-main main.py \\\n --model-dir m --batch-size 200 --workerDeviceNum 1\\\r\n"
        "--workerMemory 8g --conda-env-name x --cs-datastore-meta type=fs,data_path=mnist/train --lr=-0.5 'two words'"
    )
    found = parse_args(text)
    assert (found.framework, found.main, found.folder) == ("PyTorch", "main.py", "m")
    assert found.program == ("--batch-size", "200", "--lr=-0.5", "two words")
    assert found.worker.devices == 1
    assert found.worker.memory == 8 << 30
    assert found.datastore == {"type": "fs", "data_path": "mnist/train"}
    assert [reason for reason, _ in notes(found)] == ["OptionsPassedOn", "OptionsWithoutEffect"]
    assert "--batch-size, --lr" in notes(found)[0][1]
    assert "--conda-env-name" in notes(found)[1][1]


def test_a_whole_command_and_what_follows_two_dashes_stay_as_they_are() -> None:
    found = parse_args("--exec-start distPyTorch --msd-env A=1 --msd-env B=x=y --user-cmd -- bash run.sh --numWorker 3")
    assert found.command == ("bash", "run.sh", "--numWorker", "3")
    assert (found.workers, found.env) == (1, {"A": "1", "B": "x=y"})
    found = parse_args("--exec-start x --model-main m.py --numWorker=4 -- --numWorker 3")
    assert (found.workers, found.program, found.unknown) == (4, ("--numWorker", "3"), ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--exec-start 'PyTorch", "no closing quotation"),
        ("--model-main main.py", "--exec-start FRAMEWORK is required"),
        ("", "--exec-start FRAMEWORK is required"),
        ("--exec-start", "--exec-start needs a value"),
        ("--exec-start --model-main x", "--exec-start needs a value"),
        ("--exec-start=", "--exec-start needs a value"),
        ("--exec-start x --numWorker 0", "--numWorker must be at least 1"),
        ("--exec-start x --numWorker two", "--numWorker must be a whole number, not 'two'"),
        ("--exec-start x --numWorker 1001", "at most 1000 workers, not 1001"),
        ("--exec-start x --workerMemory much", "--workerMemory: must be a number with a unit"),
        ("--exec-start x --workerDeviceNum -1", "--workerDeviceNum must be a number, not '-1'"),
        ("--exec-start x --workerDeviceType tpu", "must be cpu or gpu, not 'tpu'"),
        ("--exec-start x --msd-env 1A=2", "must be NAME=VALUE"),
        ("--exec-start x --cs-datastore-meta fs", "must be pairs such as type=fs"),
        ("--exec-start x --user-cmd", "--user-cmd needs its command"),
        ("--exec-start x --pbmodel-name VGG", "there are no prebuilt models here"),
        ("--exec-start x --data-source []", "dataSource"),
        ("--exec-start x \0", "NUL"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(LocalmlError, match="args") as found:
        parse_args(text)
    assert found.value.code is Code.INVALID
    assert words in found.value.message


def test_memory_without_a_unit_is_megabytes() -> None:
    assert parse_args("--exec-start x --workerMemory 4096").worker.memory == 4 << 30
    assert parse_args("--exec-start x --driverMemory 2g").driver.memory == 2 << 30


@given(st.lists(PLAIN.filter(lambda word: word.partition("=")[0] not in OURS), max_size=8))
def test_a_programs_own_arguments_reach_it_word_for_word(words: list[str]) -> None:
    assert parse_args(shlex.join(["--exec-start", "x", *words])).program == tuple(words)


@given(st.text(max_size=60))
def test_any_text_is_taken_or_refused(text: str) -> None:
    with suppress(LocalmlError):
        assert parse_args(text).framework


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(PLAIN, JSON, max_size=4))
def test_an_object_is_the_same_in_json_and_as_python_writes_it(value: dict[str, object]) -> None:
    assert parse_object(json.dumps(value), "data") == value
    assert parse_object(repr(value), "data") == value


def test_tuples_final_commas_and_lines_that_go_on_are_pythons() -> None:
    assert parse_object("{'a': (1, -2.5), 'b': 'x \\\n y',\n 'c': [True, None,],}", "data") == {
        "a": [1, -2.5],
        "b": "x  y",
        "c": [True, None],
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "'text'",
        "{a: 1}",
        "__import__('os').system('true')",
        "{'a': open('/etc/passwd')}",
        "{'a': f'{1}'}",
        "{'a': 1+1j}",
        "{'a': {1, 2}}",
        "{'a': b'x'}",
        "{1: 2}",
        "{'a': 1e999}",
        "{'a': '\\ud800'}",
        "{'a': '\\x00'}",
        "{'a': 'x' * 1000000000}",
        "{'a': " + "9" * 5000 + "}",
        "(" * 100_000,
        "-" * 100_000 + "1",
        "1" + "+1" * 100_000,
        "{'a':" * (MOST_LEVELS + 1) + "1" + "}" * (MOST_LEVELS + 1),
        "{'a': [" + "1," * 30_000 + "]}",
    ],
)
def test_nothing_but_an_object_of_plain_values_is_taken(text: str) -> None:
    with pytest.raises(LocalmlError, match="data") as found:
        parse_object(text, "data")
    assert found.value.code is Code.INVALID


def test_every_state_has_one_of_the_words_that_clients_know() -> None:
    assert set(STATE_WORDS) == set(State)
    for state, word in STATE_WORDS.items():
        final = state in (State.SUCCEEDED, State.FAILED, State.STOPPED)
        assert word in (FINAL_WORDS if final else ACTIVE_WORDS)
        assert state in stages_called([word.lower()]).states
    assert stages_called(["nonsense"]) == Stages(frozenset())


def test_a_task_that_is_tried_again_recovers_until_it_runs() -> None:
    row = Workload(state=State.QUEUED, attempt=2)
    assert state_word(row) == "RECOVERING"
    row.state = State.RUNNING
    assert state_word(row) == "RUNNING"
