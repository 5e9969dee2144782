"""Optuna's own samplers over pipes, a line of JSON for each call: what localml's searches are measured beside.

``{"new": SAMPLER, "seed": N, "space": [{"name", "low", "high", "log", "whole"}, ...]}`` begins a study that minimizes,
``{}`` asks for a trial's values, ``{"value": X}`` tells what came of it.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler


def sampler(name: str, seed: int) -> BaseSampler:
    """A sampler as Optuna makes it by default; the Gaussian process is told that nothing is noisy, as ours is."""
    if name == "bayesian":
        return GPSampler(seed=seed, deterministic_objective=True)
    return TPESampler(seed=seed) if name == "tpe" else RandomSampler(seed=seed)


def distribution(one: dict[str, Any]) -> BaseDistribution:
    """A parameter as Optuna has it."""
    if one["whole"]:
        return IntDistribution(int(one["low"]), int(one["high"]), log=one["log"])
    return FloatDistribution(one["low"], one["high"], log=one["log"])


def main() -> None:
    """Answer until the pipe is closed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    begun = json.loads(sys.stdin.readline())
    study = optuna.create_study(sampler=sampler(begun["new"], begun["seed"]))
    space = {one["name"]: distribution(one) for one in begun["space"]}
    trial: Any = None
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "value" in request:
            study.tell(trial, request["value"])
        else:
            trial = study.ask(space)
        print(json.dumps(trial.params), flush=True)


if __name__ == "__main__":
    main()
