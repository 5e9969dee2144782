"""Algorithms that are one of Optuna's samplers: random, tpe and bayesian.

The sampler of each trial begins anew, with a seed made of the study's and of how many trials were proposed before. So
what is proposed follows from what was asked and told alone, and a process that begins with the history goes on as the
one before it would have.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import numpy
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from localml.core.studies.space import Parameter
from localml.hpo.side.spaces import Distributions

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore")  # of what is experimental; nobody reads them here

_LONG_AGO = datetime(2000, 1, 1)
"""When trials of the history began and ended, of which no sampler wants to know."""
_MOST_MODELLED = 500
"""Trials that a Gaussian process is fitted to: its time grows with their cube, its memory with their square."""

_MOST_NUMBERS = 12_000_000
"""That are held at a time while points are judged: one for each point, trial and parameter."""


class Make(Protocol):
    """Makes the sampler of one trial."""

    def __call__(self, seed: int) -> BaseSampler: ...


def opened(setup: dict[str, Any], history: list[list[Any]], _: bytes | None) -> Sampled:
    """The algorithm of a setup, told its history."""
    space = tuple(Parameter.model_validate(one) for one in setup["space"])
    distributions = Distributions(space)
    make = maker(setup["algorithm"], setup["params"], distributions.drawn)
    return Sampled(distributions, make, setup["goal"], setup["seed"], history)


def maker(name: str, params: Mapping[str, str], space: dict[str, BaseDistribution]) -> Make:
    """What makes the samplers of an algorithm; ``params`` are checked."""
    if name == "tpe":
        return partial(
            Parzen,
            space,
            warm_up=int(params["WarmUp"]),
            candidates=int(params["EICandidate"]),
            good_ratio=float(params["GoodRatio"]),
            good_max=int(params["GoodMax"]),
        )
    if name == "bayesian":
        return partial(
            Gaussian,
            space,
            init_points=int(params["InitPoints"]),
            candidates=int(params["CubeSize"]),
            noiseless=params["Noiseless"] == "true",
        )
    return RandomSampler


def mixed(seed: int, *numbers: int) -> int:
    """A seed made of others, as good as independent of one that differs in any of them."""
    return int(numpy.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


class Parzen(TPESampler):
    """Optuna's estimator with IBM's two parameters for how many trials count as good, and a space that is known."""

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        seed: int,
        *,
        warm_up: int,
        candidates: int,
        good_ratio: float,
        good_max: int,
    ) -> None:
        super().__init__(n_startup_trials=warm_up, n_ei_candidates=candidates, seed=seed, constant_liar=True)
        self._space = space
        # as the argument of the same name, of which Optuna 5 warns that 6 will not have it
        self._gamma = lambda finished: min(math.ceil(min(good_ratio, 1.0) * finished), good_max)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All of the space: it need not be found out from the trials."""
        return self._space


