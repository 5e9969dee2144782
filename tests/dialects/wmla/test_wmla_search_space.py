"""Hyperparameters and experiments as clients send them, and as the core has them: each rule just inside and just
outside."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from localml.core.errors import LocalmlError
from localml.core.studies.algorithms import checked
from localml.core.studies.space import Parameter
from localml.core.studies.specs import Goal, Strategy, StudySpec
from localml.dialects.kit.errors import from_pydantic
from localml.dialects.wmla.schemas.searches import HpoTaskRequest
from localml.dialects.wmla.schemas.searches_space import HyperParam
from localml.dialects.wmla.translate.searches import parameter, study_spec


def study(request: HpoTaskRequest) -> StudySpec:
    return study_spec(request, request.algoDef)


DOUBLE: dict[str, Any] = {"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0.001, "maxDbVal": 0.1}
INT: dict[str, Any] = {"name": "n", "type": "Range", "dataType": "int", "minIntVal": 1, "maxIntVal": 9}
CHOICE: dict[str, Any] = {"name": "opt", "type": "Discrete", "dataType": "str", "discreateStrVal": ["sgd", "adam"]}


def made(**members: Any) -> Parameter:
    return parameter(0, HyperParam.model_validate(members))


def asked(**changes: Any) -> HpoTaskRequest:
    """A request with members changed; those of ``algoDef`` by its name and two underscores."""
    algo = {"algorithm": "Random", "objectiveMetric": "loss", "objective": "minimize"}
    body: dict[str, Any] = {"modelSpec": {"args": "--exec-start PyTorch"}, "algoDef": algo, "hyperParams": [DOUBLE]}
    for name, value in changes.items():
        place, _, member = name.rpartition("__")
        (body[place] if place else body)[member] = value
    return HpoTaskRequest.model_validate(body)


def refusal(make: Any, *args: Any, **members: Any) -> str:
    """What a client is told."""
    with pytest.raises((ValidationError, LocalmlError)) as caught:
        make(*args, **members)
    error = caught.value
    return str(from_pydantic(error)) if isinstance(error, ValidationError) else str(error)


# -- ranges -------------------------------------------------------------------------------------------


def test_a_range_of_numbers_and_one_of_integers() -> None:
    assert (made(**DOUBLE).low, made(**DOUBLE).high, made(**DOUBLE).type) == (0.001, 0.1, "float")
    assert (made(**INT).low, made(**INT).high, made(**INT).type) == (1, 9, "int")
    assert list(made(**INT | {"step": "4"}).grid()) == [1, 5, 9]


@pytest.mark.parametrize("kind", ["Range", "range", "RANGE"])
@pytest.mark.parametrize("data_type", ["double", "DOUBLE", "Double"])
def test_words_have_any_case(kind: str, data_type: str) -> None:
    assert made(**DOUBLE | {"type": kind, "dataType": data_type}) == made(**DOUBLE)


@pytest.mark.parametrize("missing", ["name", "type", "dataType", "minDbVal", "maxDbVal"])
def test_a_range_needs_all_of_it(missing: str) -> None:
    members = {name: value for name, value in DOUBLE.items() if name != missing}
    assert missing in refusal(made, **members)
    assert "is required" in refusal(made, **members)


def test_bounds_of_the_other_kind_do_not_count() -> None:
    wrong = {"name": "n", "type": "Range", "dataType": "int", "minDbVal": 1, "maxDbVal": 9}
    assert "minIntVal is required" in refusal(made, **wrong)


def test_what_other_types_have_is_not_looked_at() -> None:
    """As the vendor's notebooks send it: zeros and empty lists for what is not used."""
    unused = {"minIntVal": 0, "maxIntVal": -5, "discreteDbVal": [], "discreteIntVal": [], "discreateStrVal": []}
    assert made(**DOUBLE, **unused) == made(**DOUBLE)
    assert made(**CHOICE, step="no number", power="0", minDbVal="x", userDefined=True) == made(**CHOICE)
    assert made(name="c", type="Fix", dataType="int", fixedVal=3, step="0").value == 3


def test_min_may_be_max_and_not_above() -> None:
    assert made(**DOUBLE | {"minDbVal": 0.1, "maxDbVal": 0.1}).points == 1
    assert "minDbVal (0.2) is above maxDbVal (0.1)" in refusal(made, **DOUBLE | {"minDbVal": 0.2, "maxDbVal": 0.1})
    assert made(**INT | {"minIntVal": 9}).points == 1
    assert "minIntVal (10) is above maxIntVal (9)" in refusal(made, **INT | {"minIntVal": 10})


