"""The parameters of the built-in algorithms: just inside and just outside, defaults, and what depends on the trials."""

from __future__ import annotations

from typing import Any

import pytest

from localml.core.errors import Code, LocalmlError
from localml.core.studies.algorithms import BUILT_IN, built_in, checked, only_known, seed_of, trial_space
from localml.core.studies.space import Parameter, Type
from localml.core.studies.specs import AlgorithmChoice, Objective, StudySpec
from localml.core.work.specs import Role, WorkloadSpec

LR = Parameter(name="lr", low=0.001, high=0.1)
TRIAL = WorkloadSpec(roles=(Role(name="main", image="any", command=("true",)),))


def study(name: str, params: dict[str, str] | None = None, **members: Any) -> StudySpec:
    members.setdefault("space", () if "experiments" in members else (LR,))
    choice = AlgorithmChoice(name=name, params=params or {})
    return StudySpec(algorithm=choice, objective=Objective(metric="loss"), trial=TRIAL, **members)


def read(name: str, params: dict[str, str] | None = None, **members: Any) -> dict[str, str]:
    spec = study(name, params, **members)
    return checked(spec.algorithm, spec)


def refused(name: str, params: dict[str, str] | None = None, **members: Any) -> LocalmlError:
    with pytest.raises(LocalmlError) as caught:
        read(name, params, **members)
    assert caught.value.code is Code.INVALID
    return caught.value


BAND = {"ResourceName": "epochs", "ResourceValue": "27"}


def test_all_parameters_have_values() -> None:
    assert read("tpe") == {"WarmUp": "10", "EICandidate": "24", "GoodRatio": "0.1", "GoodMax": "25"}
    assert read("bayesian") == {"InitPoints": "10", "Noiseless": "true", "CubeSize": "10000"}
    assert read("hyperband", BAND) == {"eta": "3", "ResourceName": "epochs", "ResourceValue": "27"}
    assert read("random") == {}


@pytest.mark.parametrize(
    ("name", "option", "inside", "outside"),
    [
        ("tpe", "WarmUp", ["3", "003", "1000000"], ["2", "0", "-3", "3.5", "many", "", "1000001"]),
        ("tpe", "EICandidate", ["2", "100000"], ["1", "100001", "x"]),
        ("tpe", "GoodRatio", ["0.0001", "1", "5e-1", ".5", "7"], ["0", "-0.1", "nan", "inf", "1e", "0x1"]),
        ("tpe", "GoodMax", ["2"], ["1", "1.5"]),
        ("bayesian", "InitPoints", ["0", "10"], ["-1", "1.0"]),
        ("bayesian", "CubeSize", ["1", "1000000"], ["0", "1000001"]),
        ("bayesian", "Noiseless", ["true", "True", "FALSE"], ["yes", "1", ""]),
        ("random", "RandomSeed", ["0", "-5", "123456789012345678"], ["1.5", "seed", "1234567890123456789"]),
        ("hyperband", "eta", ["1.5", "3", "4e0"], ["1", "0", "-3", "x"]),
        ("hyperband", "ResourceValue", ["1", "081"], ["0", "-1", "2.5", "1000000001"]),
        ("hyperband", "ResourceName", ["epochs"], ["", "  "]),
    ],
)
def test_just_inside_and_just_outside(name: str, option: str, inside: list[str], outside: list[str]) -> None:
    base = BAND if name == "hyperband" else {}
    for text in inside:
        read(name, {**base, option: text})
    for text in outside:
        assert refused(name, {**base, option: text}).field == option


def test_names_are_taken_in_any_case_and_with_underscores_but_once() -> None:
    assert read("TPE", {"warm_up": "5"})["WarmUp"] == read("tpe", {"WARMUP": "5"})["WarmUp"] == "5"
    assert "twice" in refused("tpe", {"warm_up": "5", "WarmUp": "6"}).message


def test_a_parameter_that_the_algorithm_lacks_is_named_with_those_that_it_has() -> None:
    error = refused("random", {"eta": "3"})
    assert error.field == "eta"
    assert "RandomSeed" in error.message
    only = only_known(AlgorithmChoice(name="random", params={"eta": "3", "RandomSeed": "1"}))
    assert only.params == {"RandomSeed": "1"}


@pytest.mark.parametrize("missing", ["ResourceName", "ResourceValue"])
def test_hyperband_needs_its_resource(missing: str) -> None:
    assert refused("hyperband", {name: text for name, text in BAND.items() if name != missing}).field == missing


def test_warm_up_is_lowered_to_the_number_of_trials() -> None:
    assert read("tpe", max_trials=7)["WarmUp"] == "7"
    assert read("tpe", max_trials=2)["WarmUp"] == "2"
    assert read("tpe", {"WarmUp": "5"}, max_trials=7)["WarmUp"] == "5"


def test_candidates_follow_the_number_of_trials() -> None:
    assert read("bayesian", max_trials=30)["CubeSize"] == "3000"
    assert read("bayesian", {"CubeSize": "30"}, max_trials=30)["CubeSize"] == "30"
    assert refused("bayesian", {"CubeSize": "29"}, max_trials=30).field == "CubeSize"
    assert read("bayesian", {"CubeSize": "500"})["CubeSize"] == "10000"
    assert read("bayesian", {"CubeSize": "50000"})["CubeSize"] == "50000"
    assert read("bayesian", max_trials=1_000_000)["CubeSize"] == "1000000"


def test_the_seed_is_the_parameter_else_the_study_s() -> None:
    assert seed_of(AlgorithmChoice(name="random", params={"random_seed": "7"}), study("random", seed=1)) == 7
    assert seed_of(AlgorithmChoice(name="random", params={"RandomSeed": "-1"}), study("random")) == (1 << 32) - 1
    assert seed_of(AlgorithmChoice(name="random"), study("random", seed=1)) == 1
    assert seed_of(AlgorithmChoice(name="mine", params={"RandomSeed": "x"}), study("mine")) is None


def test_lists_of_trials_are_for_the_grid_alone() -> None:
    assert read("grid", experiments=({"lr": 0.1},)) == {}
    assert refused("tpe", experiments=({"lr": 0.1},)).field == "experiments"
    assert refused("mine", experiments=({"lr": 0.1},)).field == "experiments"
    assert refused("grid").field == "lr"  # a range without steps
    assert "1000000000" in refused("grid", space=tuple(_of_a_thousand(name) for name in "abc")).message


def _of_a_thousand(name: str) -> Parameter:
    return Parameter(name=name, type=Type.INT, low=1, high=1000)


def test_an_installed_algorithm_gets_what_was_given() -> None:
    assert built_in("mine") is None
    assert read("mine", {"Any Thing": " 1 "}) == {"Any Thing": " 1 "}


def test_hyperband_sets_its_resource_beside_the_space_or_in_it() -> None:
    params = read("hyperband", BAND)
    (_, resource) = trial_space("hyperband", params, (LR,))
    assert resource.takes(27)
    assert not resource.takes(28)
    listed = (Parameter(name="epochs", type=Type.INT, low=5, high=9), LR)
    assert [one.name for one in trial_space("hyperband", params, listed)] == ["lr", "epochs"]
    assert refused("hyperband", BAND, space=listed[:1]).field == "space"
    assert trial_space("tpe", {}, (LR,)) == (LR,)


def test_every_algorithm_says_what_it_does() -> None:
    assert all(one.what and all(option.what for option in one.options) for one in BUILT_IN.values())
