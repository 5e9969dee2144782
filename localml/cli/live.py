"""What moves while a command waits: one line that says what goes on now, bars for bytes and builds.

On a terminal a line is written over by the next one and is gone in the end. Elsewhere there are plain lines, and few of
them: one when something else goes on than before, and one now and then while nothing changes. ``NO_COLOR`` is obeyed.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from localml.cli.terminal import below, visible
from localml.client.errors import ClientError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from localml.core.errors import LocalmlError

_PERCENT = re.compile(r"\b(\d{1,3}) ?%")
_CHANGING = re.compile(r"\d+(?:\.\d+)?[smhd%]?")
_PATIENCE_S = 1.0
_AGAIN_S = 60.0
_TAIL = 20


def colourless() -> bool:
    """Whether colours are not wanted: https://no-color.org."""
    return bool(os.environ.get("NO_COLOR"))


def bar_console() -> Console:
    """A console for what moves the cursor on standard error; it is given nothing of others' that is not ``visible``."""
    from rich.console import Console

    return Console(file=below(sys.stderr), highlight=False, no_color=colourless() or None)


@contextmanager
def bytes_bar(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for bytes that come or go, when somebody looks; it is told how many more there are."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _progress(*columns) as bars:
        task = bars.add_task("", total=total)
        yield lambda size: bars.update(task, advance=size)


def _progress(*columns: Any) -> Progress:
    """What is printed meanwhile goes the usual way, and not through the bar's console."""
    from rich.progress import Progress

    return Progress(*columns, console=bar_console(), transient=True, redirect_stdout=False, redirect_stderr=False)


class Line:
    """One line on standard error that says what goes on now. Close it, or use it as a context manager.

    Args:
        quiet: show nothing.
        whole: rather take further lines of a narrow terminal than cut what is said.
        patience: seconds that pass before the first plain line, where there is no terminal: what is over sooner needs
            none.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        whole: bool = False,
        patience: float = _PATIENCE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream: TextIO = sys.stderr
        self._quiet = quiet
        self._whole = whole
        self._now = now
        self._plain = not self._stream.isatty()
        self._next = now() + patience
        self._kind = ""
        self._bars: Progress | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, words: str) -> None:
        """Show this in place of what was shown. ``45 %`` in it is shown as a bar, too."""
        if self._quiet:
            return
        words = visible(" ".join(words.splitlines()))
        if self._plain:
            self._say_plainly(words)
            return
        bars = self._shown()
        found = _PERCENT.search(words)
        done = None if found is None else min(100, int(found[1]))
        (task,) = bars.task_ids
        bars.update(task, description=words, completed=done or 0, total=None if done is None else 100)
        bars.refresh()

    def close(self) -> None:
        """Take the line away; something else is written now. The next words make it again."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _say_plainly(self, words: str) -> None:
        kind, now = _CHANGING.sub("", words), self._now()
        if not self._kind and now < self._next:
            return
        if kind != self._kind or now >= self._next:
            self._kind, self._next = kind, now + _AGAIN_S
            self._stream.write(words + "\n")
            self._stream.flush()

    def _shown(self) -> Progress:
        if self._bars is None:
            from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn
            from rich.table import Column

            class Bar(BarColumn):
                def render(self, task: Task) -> Any:
                    return "" if task.total is None else super().render(task)

            words = TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=not self._whole, overflow="ellipsis")
            )
            self._bars = _progress(SpinnerColumn(), Bar(), words)
            self._bars.add_task("", total=None)
            self._bars.start()
        return self._bars


class Build:
    """A build that goes on: one line with what it does now, all that it says in a file.

    Args:
        name: of what is built; ``what`` says how that is called.
        folder: where the file is; it is written anew each time.
        quiet: show nothing.
    """

    def __init__(self, name: str, folder: Path, *, what: str = "building", quiet: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"build-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.log"
        self._name, self._what = name, what
        self._file = self.path.open("w", encoding="utf-8", errors="replace")
        self._line = Line(quiet=quiet, patience=0.0)
        self._last: list[str] = []

    def __enter__(self) -> Build:
        self._line.say(f"{self._what} {self._name}; all that it says: {self.path}")
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
        self._file.close()

    def add(self, text: str) -> None:
        """Something that it said."""
        self._file.write(text.rstrip("\n") + "\n")
        self._file.flush()
        self._last = [*self._last[-_TAIL + 1 :], text.rstrip()]
        if sys.stderr.isatty():
            self._line.say(f"{self._name}: {' '.join(text.split())}")

    def pause(self) -> None:
        """Something else is written now."""
        self._line.close()

    def failed(self, error: ClientError | LocalmlError) -> ClientError:
        """The same failure with what the build said last, and where all of it is."""
        code = str(getattr(error.code, "value", error.code))
        said = "".join(f"\n  {visible(line)}" for line in self._last if line not in error.message)
        return ClientError(code, f"{error.message}{said}\nall that it said: {self.path}", details=error.details)