@pytest.mark.parametrize("bad", ["0.1", True, [], {}, float("nan"), float("inf"), -float("inf"), 10**400])
def test_bounds_are_finite_numbers(bad: Any) -> None:
    assert "minDbVal" in refusal(made, **DOUBLE | {"minDbVal": bad})


def test_integers_are_integers_as_json_has_them() -> None:
    assert made(**INT | {"maxIntVal": 9.0}) == made(**INT)
    for bad in (8.5, "9", True, 2**53 + 1, float("inf")):
        assert "maxIntVal" in refusal(made, **INT | {"maxIntVal": bad})
    assert made(**INT | {"maxIntVal": 2**53}).high == 2**53


def test_texts_have_no_range() -> None:
    assert "dataType must be int or double" in refusal(made, name="s", type="Range", dataType="str")


@pytest.mark.parametrize("name", ["step", "power"])
@pytest.mark.parametrize(
    ("given", "found"), [("2", 2.0), ("+2", 2.0), ("2.", 2.0), (".5", 0.5), ("5e-1", 0.5), (2, 2.0), (0.5, 0.5)]
)
def test_step_and_power_are_numbers_in_texts_or_plain_ones(name: str, given: Any, found: float) -> None:
    members = {"name": "x", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 4, name: given}
    assert getattr(made(**members), name) == found


@pytest.mark.parametrize("name", ["step", "power"])
@pytest.mark.parametrize("bad", ["0", "-1", "", "abc", "nan", "inf", "0x10", "1 ", "1e999", "1" * 401, 0, True, []])
def test_step_and_power_must_be_above_0_and_finite(name: str, bad: Any) -> None:
    members = {"name": "x", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 4, name: bad}
    assert name in refusal(made, **members)


def test_the_step_of_integers_is_one() -> None:
    assert made(**INT | {"step": "2.0"}).step == 2
    assert "step must be an integer for dataType int, not 0.5" in refusal(made, **INT | {"step": "0.5"})


def test_with_power_what_is_drawn_is_the_exponent() -> None:
    drawn = made(name="lr", type="Range", dataType="double", minDbVal=-4, maxDbVal=-1, power="10")
    assert drawn.takes(0.05)
    assert not drawn.takes(0.5)
    assert drawn.of_drawn(-2) == pytest.approx(0.01)
    grid = made(name="lr", type="Range", dataType="double", minDbVal=-2, maxDbVal=0, power="10", step="1")
    assert list(grid.grid()) == pytest.approx([0.01, 0.1, 1.0])


def test_integers_have_integers_as_exponents() -> None:
    """Else 2 to the power of 1.7 would be a batch of 3."""
    batches = made(name="batch", type="Range", dataType="int", minIntVal=4, maxIntVal=7, power="2")
    assert list(batches.grid()) == [16, 32, 64, 128]


def test_powers_beyond_all_numbers_are_refused() -> None:
    words = refusal(made, **DOUBLE | {"maxDbVal": 400, "power": "10"})
    assert words.startswith("hyperParams.0: lr: 10 to the power of 400 is too large")


# -- choices and fixed values -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Discrete", "discrete", "Discreate", "DISCREATE"])
@pytest.mark.parametrize("member", ["discreateStrVal", "discreteStrVal"])
@pytest.mark.parametrize("data_type", ["str", "STR", "STRING"])
def test_choices_of_texts_in_all_spellings(kind: str, member: str, data_type: str) -> None:
    assert made(**{"name": "o", "type": kind, "dataType": data_type, member: ["b", "a"]}).choices == ("b", "a")


def test_choices_have_their_type_and_stand_once() -> None:
    doubles = made(name="x", type="Discrete", dataType="double", discreteDbVal=[1, 0.5, 1.0])
    assert [(type(one), one) for one in doubles.choices] == [(float, 1.0), (float, 0.5)]
    ints = made(name="x", type="Discrete", dataType="int", discreteIntVal=[3, 1, 3, 2])
    assert ints.choices == (3, 1, 2)


