"""How things look on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from localml.cli.live import bytes_bar as bytes_bar
from localml.cli.live import colourless
from localml.cli.terminal import visible
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WORDS = ("MESSAGE", "WHY", "DESCRIPTION")
"""Columns of sentences, which go on in further lines."""
NARROW = 20
"""Cells that a column of sentences has at least."""
GAP = 2
"""Cells between two columns."""
_WIDEST = 10_000
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
    width = None if stream.isatty() else 200
    return Console(file=stream, highlight=False, soft_wrap=True, width=width, no_color=colourless() or None)


def table(*columns: str, rows: Sequence[Sequence[Any]], empty: str) -> None:
    """A plain table on standard output, or one sentence when it would have no rows."""
    if not rows:
        console().print(empty, markup=False)
        return
    made = made_table(columns, rows)
    screen = console()
    need = made.__rich_measure__(screen, screen.options.update(width=_WIDEST))
    if sys.stdout.isatty():
        screen.width = max(screen.width, need.minimum)
        screen.print(made)
        return
    # a program reads it, or a person who can scroll: one line each, with nothing behind the last word
    screen.width = need.maximum
    with screen.capture() as got:
        screen.print(made)
    sys.stdout.write("".join(f"{line.rstrip(' ')}\n" for line in got.get().split("\n")[:-1]))


def made_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """The table that :func:`table` prints."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    cells = [[cell if isinstance(cell, Text) else Text(visible(str(cell))) for cell in row] for row in rows]
    for at, column in enumerate(columns):
        # ids, names and addresses are never cut or folded: where there is no room a line is longer than the terminal
        words = column in _WORDS
        widest = max(row[at].cell_len for row in cells)
        made.add_column(column, overflow="fold", no_wrap=not words, min_width=NARROW if words else widest)
    for row in cells:
        made.add_row(*row)
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
