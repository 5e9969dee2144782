"""How things look on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from localml.cli.terminal import below, visible
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLOURS = {
    "queued": "yellow",
    "preparing": "cyan",
    "running": "green",
    "stopping": "magenta",
    "succeeded": "bright_black",
    "failed": "red",
    "stopped": "bright_black",
}


def console(*, err: bool = False) -> Console:
    """A console that does not guess at styles of its own; wide enough for a table when nobody looks."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else 200)


def bar_console() -> Console:
    """A console for what moves the cursor on standard error; it is given nothing of others' that is not ``visible``."""
    from rich.console import Console

    return Console(file=below(sys.stderr), highlight=False)


def table(*columns: str, rows: Sequence[Sequence[Any]], empty: str) -> None:
    """A plain table on standard output, or one sentence when it would have no rows."""
    if not rows:
        console().print(empty, markup=False)
        return
    console().print(made_table(columns, rows))


def made_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """The table that :func:`table` prints."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column not in ("MESSAGE", "WHY", "DESCRIPTION"))
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row))
    return made


def state(name: str) -> Any:
    """A state in its colour."""
    from rich.text import Text

    return Text(visible(name), style=COLOURS.get(name, ""))


def ago(at: float | None) -> str:
    """``3m05s ago``; ``-`` for never."""
    if at is None:
        return "-"
    return f"{format_duration(max(1.0, time.time() - at))} ago" if at <= time.time() else "just now"


def clock(at: float | None) -> str:
    """A point in time on this machine's clock."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def number(value: float | None) -> str:
    """A number without needless zeros; ``-`` for none."""
    return "-" if value is None else f"{value:g}"


def gpu_name(name: str, simulated: bool) -> str:
    """A GPU's name, marked when it does not exist."""
    return f"{name} (simulated)" if simulated else name


def took(started: float | None, ended: float | None) -> str:
    """How long something ran, or has run by now."""
    return "-" if started is None else format_duration((ended or time.time()) - started)


@contextmanager
def bytes_bar(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for bytes that come or go, when somebody looks; it is told how many more there are."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    # what is printed meanwhile goes the usual way, and not through the bar's console
    with Progress(
        *columns, console=bar_console(), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bars:
        task = bars.add_task("", total=total)
        yield lambda size: bars.update(task, advance=size)