@pytest.mark.parametrize(
    ("data_type", "member", "bad"),
    [
        ("double", "discreteDbVal", ["0.1"]),
        ("double", "discreteDbVal", [float("nan")]),
        ("int", "discreteIntVal", [1.5]),
        ("int", "discreteIntVal", [True]),
        ("str", "discreateStrVal", [1]),
        ("str", "discreateStrVal", "abc"),
        ("str", "discreateStrVal", []),
        ("int", "discreteIntVal", []),
        ("double", "discreteDbVal", []),
        ("double", "discreteDbVal", None),
        ("int", "discreteIntVal", list(range(10_001))),
    ],
)
def test_choices_that_are_none(data_type: str, member: str, bad: Any) -> None:
    assert member in refusal(made, **{"name": "x", "type": "Discrete", "dataType": data_type, member: bad})


@pytest.mark.parametrize("kind", ["Fix", "fix", "FIX"])
@pytest.mark.parametrize(
    ("data_type", "given", "value"),
    [("int", 3, 3), ("int", "-3", -3), ("double", "0.5", 0.5), ("double", 1, 1.0), ("str", "1", "1")],
)
def test_fixed_values(kind: str, data_type: str, given: Any, value: Any) -> None:
    found = made(name="x", type=kind, dataType=data_type, fixedVal=given).value
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("data_type", "bad"),
    [("int", 0.5), ("int", "0.5"), ("int", ""), ("double", "x"), ("double", "nan"), ("str", 1), ("int", None)],
)
def test_fixed_values_of_another_type(data_type: str, bad: Any) -> None:
    assert "fixedVal" in refusal(made, name="x", type="Fix", dataType=data_type, fixedVal=bad)


@pytest.mark.parametrize(("member", "bad"), [("type", "Grid"), ("type", 3), ("dataType", "float"), ("name", "")])
def test_words_that_are_none(member: str, bad: Any) -> None:
    assert refusal(made, **DOUBLE | {member: bad}).startswith(f"{member}: ")


# -- the whole request --------------------------------------------------------------------------------


def test_limits_and_their_spellings() -> None:
    spec = study(asked(algoDef__maxJobNum=8, algoDef__maxParalleJobNum=2, algoDef__maxRunTime=60))
    assert (spec.max_trials, spec.parallel, spec.max_time) == (8, 2, 3600.0)
    both = asked(algoDef__maxParalleJob=3, algoDef__maxParalleJobNum=2)
    assert study(both).parallel == 3
    unlimited = study(asked())
    assert (unlimited.max_trials, unlimited.parallel, unlimited.max_time) == (None, 1, None)


@pytest.mark.parametrize("member", ["maxJobNum", "maxRunTime"])
def test_a_limit_of_minus_one_or_none_is_none(member: str) -> None:
    for value in (-1, 0, None):
        spec = study(asked(**{f"algoDef__{member}": value}))
        assert (spec.max_trials, spec.max_time) == (None, None)


