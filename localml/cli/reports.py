"""What jobs report: metrics, compare, and the columns of ps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import Data, Json, Name, as_dict, command, connect, print_json
from localml.cli.completion import columns as columns_of
from localml.cli.completion import complete_reported, words
from localml.cli.help import JOBS
from localml.cli.names import WORKLOADS, completer
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client, Compared, Metric, Page, Workload

VALUES = ("last", "min", "max")
_MOST_SHOWN = 8
"""Parameters, and metrics, that a table has unless it is told which."""

OWN: dict[str, Callable[[Any], str]] = {
    "id": lambda one: str(one.id),
    "name": lambda one: str(one.name),
    "kind": lambda one: str(one.kind),
    "state": lambda one: str(one.state),
    "cause": lambda one: one.cause or "-",
    "owner": lambda one: str(one.owner),
    "created": lambda one: show.ago(one.created_at),
    "started": lambda one: show.ago(one.started_at),
    "ended": lambda one: show.ago(one.ended_at),
    "ran": lambda one: show.took(one.started_at, one.ended_at or getattr(one, "exited_at", None)),
}
"""Columns of any list of jobs."""
LISTED: dict[str, Callable[[Any], str]] = {
    "pool": lambda one: str(one.pool),
    "priority": lambda one: str(one.priority),
    "workspace": lambda one: str(one.workspace),
    "dialect": lambda one: str(one.dialect),
    "try": lambda one: str(one.attempt),
    "cpu": lambda one: show.number(one.cpu),
    "memory": lambda one: show.number(one.memory),
    "gpu": lambda one: show.number(one.gpu) if one.gpu else "-",
    "exit": lambda one: "-" if one.exit_code is None else str(one.exit_code),
    "message": lambda one: one.message or "-",
}
"""Columns of ps alone."""
Columns = Annotated[
    str | None,
    typer.Option(
        help="Which columns, such as name,state,lr,acc: of the list's own, and names of metrics and parameters.",
        show_default=False,
        autocompletion=columns_of(*OWN, *LISTED),
    ),
]
_SORTED: dict[str, str] = {"created": "created_at", "started": "started_at", "ended": "ended_at"}


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("metrics", rich_help_panel=JOBS)(print_metrics)
    app.command(rich_help_panel=JOBS)(compare)


@command
def print_metrics(
    name: Name,
    metrics: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[METRIC]...",
            help="Show the points of these.",
            autocompletion=complete_reported,
            show_default=False,
        ),
    ] = None,
    last: Annotated[int, typer.Option("--last", "-n", help="So many points at most, the latest ones.")] = 1000,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What a job reported: its metrics and parameters.

    Metrics in its output or in TensorBoard's files.

    Lines such as 'epoch=3 loss=0.2' or '{"step": 5, "acc": 0.9}' are read as they are printed.

    Example: localml metrics NAME loss --last 10
    """
    with connect(data) as client:
        thing = client.resolve(name, WORKLOADS)
        if metrics:
            found = {one: client.points(thing.id, one, last=last) for one in metrics}
            return _print_points(thing.name, found, as_json=as_json)
        report = client.metrics(thing.id)
    if as_json:
        return print_json(as_dict(report))
    for parameter, value in report.parameters.items():
        show.console().print(f"{parameter} = {value}", markup=False)
    if report.parameters:
        typer.echo()
    rows = [
        (one.name, _text(one), _step(one.step), _number(one.min), _number(one.max), one.count, one.replica or "-")
        for one in report.metrics
    ]
    empty = f"{report.name} has reported no metrics; it does by lines such as: epoch=3 loss=0.2"
    show.table("METRIC", "LAST", "STEP", "MIN", "MAX", "POINTS", "REPLICA", rows=rows, empty=empty)
    if not report.complete:
        typer.secho("Some of its output has not been read yet.", dim=True, err=True)
    return None


def _print_points(
    job: str, found: Mapping[str, Mapping[str, Sequence[tuple[float, int | None, float | None]]]], *, as_json: bool
) -> None:
    if as_json:
        return print_json({"name": job, "metrics": found})
    rows = [
        (show.clock(at), _step(step), name, "nan" if value is None else f"{value:g}", replica or "-")
        for name, replicas in found.items()
        for replica, points in replicas.items()
        for at, step, value in points
    ]
    show.table("AT", "STEP", "METRIC", "VALUE", "REPLICA", rows=rows, empty=f"{job} has no points of these.")
    return None


