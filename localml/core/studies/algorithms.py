"""The built-in algorithms and their parameters: what each is for, its default, what it may be.

Pure: what a sampler does with them stands in :mod:`localml.hpo`. The names are those of IBM's document; any case is
taken, and underscores between the words. The defaults are those with which Optuna's samplers do best; a dialect whose
document has others passes them on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from localml.core.errors import LocalmlError, invalid
from localml.core.limits import MOST_TRIALS, need_at_most
from localml.core.studies.halving import brackets
from localml.core.studies.space import Parameter, Type, grid_points
from localml.core.studies.specs import AlgorithmChoice, StudySpec

RANDOM, TPE, BAYESIAN, HYPERBAND, GRID = "random", "tpe", "bayesian", "hyperband", "grid"
SEED = "RandomSeed"
MOST_CANDIDATES = 1_000_000
"""Points that one proposal may choose from."""
_USUAL_CANDIDATES = 100_000
"""Of them, where none are asked for: a proposal costs time for each."""
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")


class Kind(StrEnum):
    """How a parameter's text is read."""

    INTEGER = "integer"
    NUMBER = "number"
    FLAG = "boolean"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Option:
    """A parameter of an algorithm.

    Attributes:
        default: None: there is none, or it depends on the study.
        least, above, most: of numbers; ``above`` itself is not allowed.
    """

    name: str
    kind: Kind
    what: str
    default: str | None = None
    required: bool = False
    least: float | None = None
    above: float | None = None
    most: float | None = None

    def read(self, given: str) -> str:
        """The value as it is passed on.

        Raises:
            LocalmlError: ``INVALID`` naming the parameter and what it may be.
        """
        text = given.strip()
        if self.kind is Kind.FLAG:
            return self._flag(text)
        if self.kind is Kind.TEXT:
            return self._text(text)
        pattern = _INTEGER if self.kind is Kind.INTEGER else _NUMBER
        if not pattern.fullmatch(text) or not self._within(float(text)):
            raise self._refused(given)
        return str(int(text) if self.kind is Kind.INTEGER else float(text))

    def _flag(self, text: str) -> str:
        if text.lower() not in ("true", "false"):
            raise self._refused(text)
        return text.lower()

    def _text(self, text: str) -> str:
        if not text:
            raise self._refused(text)
        return text

    def _within(self, number: float) -> bool:
        return (
            (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
        )

    def _refused(self, given: str) -> LocalmlError:
        bounds = {"of at least": self.least, "above": self.above, "up to": self.most}
        words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
        allowed = {Kind.FLAG: "true or false", Kind.TEXT: "a name"}.get(self.kind, f"a {self.kind} {words}".rstrip())
        return invalid(self.name, f"must be {allowed.replace('a integer', 'an integer')}, not {given[:100]!r}")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An algorithm that is always there."""

    name: str
    what: str
    options: tuple[Option, ...] = ()

    def option(self, name: str) -> Option | None:
        """The parameter of a name, however it is spelled."""
        return next((one for one in self.options if _plain(one.name) == _plain(name)), None)


_SEED = Option(SEED, Kind.INTEGER, "the same seed proposes the same trials")

BUILT_IN: dict[str, BuiltIn] = {
    one.name: one
    for one in (
        BuiltIn(RANDOM, "draws each trial at random", (_SEED,)),
        BuiltIn(
            TPE,
            "tree-structured Parzen estimator: draws near what was good and away from what was not",
            (
                _SEED,
                Option("WarmUp", Kind.INTEGER, "trials drawn at random first", "10", above=2, most=MOST_TRIALS),
                Option("EICandidate", Kind.INTEGER, "draws that one is chosen from", "24", above=1, most=100_000),
                Option("GoodRatio", Kind.NUMBER, "the share of the trials that counts as good", "0.1", above=0),
                Option("GoodMax", Kind.INTEGER, "trials that count as good at most", "25", above=1, most=MOST_TRIALS),
            ),
        ),
        BuiltIn(
            BAYESIAN,
            "a Gaussian process models the objective; the trial that promises most is next",
            (
                _SEED,
                Option("InitPoints", Kind.INTEGER, "trials drawn at random first", "10", least=0, most=MOST_TRIALS),
                Option("CubeSize", Kind.INTEGER, "points that one is chosen from", least=1, most=MOST_CANDIDATES),
                Option("Noiseless", Kind.FLAG, "whether the same trial always has the same result", "true"),
            ),
        ),
        BuiltIn(
            HYPERBAND,
            "begins many trials with little of a resource, and goes on with the best of them",
            (
                _SEED,
                Option(
                    "eta", Kind.NUMBER, "one of so many trials goes on, with so many times the resource", "3", above=1
                ),
                Option("ResourceName", Kind.TEXT, "the parameter that is the resource, such as epochs", required=True),
                Option("ResourceValue", Kind.INTEGER, "the most that a trial gets", required=True, least=1, most=1e9),
            ),
        ),
        BuiltIn(GRID, "each point of the grid, or each of the listed trials, once and in order"),
    )
}
"""By their names."""


def built_in(name: str) -> BuiltIn | None:
    """The built-in algorithm of a name, in any case; None for one that is not built in."""
    return BUILT_IN.get(name.strip().lower())


def checked(choice: AlgorithmChoice, spec: StudySpec) -> dict[str, str]:
    """All parameters as the algorithm uses them, by the names of the table, defaults among them; those of an installed
    algorithm as they were given. The seed is not among them; see :func:`seed_of`.

    Raises:
        LocalmlError: ``INVALID`` naming the parameter of the algorithm, or of the search space.
    """
    found = built_in(choice.name)
    if found is None:
        _need_space(choice.name, spec)
        return dict(choice.params)
    params = _read(found, choice.params)
    if found.name == GRID:
        if spec.space:
            grid_points(spec.space)
        return params
    _need_space(found.name, spec)
    if found.name == HYPERBAND:
        _need_brackets(params, spec.space)
    return params | _depending(found.name, params, spec.max_trials)


def seed_of(choice: AlgorithmChoice, spec: StudySpec) -> int | None:
    """The seed that a study is to have, from 0 to 2**32 - 1: the algorithm's parameter, else the study's own; None: one
    is to be drawn.

    Raises:
        LocalmlError: ``INVALID`` for a parameter that is no integer.
    """
    found = built_in(choice.name)
    if found is not None and found.option(SEED) is not None:
        given = next((text for name, text in choice.params.items() if _plain(name) == _plain(SEED)), None)
        if given is not None:
            return int(_SEED.read(given)) % (1 << 32)
    return spec.seed


def only_known(choice: AlgorithmChoice) -> AlgorithmChoice:
    """The choice without the parameters that a built-in algorithm does not have, for APIs that ignore them."""
    found = built_in(choice.name)
    if found is None:
        return choice
    kept = {name: text for name, text in choice.params.items() if found.option(name) is not None}
    return choice.model_copy(update={"params": kept})


def trial_space(algorithm: str, params: Mapping[str, str], space: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """The parameters that a trial gets values of: those of the study, and Hyperband's resource, in place of one of the
    same name.

    Args:
        params: what :func:`checked` returned.
    """
    if algorithm != HYPERBAND:
        return space
    name, most = params["ResourceName"], int(params["ResourceValue"])
    resource = Parameter(name=name, type=Type.INT, low=1, high=most)
    return (*(one for one in space if one.name != name), resource)


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _read(algorithm: BuiltIn, given: Mapping[str, str]) -> dict[str, str]:
    read: dict[str, str] = {}
    for name, text in given.items():
        option = algorithm.option(name)
        if option is None:
            known = ", ".join(one.name for one in algorithm.options) or "none"
            raise invalid(name, f"is no parameter of '{algorithm.name}', which has {known}")
        if option.name in read:
            raise invalid(option.name, "is there twice")
        read[option.name] = option.read(text)
    for option in algorithm.options:
        if option.required and option.name not in read:
            raise invalid(option.name, f"'{algorithm.name}' needs it: {option.what}")
    defaults = {one.name: one.default for one in algorithm.options if one.default is not None}
    return {name: text for name, text in (defaults | read).items() if name != SEED}


def _need_space(name: str, spec: StudySpec) -> None:
    if not spec.space:
        raise invalid("experiments", f"are for the algorithm '{GRID}' alone; '{name}' needs a space")


def _need_brackets(params: Mapping[str, str], space: tuple[Parameter, ...]) -> None:
    brackets(int(params["ResourceValue"]), float(params["eta"]))
    if all(one.name == params["ResourceName"] for one in space):
        raise invalid("space", "needs a parameter besides the resource")


def _depending(name: str, params: Mapping[str, str], max_trials: int | None) -> dict[str, str]:
    """What the number of trials decides; an unlimited one lowers and raises nothing."""
    if name == TPE and max_trials is not None:
        return {"WarmUp": str(min(int(params["WarmUp"]), max_trials))}
    if name == BAYESIAN:
        return {"CubeSize": str(_candidates(params.get("CubeSize"), max_trials))}
    return {}


def _candidates(given: str | None, max_trials: int | None) -> int:
    if max_trials is None:
        return max(10_000, int(given or 0))
    if given is None:
        return max(max_trials, min(100 * max_trials, _USUAL_CANDIDATES))
    if int(given) < max_trials:
        raise invalid("CubeSize", f"must not be below the number of trials ({max_trials}), and is {given}")
    need_at_most("CubeSize", int(given), MOST_CANDIDATES, "points")
    return int(given)