@pytest.mark.parametrize(
    ("member", "inside", "outside"),
    [
        ("maxJobNum", [-1, 0, 1, 1_000_000, 5.0], [-2, 1_000_001, 1.5, "5", True]),
        ("maxRunTime", [-1, 0, 1, 100], [-2, 10**9, 0.5, "1"]),
        ("maxParalleJob", [1, 1000], [0, -1, 1001, 1.5, "1"]),
        ("maxParalleJobNum", [1, 1000], [0, -1, 1001, "1"]),
        ("algorithm", ["Random", "random"], ["", 1, None]),
        ("objectiveMetric", ["loss"], ["", 1, None]),
        ("objective", ["minimize", "maximize", "Minimize", "MAXIMIZE"], ["least", "", 1, None]),
        ("algoParams", [[], [{"name": "RandomSeed", "value": "7"}]], [{}, [{"name": "RandomSeed"}], [{"value": "7"}]]),
        ("algoParams", [None], [[{"name": "RandomSeed", "value": 7}], [{"name": "", "value": "7"}], ["RandomSeed"]]),
        ("additionalMetrics", [{}, {"a": "latest"}, {"a": "word"}], [[], {"a": 1}, "a"]),
        ("hyperbandEta", [3.0, 2, None], ["3", True]),
    ],
)
def test_members_of_the_algorithm(member: str, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        study(asked(**{f"algoDef__{member}": value}))
    for value in outside:
        assert "algoDef" in refusal(asked, **{f"algoDef__{member}": value}), value


def test_what_is_optimized_and_shown() -> None:
    words = {"a": "minimize", "b": "Maximize", "c": "latest", "d": "whatever"}
    spec = study(asked(algoDef__objective="Maximize", algoDef__additionalMetrics=words))
    assert (spec.objective.metric, spec.objective.goal) == ("loss", Goal.MAXIMIZE)
    assert spec.metrics == {
        "a": Strategy.MINIMIZE,
        "b": Strategy.MAXIMIZE,
        "c": Strategy.LATEST,
        "d": Strategy.LATEST,
    }


def test_algorithms_have_their_documents_names_in_any_case() -> None:
    for name, ours in {"Random": "random", "TPE": "tpe", "Tpe": "tpe", "bayesian": "bayesian"}.items():
        assert study(asked(algoDef__algorithm=name)).algorithm.name == ours
    assert study(asked(algoDef__algorithm="MyPlugin")).algorithm.name == "MyPlugin"
    assert "no algorithm 'grid'" in refusal(study, asked(algoDef__algorithm="grid"))


def test_parameters_that_an_algorithm_has_not_go_to_plugins_alone() -> None:
    params = [{"name": "RandomSeed", "value": "7"}, {"name": "colour", "value": "red"}]
    random = study(asked(algoDef__algoParams=params))
    assert random.algorithm.params == {"RandomSeed": "7"}
    plugin = study(asked(algoDef__algoParams=params, algoDef__algorithm="mine"))
    assert plugin.algorithm.params == {"RandomSeed": "7", "colour": "red"}
    assert "RandomSeed is there twice" in refusal(asked, algoDef__algoParams=params + params)


def test_defaults_are_those_of_the_document() -> None:
    whole = {"WarmUp": "20", "EICandidate": "24", "GoodRatio": "0.25", "GoodMax": "25"}
    spec = study(asked(algoDef__algorithm="Tpe"))
    assert checked(spec.algorithm, spec) == whole
    given = [{"name": "warmUp", "value": "5"}]
    spec = study(asked(algoDef__algorithm="Tpe", algoDef__algoParams=given))
    assert checked(spec.algorithm, spec) == whole | {"WarmUp": "5"}


def test_the_other_place_of_eta() -> None:
    resource = [{"name": "ResourceName", "value": "epochs"}, {"name": "ResourceValue", "value": "9"}]
    body = {"algoDef__algorithm": "Hyperband", "algoDef__hyperbandEta": 4.0}
    alone = study(asked(algoDef__algoParams=resource, **body))
    assert alone.algorithm.params["eta"] == "4.0"
    both = study(asked(algoDef__algoParams=[*resource, {"name": "eta", "value": "2"}], **body))
    assert both.algorithm.params["eta"] == "2"
    assert "eta" not in study(asked(algoDef__hyperbandEta=4.0)).algorithm.params


@pytest.mark.parametrize("name", ["rs1", "a", "A.b_c~d-e", "7", "a" * 128, None, ""])
def test_names_that_searches_may_have(name: str | None) -> None:
    assert asked(hpoName=name).hpoName == (name or None)


@pytest.mark.parametrize("name", ["algorithm", "a/b", "a b", "-a", ".", "..", "a" * 129, "ä", 7, "a\n"])
def test_names_that_they_may_not_have(name: Any) -> None:
    assert refusal(asked, hpoName=name).startswith("hpoName: ")


def test_names_of_hyperparameters_differ() -> None:
    assert "hyperParams: lr is there twice" in refusal(asked, hyperParams=[DOUBLE, CHOICE | {"name": "lr"}])


@pytest.mark.parametrize("missing", ["modelSpec", "algoDef"])
def test_what_a_request_must_have(missing: str) -> None:
    assert refusal(asked, **{missing: None}) == f"{missing}: is required"
    assert "modelSpec.args" in refusal(asked, modelSpec={"args": 1})
    assert "modelSpec.args" in refusal(asked, modelSpec={})


# -- experiments --------------------------------------------------------------------------------------

LR: dict[str, Any] = {"name": "lr", "dataType": "DOUBLE", "fixedVal": "0.1"}


def listed(*experiments: Any, algorithm: str = "ExperimentGridSearch", **changes: Any) -> HpoTaskRequest:
    changes = {"hyperParams": None, **changes}
    return asked(experiments=list(experiments), algoDef__algorithm=algorithm, **changes)


@pytest.mark.parametrize("member", ["hyperParams", "fixedHyperParams"])
def test_experiments_in_both_spellings(member: str) -> None:
    optimizer = {"name": "opt", "dataType": "STRING", "fixedVal": "Adam"}
    one = {"id": 1, member: [LR, optimizer, {"name": "n", "dataType": "int", "fixedVal": "7"}]}
    spec = study(listed(one, {"id": 2, member: [LR | {"fixedVal": 0.2}]}))
    assert spec.experiments == ({"lr": 0.1, "opt": "Adam", "n": 7}, {"lr": 0.2})
    assert spec.algorithm.name == "grid"


def test_hyper_params_win_over_fixed_ones() -> None:
    both = {"id": 1, "fixedHyperParams": [LR], "hyperParams": [LR | {"fixedVal": 0.5}]}
    assert study(listed(both)).experiments == ({"lr": 0.5},)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"id": 1}, "experiments.0.hyperParams: is required"),
        ({"hyperParams": [LR]}, "experiments.0.id: is required"),
        ({"id": "1", "hyperParams": [LR]}, "experiments.0.id: should be an integer"),
        ({"id": 1, "hyperParams": [LR, LR]}, "lr is there twice"),
        ({"id": 1, "hyperParams": [{"name": "lr", "dataType": "double"}]}, "fixedVal: is required"),
        ({"id": 1, "hyperParams": [LR | {"fixedVal": "x"}]}, "fixedVal: should be a number"),
        ({"id": 1, "hyperParams": [LR | {"dataType": "int", "fixedVal": 0.5}]}, "fixedVal: should be an integer"),
        ({"id": 1, "hyperParams": [LR | {"dataType": "str", "fixedVal": 1}]}, "fixedVal: should be a text"),
        ({"id": 1, "hyperParams": [LR | {"name": ""}]}, "experiments.0.hyperParams.0.name"),
    ],
)
def test_experiments_that_are_none(bad: Any, words: str) -> None:
    assert words in refusal(listed, bad)


