"""Which trials are stopped early: those whose best value at a step is worse than the median of what the completed ones
averaged up to that step (Golovin et al., Google Vizier, 2017, 3.2.1). Pure.
"""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence

from localml.core.studies.specs import EarlyStopping, Goal

MOST_CURVES = 200
"""Completed trials that others are compared with, the newest ones."""
MOST_STEPS = 10_000
"""Steps of each: what is still well after so many goes on."""


def averages(values: Sequence[float]) -> array[float]:
    """The average of a series up to each of its steps."""
    found, total = array("d"), 0.0
    for step, value in enumerate(values[:MOST_STEPS], start=1):
        total += value
        found.append(total / step)
    return found


def why_stop(values: Sequence[float], others: Sequence[Sequence[float]], rule: EarlyStopping, goal: Goal) -> str:
    """Why a trial is to be stopped; empty where it goes on.

    Args:
        values: of the objective so far, by step.
        others: of the completed trials, their averages up to each step.
    """
    step = len(values)
    if step <= rule.min_steps or step > MOST_STEPS:
        return ""
    there = [one[step - 1] for one in others if len(one) >= step]
    if len(there) < rule.min_trials:
        return ""
    best, median = min(values, key=lambda one: one * goal.sign), statistics.median(there)
    if best * goal.sign <= median * goal.sign:
        return ""
    return f"stopped early: its best after {step} steps is {best:g}, the median of {len(there)} trials {median:g}"
