"""How studies and trials look: values, progress, the course of the best value, tables."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from localml.cli import show
from localml.cli.terminal import visible
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from localml.client import Client, Study, Trial

COLOURS = {"waiting": "yellow", "complete": "bright_black", "pruned": "magenta"}
"""States that only studies and trials have."""
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_WIDTH = 40
_MOST_PARAMS, _MOST_METRICS = 8, 4
_LONG = 24
_LONGEST = 500


def state(name: str) -> Any:
    """A state in its colour."""
    from rich.text import Text

    return Text(visible(name), style=COLOURS.get(name) or show.COLOURS.get(name, ""))


def value(one: Any) -> str:
    """A parameter's value, or a metric's, short enough for a table; ``-`` for none."""
    if one is None:
        return "-"
    text = f"{one:.6g}" if isinstance(one, float) else str(one).lower() if isinstance(one, bool) else str(one)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def values(params: Mapping[str, Any]) -> str:
    """``lr=0.01 batch=32``."""
    return " ".join(f"{name}={value(one)}" for name, one in params.items())


def counts(one: Study) -> str:
    """``24 of 50 trials, 4 running, 1 failed``."""
    whole = f"{one.told} of {one.planned} trials" if one.planned is not None else f"{one.told} trials"
    parts = [
        f"{number} {name}" for name in ("running", "pruned", "failed", "stopped") if (number := getattr(one, name))
    ]
    return ", ".join([whole, *parts])


def best(one: Study) -> str:
    """``loss=0.0213 by trial 17``; empty while there is none."""
    return "" if one.best is None else f"{one.metric}={value(one.best_value)} by trial {one.best}"


def sparkline(points: Sequence[tuple[int, float]], first: int, last: int, width: int = _WIDTH) -> str:
    """The best value by each trial, from ``first`` to ``last``, as a line of blocks; high ones are large values.

    Args:
        points: (number, value) of each trial that was better than all before it.
    """
    if len(points) < 2:
        return ""
    blocks = _BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else _ASCII
    low, high = min(value for _, value in points), max(value for _, value in points)
    width = min(width, last - first + 1)
    drawn = []
    for at in range(width):
        number = first + (at + 1) * (last - first + 1) // width - 1
        known = [value for trial, value in points if trial <= number]
        if known:
            drawn.append(blocks[round((known[-1] - low) / (high - low) * (len(blocks) - 1))])
    return "".join(drawn)


def left(one: Study, took: float | None, now: float | None = None) -> float | None:
    """Seconds until it is over, as far as that can be told.

    Args:
        took: seconds of a trial that ended, on average; None while none has.
    """
    found: list[float] = []
    if one.planned is not None and took is not None:
        found.append(math.ceil(max(0, one.planned - one.told) / one.parallel) * took)
    limit = one.spec.get("max_time")
    if limit is not None and one.started_at is not None:
        found.append(max(0.0, one.started_at + limit - (time.time() if now is None else now)))
    return min(found, default=None)


def average(trials: Sequence[Trial]) -> float | None:
    """Seconds of a trial that ended, on average; None where none has."""
    took = [one.ended_at - one.started_at for one in trials if one.ended_at and one.started_at]
    return sum(took) / len(took) if took else None


def latest(one: Trial, metric: str) -> float | None:
    """What a trial has: its value, or while it runs the newest one of the metric."""
    if one.value is not None:
        return one.value
    found: float | None = one.metrics.get(metric, {}).get("latest")
    return found


def columns(study: Study, trials: Sequence[Trial]) -> tuple[list[str], list[str]]:
    """The parameters and further metrics that a table of these trials shows."""
    params = list(dict.fromkeys(name for one in trials for name in one.params))
    return params[:_MOST_PARAMS], list(study.spec.get("metrics", {}))[:_MOST_METRICS]


def table_of(study: Study, trials: Sequence[Trial]) -> tuple[list[str], list[list[Any]]]:
    """Titles and rows."""
    params, metrics = columns(study, trials)
    shown_as = {"minimize": "min", "maximize": "max"}
    wanted = {name: shown_as.get(study.spec["metrics"][name], "latest") for name in metrics}
    rows = [
        [
            f"{one.number}*" if one.number == study.best else one.number,
            state(one.workload_state if one.state == "running" and one.workload_state else one.state),
            value(latest(one, study.metric)),
            *(value(one.metrics.get(name, {}).get(which)) for name, which in wanted.items()),
            *(value(one.params.get(name)) for name in params),
            show.took(one.started_at, one.ended_at),
            one.message or "-",
        ]
        for one in trials
    ]
    return ["TRIAL", "STATE", study.metric, *metrics, *params, "RAN", "MESSAGE"], rows


def fitted(titles: Sequence[str], rows: Sequence[Sequence[Any]], width: int, further: int) -> list[int]:
    """Which columns of :func:`table_of` a terminal has room for, whole: a part of a number is another number.

    The parameters matter most, then how long a trial ran, further metrics and messages.

    Args:
        width: of the terminal.
        further: how many of the columns are further metrics, the fourth and so on.
    """
    from rich.text import Text

    order = [0, 1, 2, *range(3 + further, len(titles) - 1), *range(3, 3 + further), len(titles) - 1]
    kept, used = [], 0
    for at in order:
        cells = (row[at] if isinstance(row[at], Text) else Text(visible(str(row[at]))) for row in rows)
        need = max(len(titles[at]), *(one.cell_len for one in cells)) if at < len(titles) - 1 else show.NARROW
        if at < 3 or used + need <= width:
            kept.append(at)
            used += need + show.GAP
    return sorted(kept)


def print_trials(study: Study, trials: Sequence[Trial]) -> None:
    """Trials as a table; the best one has a star."""
    titles, rows = table_of(study, trials)
    show.table(*titles, rows=rows, empty="No trials.")
    if hidden := [name for name in dict.fromkeys(name for one in trials for name in one.params) if name not in titles]:
        words = f"Not shown: {', '.join(hidden)}; see 'localml study export {study.name}'."
        typer.secho(words, dim=True, err=True)


def print_best(client: Client, one: Study) -> None:
    """The best trial: its values, a line each, and what it ran."""
    found = one.best_trial
    if found is None:
        return
    typer.echo(f"best: {best(one)}" + (f" ({found.workload})" if found.workload else ""))
    for name, given in found.params.items():
        typer.echo(f"  {name} = {value(given)}")
    if words := _command(client, found):
        typer.echo(f"  it ran: {words}")


def _command(client: Client, one: Trial) -> str:
    from localml.client.errors import ClientError

    try:
        roles = client.get(one.workload_id).spec["roles"]
    except ClientError:  # pruned
        return ""
    return " ".join(_word(word) for word in roles[0].get("command", ())) if len(roles) == 1 else ""


def _word(word: str) -> str:
    """A word of a command; of a script in it, such as vendors' APIs start programs with, that there is one."""
    return "..." if "\n" in word or len(word) > _LONGEST else shlex.quote(word)