def test_each_algorithm_takes_one_of_both() -> None:
    one = {"id": 1, "hyperParams": [LR]}
    assert "one of hyperParams and experiments" in refusal(listed, one, hyperParams=[DOUBLE])
    assert "ExperimentGridSearch needs them" in refusal(listed, hyperParams=[DOUBLE])
    assert "ExperimentGridSearch needs them" in refusal(listed)
    for algorithm in ("Random", "MyPlugin"):
        assert "only ExperimentGridSearch takes" in refusal(listed, one, algorithm=algorithm)
    assert listed(one, hyperParams=[]).experiments
    assert asked(experiments=[]).hyperParams


# -- for any request ----------------------------------------------------------------------------------

_numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(low=_numbers, high=_numbers, step=st.none() | st.floats(1e-3, 1e6), as_text=st.booleans())
def test_a_range_takes_its_ends_or_is_refused(low: float, high: float, step: float | None, as_text: bool) -> None:
    given_step = repr(step) if as_text and step is not None else step
    members = {"name": "x", "type": "Range", "dataType": "double", "minDbVal": low, "maxDbVal": high}
    if low > high:
        assert "is above" in refusal(made, **members)
        return
    found = made(**members, step=given_step)
    assert found.takes(low)
    assert (found.step or None) == step
    assert step is not None or found.takes(high)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    member=st.sampled_from(
        [*DOUBLE, "step", "power", "discreteDbVal", "discreteIntVal", "discreateStrVal", "fixedVal", "minIntVal"]
    ),
    kind=st.sampled_from(["Range", "Discrete", "Fix"]),
    data_type=st.sampled_from(["int", "double", "str"]),
    value=_json,
)
def test_whatever_a_member_is_there_is_an_answer(member: str, kind: str, data_type: str, value: Any) -> None:
    """Never anything but a parameter or a refusal in words."""
    members = DOUBLE | INT | CHOICE | {"name": "x", "discreteDbVal": [1.0], "discreteIntVal": [1], "fixedVal": "1"}
    members |= {"type": kind, "dataType": data_type, member: value}
    try:
        words = made(**members).name
    except ValidationError as error:
        words = str(from_pydantic(error))
    except LocalmlError as error:
        words = error.message
    assert words
