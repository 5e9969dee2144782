"""How a trial's values reach its program."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.studies.space import Parameter, Type
from localml.core.studies.specs import Objective, ResultFile, StudySpec
from localml.core.studies.template import options, result_uri, sample_values, trial_spec
from localml.core.work.placeholders import expand
from localml.core.work.specs import WorkloadSpec, single

VALUES = {"lr": 0.1, "batch": 32, "opt": "adam w", "nest": True}


def of(*command: str, env: dict[str, str] | None = None, values: dict[str, Any] | None = None, **rest: Any) -> Any:
    space = (Parameter(name="lr", low=0, high=1),)
    spec = StudySpec(space=space, objective=Objective(metric="loss"), trial=single(command, env=env, **rest))
    return trial_spec(spec, "tune", 7, VALUES if values is None else values)


def command(*words: str, **rest: Any) -> tuple[str, ...]:
    made: WorkloadSpec = of(*words, **rest)
    return made.roles[0].command


def variables(**env: str) -> dict[str, str]:
    made: WorkloadSpec = of("true", env=env)
    return {name: expand(text, lambda one: f"<{one.kind}>") for name, text in made.roles[0].env.items()}


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("{lr}", "0.1"),
        ("--lr={lr}", "--lr=0.1"),
        ("{opt}/{trial}", "adam w/7"),
        ("{nest}", "true"),
        ("${lr} %{lr} {other} {} {{x}}", "${lr} %{lr} {other} {} {{x}}"),
        ("{'lr': {lr}}", "{'lr': 0.1}"),
        ("train {params}", "train --lr 0.1 --batch 32 --opt 'adam w' --nest true"),
    ],
)
def test_a_word_of_the_command(word: str, becomes: str) -> None:
    assert command("run", word) == ("run", becomes)


def test_all_parameters_as_words_of_their_own() -> None:
    assert command("run", "{params}", "x") == ("run", *options(VALUES), "x")
    assert command("run", "{params}", values={}) == ("run",)


def test_variables() -> None:
    found = variables(A="{lr} {params}", B="%{index}")
    assert found["A"] == "0.1 --lr 0.1 --batch 32 --opt adam w --nest true"
    assert found["B"] == "<index>"
    assert (found["LOCALML_TRIAL"], found["LOCALML_STUDY"]) == ("7", "tune")
    assert json.loads(found["LOCALML_PARAMS"]) == VALUES


def test_a_value_is_never_taken_for_a_reference() -> None:
    made = of("true", env={"A": "{x}"}, values={"x": "%{token}"})
    env = {name: expand(text, lambda _: "secret") for name, text in made.roles[0].env.items()}
    assert env["A"] == "%{token}"
    assert json.loads(env["LOCALML_PARAMS"]) == {"x": "%{token}"}


def test_the_file_lies_where_the_trial_starts_unless_that_is_a_folder_of_its_image() -> None:
    assert json.loads(of("true").files["config.json"]) == VALUES
    assert json.loads(of("true", image="x", code=f"sha256:{'0' * 64}").files["config.json"]) == VALUES
    assert of("true", image="x").files == {}
    own = of("true", image="x", files={"config.json": "mine", "a": "b"}).files
    assert own == {"config.json": "mine", "a": "b"}


def test_a_result_file_has_its_trials_number() -> None:
    assert result_uri(ResultFile(uri="/b/{run}/{trial}.json"), 7, 2) == "/b/2/7.json"


def test_values_to_try_whether_a_trial_can_run() -> None:
    space = (
        Parameter(name="lr", low=0, high=1),
        Parameter(name="n", type=Type.INT, low=1, high=3, power=2),
        Parameter(name="opt", choices=("adam", "sgd")),
        Parameter(name="fixed", value=0),
    )
    spec = StudySpec(space=space, objective=Objective(metric="loss"), trial=single(["true"]))
    assert sample_values(spec) == {"lr": 1.0, "n": 8, "opt": "adam", "fixed": 0}
    listed = StudySpec(experiments=({"a": 1},), objective=Objective(metric="loss"), trial=single(["true"]))
    assert sample_values(listed) == {"a": 1}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(max_size=20), max_size=4))
def test_whatever_the_values_are_a_shell_gets_them_whole(values: dict[str, str]) -> None:
    values = {name: text.replace("\0", "") for name, text in values.items()}
    [_, script] = command("sh", "run {params}", values=values)
    assert shlex.split(script) == ["run", *options(values)]
