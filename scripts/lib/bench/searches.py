"""How well searches search: what they have found after so many trials, beside Optuna's own samplers and random search.

Each algorithm runs in its process, as in a server. The same objectives, trials and number of seeds are given to
Optuna's samplers with their own defaults; how much better than random search both are says more than the values.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from bench.rows import Row, folder, ms, skipped, timed, times

_LIB = Path(__file__).parents[1]
_NOISE = 2.0
"""Standard errors that what was found may be worse by."""
_EPOCHS = 6
_MOST_EPOCHS = 27
_THREADS = 2
_TRIALS = 10_000
_MORE_S = 0.3
Values = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """A parameter; as :mod:`localml.core.studies.space` and Optuna have it."""

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Problem:
    """Something to minimize; ``score`` is what is compared of the least value: less is better."""

    name: str
    space: tuple[Range, ...]
    value: Callable[[Values, int], float]
    score: Callable[[float], float]


class Searcher(Protocol):
    """Who proposes."""

    def ask(self, number: int) -> Values | None: ...

    def tell(self, number: int, value: float) -> None: ...


def branin(values: Values, _: int) -> float:
    """Branin's function, less its minimum."""
    x, y = values["x"], values["y"]
    bowl = (y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6) ** 2
    return bowl + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10 - 0.397887


_WEIGHTS = (1.0, 1.2, 3.0, 3.2)
_SCALES = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_PLACES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def hartmann(values: Values, _: int) -> float:
    """Hartmann's function of six variables, less its minimum."""
    point = [values[f"x{number}"] for number in range(6)]
    terms = (
        weight * math.exp(-sum(a * (x - p) ** 2 for a, x, p in zip(scale, point, place, strict=True)))
        for weight, scale, place in zip(_WEIGHTS, _SCALES, _PLACES, strict=True)
    )
    return 3.32237 - sum(terms)


_BRANIN = (Range("x", -5, 10), Range("y", 0, 15))
_HARTMANN = tuple(Range(f"x{number}", 0, 1) for number in range(6))
_DIGITS = (
    Range("lr", 1e-4, 1.0, log=True),
    Range("momentum", 0, 0.99),
    Range("alpha", 1e-6, 0.1, log=True),
    Range("hidden", 4, 64, log=True, whole=True),
)


def searches(quick: bool) -> Iterator[Row]:
    """The best after 50 trials for 20 seeds, and the epochs that Hyperband and random search need for the same."""
    from localml.core.catalog import cache_dir, runtimes_dir
    from localml.core.errors import LocalmlError
    from localml.engines.base import EngineError
    from localml.engines.runtimes.environments import Environments
    from localml.hpo.environments import Environments as Algorithms
    from localml.hpo.processes import Processes

    seeds, trials = (4, 30) if quick else (20, 50)
    try:
        optuna = Algorithms(cache_dir()).built_in("bayesian", lambda _: None)
        digits = Environments(cache_dir(), runtimes_dir()).ensure("train-sklearn", lambda _: None) / "bin" / "python"
    except (LocalmlError, EngineError) as error:
        yield skipped("searches", str(error))
        return
    with folder() as data, _program(digits, "digits_trainer.py") as train:
        suggesters = Processes(cache_dir(), data)
        problems = [
            Problem("Branin", _BRANIN, branin, _logarithm),
            Problem("Hartmann-6", _HARTMANN, hartmann, _logarithm),
            Problem("digits", _DIGITS, partial(_loss, train, _EPOCHS), float),
        ]
        for problem in problems:
            yield from _compared(suggesters, optuna, problem, seeds, trials)
        yield _epochs(suggesters, problems[-1], train, seeds)
        yield _rebuilt(suggesters)
        suggesters.close()


def _logarithm(value: float) -> float:
    return math.log10(max(value, 1e-6))


def _loss(train: Callable[[Any], Any], epochs: int, values: Values, seed: int) -> float:
    return float(train({**values, "epochs": values.get("epochs", epochs), "seed": seed}))