def print_study(client: Client, one: Study, trials: Sequence[Trial]) -> None:
    """Everything about a study, with the last of its trials, for people."""
    from rich.text import Text

    console = show.console()
    for label, said in _members(one, trials):
        line = Text(f"{label + ':':<9} ", style="bold")
        console.print(line.append(said if isinstance(said, Text) else Text(visible(str(said)), style="not bold")))
    if one.best_trial is not None:
        console.print()
        print_best(client, one)
    if trials:
        console.print()
        print_trials(one, trials)
        if (before := trials[0].number - one.first) > 0:
            words = f"{before} more before these; 'localml study trials {one.name}' shows all, best ones with --best"
            typer.secho(words, dim=True, err=True)


def _members(one: Study, trials: Sequence[Trial]) -> Iterator[tuple[str, Any]]:
    through = "" if one.dialect == "native" else f", through {one.dialect}"
    yield "Name", f"{one.name} (study {one.id}{through})"
    yield "State", state(one.state)
    if one.message:
        yield "Message", one.message
    yield "Owner", f"{one.owner}, pool {one.pool}"
    yield "Search", f"{one.goal} {one.metric} by {one.algorithm}, seed {one.seed}"
    for given in one.spec.get("space", ()):
        yield "Param", f"{given['name']}: {space(given)}"
    yield "Trials", f"{counts(one)}, {one.parallel} at a time" + (f", run {one.run}" if one.run > 1 else "")
    yield "Created", f"{show.clock(one.created_at)} ({show.ago(one.created_at)})"
    ended = f", ended {show.clock(one.ended_at)}" if one.ended_at else ""
    yield "Started", f"{show.clock(one.started_at)}, ran {show.took(one.started_at, one.ended_at)}{ended}"
    rest = None if one.ended else left(one, average(trials))
    if rest is not None:
        yield "Left", f"about {format_duration(rest)}"
    if line := sparkline(one.curve, one.first, one.asked):
        yield "Course", f"{line}  {value(one.curve[0][1])} -> {value(one.curve[-1][1])}"


def space(one: Mapping[str, Any]) -> str:
    """A parameter as it may be written on the command line."""
    if "choices" in one:
        return ", ".join(value(choice) for choice in one["choices"])
    if "value" in one:
        return value(one["value"])
    base = f"{one['power']:g}^" if one.get("power") is not None else ""
    step = f":{one['step']:g}" if one.get("step") is not None and not (base and one["step"] == 1) else ""
    marks = f"{one.get('type', 'float')}:" + ("log:" if one.get("log") else "")
    return f"{marks}{base}{one['low']:g}..{one['high']:g}{step}"