@command
def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Names or ids of jobs.", autocompletion=completer(*WORKLOADS), show_default=False),
    ],
    sort: Annotated[
        str | None,
        typer.Option(help="By a metric, a parameter or a column; the largest first.", autocompletion=columns_of(*OWN)),
    ] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="The smallest first.")] = False,
    value: Annotated[
        str, typer.Option(help="Of each metric: last, min or max.", autocompletion=words(*VALUES))
    ] = "last",
    columns: Columns = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Jobs side by side: what differs, and what they reported.

    The parameters that differ, and the last value of each metric.

    Example: localml compare NAME OTHER --sort acc
    """
    if value not in VALUES:
        raise invalid("--value", f"must be last, min or max, not {value!r}")
    with connect(data) as client:
        found = client.compare(*(client.resolve(name, WORKLOADS).id for name in names))
    if sort:
        found = _sorted(found, sort, value, ascending=ascending)
    if as_json:
        return print_json({"workloads": as_dict(found)})
    chosen = _split(columns) or _interesting(found)
    rows = [[_cell(one, one, column, value, OWN) for column in chosen] for one in found]
    show.table(*(column if column not in OWN else column.upper() for column in chosen), rows=rows, empty="No jobs.")
    return None


def _interesting(found: Sequence[Compared]) -> list[str]:
    """The columns that nobody asked for otherwise: what differs, and what was measured."""
    from localml.client.metrics import names_of

    parameters, metrics = names_of(found)
    differ = [name for name in parameters if len({one.parameters.get(name) for one in found}) > 1]
    hidden = [*differ[_MOST_SHOWN:], *metrics[_MOST_SHOWN:]]
    if hidden:
        typer.secho(f"Not shown: {', '.join(hidden)}; choose with --columns.", dim=True, err=True)
    return ["name", "state", "ran", *differ[:_MOST_SHOWN], *metrics[:_MOST_SHOWN]]


def _sorted(found: Sequence[Compared], by: str, value: str, *, ascending: bool) -> list[Compared]:
    """Those that have it, in its order, and the others behind them."""
    keys = {one.id: _key(one, by, value) for one in found}
    having = [one for one in found if keys[one.id] is not None]
    if not having and by not in OWN:
        known = sorted({name for one in found for name in (*one.metrics, *one.parameters)})
        raise invalid("--sort", f"none of these jobs has {by!r}; there are: {', '.join([*OWN, *known][:40])}")
    numbers = all(isinstance(keys[one.id], float) for one in having)
    having.sort(key=lambda one: keys[one.id] if numbers else str(keys[one.id]), reverse=not ascending)  # type: ignore[return-value,arg-type]
    return [*having, *(one for one in found if keys[one.id] is None)]


def _key(one: Compared, by: str, value: str) -> float | str | None:
    if by in one.metrics:
        return _chosen(one.metrics[by], value)
    text = one.parameters.get(by)
    if text is None:
        if by == "ran":
            return None if one.started_at is None else (one.ended_at or float("inf")) - one.started_at
        given = getattr(one, _SORTED.get(by, by), None) if by in OWN else None
        return float(given) if isinstance(given, int | float) else given
    try:
        return float(text)
    except ValueError:
        return text


def print_columns(client: Client, page: Page, columns: str, *, as_json: bool) -> None:
    """A page of workloads with the columns that were asked for; ``ps --columns``."""
    chosen, known = _split(columns), OWN | LISTED
    asked = [name for name in chosen if name not in known]
    reported = {one.id: one for one in client.compare(*(one.id for one in page.workloads))} if asked else {}
    rows = [[_cell(one, reported.get(one.id), name, "last", known) for name in chosen] for one in page.workloads]
    if as_json:
        return print_json({"workloads": [dict(zip(chosen, row, strict=True)) for row in rows], "next": page.next})
    show.table(*(name if name not in known else name.upper() for name in chosen), rows=rows, empty="No workloads.")
    missing = [
        name for name in asked if all(name not in {**one.metrics, **one.parameters} for one in reported.values())
    ]
    if missing and rows:
        words = f"None of these has {', '.join(missing)}; columns of the list are {', '.join(known)}."
        typer.secho(words, dim=True, err=True)
    return None


def _split(columns: str | None) -> list[str]:
    return [name for part in (columns or "").split(",") if (name := part.strip())]


def _cell(
    one: Workload | Compared, reported: Compared | None, column: str, value: str, known: Mapping[str, Any]
) -> str:
    if column in known:
        return str(known[column](one))
    if reported is None:
        return "-"
    metric = reported.metrics.get(column)
    if metric is None:
        return reported.parameters.get(column, "-")
    return _text(metric) if value == "last" else _number(_chosen(metric, value))


def _chosen(metric: Metric, value: str) -> float | None:
    found: float | None = getattr(metric, value)
    return found


def _text(metric: Metric) -> str:
    return _number(metric.last) if metric.last is not None else metric.text or "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _step(step: int | None) -> str:
    return "-" if step is None else str(step)