class Gaussian(GPSampler):
    """Optuna's Gaussian process with a given number of points to choose from, fitted to the best and latest trials."""

    def __init__(
        self, space: dict[str, BaseDistribution], seed: int, *, init_points: int, candidates: int, noiseless: bool
    ) -> None:
        super().__init__(
            seed=seed,
            n_startup_trials=init_points,
            deterministic_objective=noiseless,
            warn_independent_sampling=False,
        )
        self._space = space
        self._n_preliminary_samples = candidates

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All of the space, once there is a trial to learn from."""
        return self._space if any(one.state is TrialState.COMPLETE for one in _trials(study)) else {}

    def _sample_relative_impl(
        self,
        study: optuna.Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        few = _best_and_latest(completed_trials, study.direction is StudyDirection.MAXIMIZE)
        found: dict[str, Any] = super()._sample_relative_impl(study, few, running_trials, search_space)
        return found

    def _optimize_acqf(self, acqf: Any, best_params: numpy.ndarray | None) -> numpy.ndarray:
        """As Optuna does, with the memory of some of the points at a time."""
        whole = acqf.eval_acqf_no_grad

        def some(points: numpy.ndarray) -> numpy.ndarray:
            at_once = max(1, _MOST_NUMBERS // (_MOST_MODELLED * points.shape[-1]))
            if points.ndim != 2 or len(points) <= at_once:
                return numpy.asarray(whole(points))
            return numpy.concatenate([whole(points[at : at + at_once]) for at in range(0, len(points), at_once)])

        acqf.eval_acqf_no_grad = some
        return numpy.asarray(super()._optimize_acqf(acqf, best_params))


def _best_and_latest(trials: list[FrozenTrial], maximize: bool) -> list[FrozenTrial]:
    if len(trials) <= _MOST_MODELLED:
        return trials
    half = _MOST_MODELLED // 2
    older, latest = trials[:-half], trials[-half:]
    best = sorted(older, key=lambda one: one.value or 0.0, reverse=maximize)[:half]
    return sorted([*best, *latest], key=lambda one: one.number)


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)


class _Recorded(FrozenTrial):
    """A trial of the history. It was checked when it was proposed, and nothing changes it: so it is taken into the
    study as it is, which is far faster than ``Study.add_trial`` with its copies."""

    def __deepcopy__(self, _: object) -> _Recorded:
        return self


class Sampled:
    """An Optuna study in memory.

    Args:
        history: what was asked and told, see :mod:`localml.hpo.side.worker`. Of trials that are over a sampler that
            learns nothing only counts how many there were.
    """

    keeps = False

    def __init__(
        self, distributions: Distributions, make: Make, goal: str, seed: int, history: Sequence[list[Any]]
    ) -> None:
        self._distributions = distributions
        self._make = make
        self._seed = seed
        self._study = optuna.create_study(direction=StudyDirection[goal.upper()])
        self._learns = make is not RandomSampler
        self._asked = 0
        self._places: dict[int, int] = {}  # trial -> its place in the study
        self._running: dict[int, dict[str, Any]] = {}
        self._rebuild(history)

    def _rebuild(self, history: Sequence[list[Any]]) -> None:
        asked = {number: values for what, number, values in history if what == "asked"}
        told = {number: value for what, number, value in history if what == "told"}
        for number, values in asked.items():
            self._asked += 1
            if number not in told:
                self._running[number] = values
            if number not in told or self._learns:
                self._add(number, values, number in told, told.get(number))

    def _add(self, number: int, values: dict[str, Any], over: bool, value: float | None) -> None:
        state = TrialState.RUNNING if not over else TrialState.FAIL if value is None else TrialState.COMPLETE
        drawn = self._distributions.drawn
        places = self._distributions.places(values)
        self._places[number] = len(self._places)
        trial = _Recorded(-1, state, value, _LONG_AGO, _LONG_AGO if over else None, places, drawn, {}, {}, {}, -1)
        self._study._storage.create_new_trial(self._study._study_id, trial)

    def ask(self, number: int) -> tuple[dict[str, Any] | None, bool]:
        """Draw a trial; one that runs already is the one that was drawn."""
        if number not in self._running:
            self._running[number] = self._drawn(number)
        return self._running[number], False

    def _drawn(self, number: int) -> dict[str, Any]:
        self._study.sampler = self._make(seed=mixed(self._seed, self._asked))
        self._asked += 1
        trial = self._study.ask(self._distributions.drawn)
        values = self._distributions.values(trial.params)
        for name, place in self._distributions.places(values).items():
            if place != trial.params[name]:  # what a later process would find in its place
                kind = self._distributions.drawn[name]
                self._study._storage.set_trial_param(trial._trial_id, name, kind.to_internal_repr(place), kind)
        self._places[number] = trial.number
        return values

    def tell(self, number: int, value: float | None) -> None:
        """Take a result; a failed trial teaches nothing."""
        self._running.pop(number, None)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._study.tell(self._places[number], value, state=state)

    def state(self) -> bytes:
        """Nothing beyond the history."""
        return b""
