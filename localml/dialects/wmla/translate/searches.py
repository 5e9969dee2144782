"""Search tasks as studies."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from localml.core.errors import invalid
from localml.core.studies.algorithms import BAYESIAN, GRID, HYPERBAND, RANDOM, TPE, built_in, checked, only_known
from localml.core.studies.space import Parameter, Type, Values
from localml.core.studies.specs import AlgorithmChoice, Goal, Objective, ResultFile, StudySpec
from localml.core.work.specs import WorkloadSpec, single
from localml.dialects.kit.errors import renamed
from localml.dialects.wmla.schemas.searches import AlgoDefBase
from localml.dialects.wmla.schemas.searches_space import GRID as GRID_NAME
from localml.dialects.wmla.schemas.searches_space import Experiment, HyperParam, Space

BUILT_IN = {"Random": RANDOM, "Tpe": TPE, "Bayesian": BAYESIAN, "Hyperband": HYPERBAND, GRID_NAME: GRID}
"""The document's name of each built-in algorithm -> the core's."""
_NAMES = {name.lower(): name for name in BUILT_IN}
DEFAULTS = {TPE: {"WarmUp": "20", "GoodRatio": "0.25"}}
"""Where the document's are not the core's."""
_CHOICES = {"int": "discreteIntVal", "double": "discreteDbVal", "str": "discreateStrVal"}


def built_in_name(given: str) -> str | None:
    """The document's name of a built-in algorithm, which any case stands for; None for one that is none."""
    return _NAMES.get(given.strip().lower())


def algorithm_name(given: str) -> str:
    """The core's name of an algorithm; that of an installed one is its own.

    Raises:
        LocalmlError: ``INVALID`` for a name that only the core has.
    """
    name = built_in_name(given)
    if name is None and built_in(given) is not None:
        raise invalid("algoDef.algorithm", f"there is no algorithm '{given}'")
    return given if name is None else BUILT_IN[name]


def study_spec(space: Space, algo: AlgoDefBase) -> StudySpec:
    """What a search task asks for, with a trial that does nothing; see :func:`with_trial`.

    Raises:
        LocalmlError: ``INVALID`` naming the member that cannot be honoured.
    """
    spec = StudySpec(
        space=tuple(parameter(index, one) for index, one in enumerate(space.hyperParams or ())),
        experiments=tuple(values(one) for one in space.experiments or ()),
        algorithm=choice(algo),
        objective=Objective(metric=algo.objectiveMetric or "loss", goal=algo.objective or Goal.MINIMIZE),
        metrics=algo.strategies,
        trial=single(("true",)),
        max_trials=_limit(algo.maxJobNum),
        parallel=algo.maxParalleJob,
        max_time=None if algo.maxRunTime <= 0 else algo.maxRunTime * 60.0,
    )
    with renamed(**_options(spec.algorithm.name)):
        checked(spec.algorithm, spec)
    return spec


def _options(algorithm: str) -> dict[str, str]:
    """What failures call the parameters of a built-in algorithm."""
    found = built_in(algorithm)
    return {one.name: f"algoDef.algoParams.{one.name}" for one in found.options} if found else {}


def with_trial(spec: StudySpec, trial: WorkloadSpec, result: str) -> StudySpec:
    """The same with what a training runs, and the object URI of its metrics, with ``{trial}`` in it."""
    return spec.model_copy(update={"trial": trial, "result": ResultFile(uri=result)})


def _limit(given: int) -> int | None:
    return given if given > 0 else None


def choice(algo: AlgoDefBase) -> AlgorithmChoice:
    """Who proposes. What a built-in algorithm does not know is not passed on, as the document has it."""
    params = {one.name: one.value for one in algo.algoParams}
    name = algorithm_name(algo.algorithm)
    if name == HYPERBAND and algo.hyperbandEta is not None and not any(one.lower() == "eta" for one in params):
        params["eta"] = repr(algo.hyperbandEta)
    given = {one.lower() for one in params}
    params |= {one: text for one, text in DEFAULTS.get(name, {}).items() if one.lower() not in given}
    return only_known(AlgorithmChoice(name=name, params=params))


def parameter(index: int, one: HyperParam) -> Parameter:
    """A hyperparameter as the core has it. ``index`` is its place in the request, for failures.

    Raises:
        LocalmlError: ``INVALID`` for powers beyond all numbers.
    """
    try:
        return Parameter(name=one.name, **_members(one))
    except ValidationError as error:
        reason = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise invalid(f"hyperParams.{index}", reason) from None


def _members(one: HyperParam) -> dict[str, Any]:
    if one.type == "fix":
        return {"value": one.fixedVal}
    if one.type == "discrete":
        return {"choices": tuple(dict.fromkeys(getattr(one, _CHOICES[one.dataType])))}
    if one.dataType == "double":
        return {"low": one.minDbVal, "high": one.maxDbVal, "step": one.step, "power": one.power}
    # of integers an integer is drawn, also where it is an exponent
    step = 1.0 if one.power is not None and one.step is None else one.step
    return {"type": Type.INT, "low": one.minIntVal, "high": one.maxIntVal, "step": step, "power": one.power}


def values(one: Experiment) -> Values:
    """The values of one training."""
    return {param.name: param.fixedVal for param in one.hyperParams}