def _compared(suggesters: Any, optuna: str, problem: Problem, seeds: int, trials: int) -> Iterator[Row]:
    def best(begin: Callable[[str, Problem, int], Any], name: str) -> list[float]:
        def one(seed: int) -> float:
            with begin(name, problem, seed) as searcher:
                return problem.score(min(_values(searcher, problem, seed, trials)))

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(one, range(seeds)))

    ours, alone = partial(_ours, suggesters), partial(_alone, optuna)
    chance = statistics.mean(best(ours, "random") + best(alone, "random"))
    for name in ("tpe", "bayesian"):
        yield _row(f"{problem.name}, {trials} trials: {name}", chance, best(ours, name), best(alone, name))


def _row(what: str, chance: float, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    found, beside = statistics.mean(ours), statistics.mean(theirs)
    noise = math.hypot(*(statistics.stdev(one) / math.sqrt(len(one)) for one in (ours, theirs)))
    ratio = (chance - found) / (chance - beside)
    ok = found <= beside + _NOISE * noise and found < chance
    floor = f"Optuna's {beside:.3f}, random {chance:.3f}, noise {noise:.3f}"
    return Row(what, f"{found:.3f}, {times(ratio)} as far", "as far, less noise", floor, ok)


def _values(searcher: Searcher, problem: Problem, seed: int, trials: int) -> Iterator[float]:
    for number in range(1, trials + 1):
        values = searcher.ask(number)
        assert values is not None
        value = problem.value(values, seed)
        searcher.tell(number, value)
        yield value


def _epochs(suggesters: Any, problem: Problem, train: Callable[[Any], Any], seeds: int) -> Row:
    """Epochs until the best of a whole Hyperband was found, by it and by random search, which stops at ten times."""
    spent: dict[str, list[int]] = {"hyperband": [], "random": []}
    for seed in range(seeds):
        params = {"eta": "3", "ResourceName": "epochs", "ResourceValue": str(_MOST_EPOCHS)}
        with _ours(suggesters, "hyperband", problem, seed, params) as searcher:
            curve = list(_curve(searcher, train, seed))
        best = min(loss for _, loss in curve)
        spent["hyperband"].append(next(epochs for epochs, loss in curve if loss <= best))
        with _ours(suggesters, "random", problem, seed) as searcher:
            for epochs, loss in _curve(searcher, train, seed):
                if loss <= best or epochs >= 10 * curve[-1][0]:
                    break
            spent["random"].append(epochs)
    mean = {name: statistics.mean(some) for name, some in spent.items()}
    ratio = mean["hyperband"] / mean["random"]
    what = "digits, epochs until Hyperband's best"
    return Row(
        what, f"{mean['hyperband']:.0f} ({times(ratio)})", "< 1.00 times", f"random {mean['random']:.0f}", ratio < 1
    )


def _rebuilt(suggesters: Any) -> Row:
    """The next ask of a TPE study that has 10,000 trials, by a process that is begun for it."""
    from localml.core.studies.algorithms import checked
    from localml.hpo.base import Asked, Told

    dice = random.Random(1)
    trials = [({one.name: dice.random() for one in _HARTMANN}, dice.random()) for _ in range(_TRIALS)]
    history = [one for n, (values, value) in enumerate(trials, 1) for one in (Asked(n, values), Told(n, value))]
    spec = _spec("tpe", _HARTMANN, {})
    setup = _setup(spec, checked(spec.algorithm, spec), 1)

    def ours() -> None:
        suggester = suggesters.open(setup, history)
        suggester.ask(_TRIALS + 1)
        suggester.close()

    turns = [(timed(ours), timed(lambda: _optuna_rebuilt(trials))) for _ in range(3)]
    found, beside = (statistics.median(some) for some in zip(*turns, strict=True))
    what = "next ask of a study of 10,000 trials, process and all"
    return Row(what, ms(found), f"<= {_MORE_S} s more", f"Optuna's rebuild {ms(beside)}", found <= beside + _MORE_S)


def _optuna_rebuilt(trials: Sequence[tuple[Values, float]]) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {one.name: optuna.distributions.FloatDistribution(one.low, one.high) for one in _HARTMANN}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    made = [optuna.trial.create_trial(params=one, distributions=space, value=value) for one, value in trials]
    study.add_trials(made)
    study.ask(space)


def _curve(searcher: Searcher, train: Callable[[Any], Any], seed: int) -> Iterator[tuple[int, float]]:
    """Epochs spent so far and loss of each trial, until there is none."""
    number = spent = 0
    while (values := searcher.ask(number + 1)) is not None:
        number += 1
        value = _loss(train, _MOST_EPOCHS, values, seed)
        spent += values.get("epochs", _MOST_EPOCHS)
        searcher.tell(number, value)
        yield spent, value


@contextmanager
def _ours(
    suggesters: Any, name: str, problem: Problem, seed: int, params: dict[str, str] | None = None
) -> Iterator[Searcher]:
    from localml.core.studies.algorithms import checked

    spec = _spec(name, problem.space, params or {})
    suggester = suggesters.open(_setup(spec, checked(spec.algorithm, spec), seed))
    try:
        yield _Asked(suggester)
    finally:
        suggester.close()


def _spec(name: str, ranges: Sequence[Range], params: dict[str, str]) -> Any:
    from localml.core.studies.space import Parameter, Type
    from localml.core.studies.specs import AlgorithmChoice, Objective, StudySpec
    from localml.core.work.specs import Role, WorkloadSpec

    space = tuple(
        Parameter(name=one.name, low=one.low, high=one.high, log=one.log, type=Type.INT if one.whole else Type.FLOAT)
        for one in ranges
    )
    choice, trial = AlgorithmChoice(name=name, params=params), WorkloadSpec(roles=(Role(),))
    return StudySpec(space=space, algorithm=choice, objective=Objective(metric="loss"), trial=trial, max_trials=50)


def _setup(spec: Any, params: dict[str, str], seed: int) -> Any:
    from localml.core.studies.specs import Goal
    from localml.hpo.base import Setup

    return Setup(spec.algorithm.name, params, spec.space, Goal.MINIMIZE, seed)


class _Asked:
    """A suggester as a searcher."""

    def __init__(self, suggester: Any) -> None:
        self._suggester = suggester
        self.tell = suggester.tell

    def ask(self, number: int) -> Values | None:
        found: Values | None = self._suggester.ask(number).values
        return found


@contextmanager
def _alone(python: str, name: str, problem: Problem, seed: int) -> Iterator[Searcher]:
    with _program(Path(python), "optuna_alone.py") as call:
        call({"new": name, "seed": seed, "space": [vars(one) for one in problem.space]})
        yield _Alone(call)


class _Alone:
    """Optuna's own sampler as a searcher."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call

    def ask(self, number: int) -> Values | None:
        found: Values = self._call({})
        return found

    def tell(self, number: int, value: float) -> None:
        self._call({"value": value})


@contextmanager
def _program(python: Path, name: str) -> Iterator[Callable[[Any], Any]]:
    """A program beside this package that answers lines of JSON; with this process's modules after its own."""
    start = (
        "import sys, json, runpy; sys.path += json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], None, '__main__')"
    )
    command = [str(python), "-c", start, json.dumps(sys.path), str(_LIB / name)]
    environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
    ) as child:
        lock = threading.Lock()

        def call(request: Any) -> Any:
            assert child.stdin is not None
            assert child.stdout is not None
            with lock:
                child.stdin.write(json.dumps(request) + "\n")
                child.stdin.flush()
                return json.loads(child.stdout.readline())

        try:
            yield call
        finally:
            child.kill()
