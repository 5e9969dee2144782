"""``localml top``: what runs, and what it uses, as it changes."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import Data, Json, command, connect, print_json, time_option
from localml.cli.help import JOBS
from localml.cli.terminal import below

if TYPE_CHECKING:
    from rich.console import Group

    from localml.client import Client, Gpu, Workload

_MOST = 200
_LOOK_BACK_S = 30.0
"""Older figures are none of now: the server measures every five seconds."""
_CPU = "container_cpu_usage_seconds_total"
_MEMORY = "container_memory_usage_bytes"
_GPU_MEMORY = "container_accelerator_memory_used_bytes"
_GPU_DUTY = "container_accelerator_duty_cycle"

Series = dict[tuple[str, str], list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Use:
    """What a workload uses now, all its replicas together: cores, bytes, percent of its GPUs; None while nobody knows.

    ``gpu`` is how many GPUs it holds, ``ran`` for how many seconds it runs.
    """

    id: int
    name: str
    kind: str
    owner: str
    cpu: float | None
    memory: int | None
    gpu: float
    gpu_percent: float | None
    gpu_memory: int | None
    ran: float


@dataclass(frozen=True, slots=True)
class Picture:
    """What runs, the most busy first; how many wait; ``gpus_free`` of ``gpus``."""

    uses: list[Use]
    waiting: int
    gpus: int
    gpus_free: float


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=JOBS)(top)


@command
def top(
    once: Annotated[bool, typer.Option("--once", help="Show it once, as without a terminal.")] = False,
    every: Annotated[float, time_option("How often it is shown anew.", "2s")] = 2.0,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What runs and what it uses, live.

    Ctrl-C ends it.

    Example: localml top --once
    """
    with connect(data) as client:
        if as_json:
            print_json(asdict(look(client)))
        elif once or not sys.stdout.isatty():
            found = look(client)
            show.console().print(_headline(found), markup=False)
            _print(found)
        else:
            _live(client, max(every, 0.2))


def look(client: Client) -> Picture:
    """What there is to see now."""
    page = client.workloads(state=["running"], limit=_MOST)
    waiting = client.workloads(state=["queued", "preparing"], limit=_MOST)
    gpus: list[Gpu] = client.gpus()
    now = time.time()
    uses = [_use(one, client.samples(one.id, since=now - _LOOK_BACK_S), now) for one in page.workloads]
    uses.sort(key=lambda one: (-(one.cpu or 0), -(one.memory or 0), one.id))
    return Picture(uses, len(waiting.workloads), len(gpus), sum(one.free for one in gpus))


def _use(one: Workload, series: Series, now: float) -> Use:
    duty, gpu_memory, memory = (_now(series, name) for name in (_GPU_DUTY, _GPU_MEMORY, _MEMORY))
    rates = [rate for (_, name), points in series.items() if name == _CPU and (rate := _rate(points)) is not None]
    return Use(
        id=one.id,
        name=one.name,
        kind=one.kind,
        owner=one.owner,
        cpu=round(sum(rates), 2) if rates else None,
        memory=int(sum(memory)) if memory else None,
        gpu=one.gpu,
        gpu_percent=round(sum(duty) / len(duty), 1) if duty else None,
        gpu_memory=int(sum(gpu_memory)) if gpu_memory else None,
        ran=round(max(0.0, now - (one.started_at or now)), 1),
    )


def _now(series: Series, name: str) -> list[float]:
    """The last value of each replica."""
    return [points[-1][1] for (_, found), points in series.items() if found == name and points]


def _rate(points: list[tuple[float, float]]) -> float | None:
    """Of the last two points of what grows."""
    if len(points) < 2 or points[-1][0] <= points[-2][0]:
        return None
    (before, was), (at, value) = points[-2:]
    return max(0.0, value - was) / (at - before)


_COLUMNS = ("ID", "NAME", "KIND", "OWNER", "RAN", "CPU", "MEMORY")
_GPU_COLUMNS = ("GPU", "GPU BUSY", "GPU MEMORY")
"""Last, because a narrow terminal has no room for them; not at all where there are no GPUs."""


def _columns(found: Picture) -> tuple[str, ...]:
    return _COLUMNS + _GPU_COLUMNS * bool(found.gpus)


def _rows(found: Picture) -> list[tuple[Any, ...]]:
    from localml.core.quantities import format_duration, format_memory

    return [
        (
            one.id,
            one.name,
            "replica" if one.kind == "endpoint" else one.kind,
            one.owner,
            format_duration(one.ran),
            "-" if one.cpu is None else f"{one.cpu:.2f}",
            format_memory(one.memory),
            show.number(one.gpu or None),
            "-" if one.gpu_percent is None else f"{one.gpu_percent:g}%",
            format_memory(one.gpu_memory),
        )[: len(_columns(found))]
        for one in found.uses
    ]


def _headline(found: Picture) -> str:
    gpus = f"; {found.gpus_free:g} of {found.gpus} GPUs free" if found.gpus else ""
    return f"{len(found.uses)} running, {found.waiting} waiting{gpus}"


def _print(found: Picture) -> None:
    show.table(*_columns(found), rows=_rows(found), empty="Nothing runs.")


def _shown(found: Picture) -> Group:
    from rich.console import Group
    from rich.text import Text

    rows = _rows(found)
    return Group(Text(_headline(found)), show.made_table(_columns(found), rows) if rows else Text("Nothing runs."))


def _live(client: Client, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=below(sys.stdout), highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        try:
            while True:
                live.update(_shown(look(client)), refresh=True)
                time.sleep(every)
        except KeyboardInterrupt:
            return
