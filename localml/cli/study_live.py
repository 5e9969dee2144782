"""A search while it goes on: on a terminal a picture that changes, elsewhere a line for each trial that ended."""

from __future__ import annotations

import sys
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from localml.cli import INTERRUPTED, show, study_show
from localml.cli.common import as_dict, print_json
from localml.cli.live import colourless
from localml.cli.terminal import below, visible
from localml.cli.waiting import reason_words
from localml.client.errors import ClientError
from localml.client.studies import Study, Trial
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from localml.client import Client

_LOOK_S = 1.0
_RECENT = 100
"""Trials that ended last, which the time that is left is told from."""
_ROOM = 14
"""Lines of a terminal that are not for trials."""
_BAR = 30


def follow_to_end(client: Client, made: Study, data: Any, *, as_json: bool, known: int = 0) -> int:
    """Show a search until it is over, and then its best trial; the exit code: 0 if it is complete and has one.

    Args:
        known: trials up to this number need not be told of.
    """
    where = f" --data {data}" if data else ""
    try:
        with _shown(client, made, known, quiet=as_json) as picture:
            for item in client.studies.follow(made.id):
                picture.told(item)
        ended = client.studies.get(made.id)
    except KeyboardInterrupt:
        typer.echo(f"\n{made.name} goes on; see it with: localml study follow {made.name}{where}", err=True)
        typer.echo(f"stop it with: localml stop study/{made.name}{where}", err=True)
        return INTERRUPTED
    if as_json:
        print_json(as_dict(ended))
    else:
        _print_end(client, ended)
    return 0 if ended.state == "complete" and ended.best is not None else 1


def _print_end(client: Client, ended: Study) -> None:
    took = "" if ended.started_at is None else f" in {show.took(ended.started_at, ended.ended_at)}"
    words = f"{ended.name} {ended.state}: {study_show.counts(ended)}{took}"
    if ended.state == "complete" and ended.best is not None:
        typer.echo(words)
    else:
        why = ended.message or ("no trial has a result" if ended.best is None else "")
        typer.secho(words + (f"; {why}" if why else ""), fg=typer.colors.RED, err=True)
    study_show.print_best(client, ended)


def _shown(client: Client, made: Study, known: int, *, quiet: bool) -> _Plain:
    if quiet:
        return _Plain(made)
    return Screen(client, client.studies.get(made.id)) if sys.stdout.isatty() else _Lines(made, known)


class _Plain:
    """Shows nothing; hears of trials and of the study. A context manager."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def told(self, item: Study | Trial) -> None:
        """Something changed."""


class _Lines(_Plain):
    """A line for each trial that ended."""

    def __init__(self, study: Study, known: int) -> None:
        super().__init__(study)
        self._known = known
        self._best: float | None = None

    def told(self, item: Study | Trial) -> None:
        """Something changed."""
        if isinstance(item, Study):
            if item.state == "waiting" and item.message not in ("", self.study.message):
                typer.echo(visible(item.message), err=True)
            self.study = item
        elif item.ended:
            line = self._line(item)
            if item.number > self._known:
                typer.echo(visible(line))

    def _line(self, one: Trial) -> str:
        parts = [f"trial {one.number} {one.state}"]
        if one.value is not None:
            parts.append(f"{self.study.metric}={study_show.value(one.value)}{self._mark(one)}")
        parts.append(study_show.values(one.params))
        if one.message:
            parts.append(one.message)
        return "  ".join(parts)

    def _mark(self, one: Trial) -> str:
        """That it is the best so far."""
        value, sign = one.value or 0.0, -1 if self.study.goal == "maximize" else 1
        if one.state != "complete" or (self._best is not None and sign * value >= sign * self._best):
            return ""
        self._best = value
        return " (best)"


class Screen(_Plain):
    """A picture on a terminal: how far it is, the best, the trials that run and those that ended last."""

    def __init__(self, client: Client, study: Study) -> None:
        super().__init__(study)
        self._client = client
        self._spec = study.spec
        self._running: dict[int, Trial] = {}
        self._ended: deque[Trial] = deque(maxlen=_RECENT)
        self._best: Trial | None = None
        self._curve: list[tuple[int, float]] = []
        self._why = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_again, name="localml-trials", daemon=True)
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=below(sys.stdout), highlight=False, no_color=colourless() or None)
        self._live = Live(
            get_renderable=self._picture,
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()

    def told(self, item: Study | Trial) -> None:
        """Something changed."""
        with self._lock:
            if isinstance(item, Study):
                self.study = item
            elif item.ended:
                self._running.pop(item.number, None)
                self._ended.append(item)
                self._judge(item)
            else:
                self._running[item.number] = item

    def _judge(self, one: Trial) -> None:
        sign = -1 if self.study.goal == "maximize" else 1
        if one.state != "complete" or one.value is None:
            return
        if self._best is None or sign * one.value < sign * (self._best.value or 0.0):
            self._best = one
            self._curve.append((one.number, one.value))

    def _look_again(self) -> None:
        """What those that run have reported so far, which nobody is told of."""
        while not self._over.wait(_LOOK_S):
            try:
                found = list(self._client.studies.trials(self.study.id, state="running"))
                waits = [one for one in found if one.workload_state in ("queued", "preparing")]
                alone = waits and len(waits) == len(found)
                reason = self._client.why(waits[0].workload_id) if alone else None
            except (ClientError, OSError):
                continue  # who follows tells of it
            with self._lock:
                self._running |= {one.number: one for one in found if one.number in self._running}
                self._why = "" if reason is None else f"trial {waits[0].number} waits: {reason_words(reason)}"

    def _picture(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            trials = self._shown_trials()
            study = replace(self.study, spec=self._spec)
            lines = self._lines(study)
            titles, rows = study_show.table_of(study, trials)
            further = len(study_show.columns(study, trials)[1])
        shown: list[Any] = [Text(visible(line)) for line in lines]
        if rows:
            kept = study_show.fitted(titles, rows, self._width(), further)
            cells = [[row[at] for at in kept] for row in rows]
            shown += [Text(""), show.made_table([titles[at] for at in kept], cells)]
        return Group(*shown)

    def _width(self) -> int:
        return self._live.console.width if self._live is not None else 80

    def _lines(self, study: Study) -> list[str]:
        ran = show.took(study.started_at, None)
        words = f"{study.goal} {study.metric} by {study.algorithm}"
        lines = [f"{study.name}: {words}, {study.state}" + (f" for {ran}" if study.started_at else "")]
        left = study_show.left(study, study_show.average(self._ended))
        told = f"; about {format_duration(left)} left" if left else ""
        lines.append(f"{_bar(study)}{study_show.counts(study)}{told}")
        if self._best is not None:
            value = study_show.value(self._best.value)
            lines.append(
                f"best {study.metric}={value} by trial {self._best.number}: {study_show.values(self._best.params)}"
            )
        if course := study_show.sparkline(self._curve, study.first, study.asked):
            lines.append(course)
        why = study.message if study.state == "waiting" else self._why
        return [*lines, why] if why else lines

    def _shown_trials(self) -> list[Trial]:
        """Those that run, and of those that ended as many as there is room for."""
        live = [self._running[number] for number in sorted(self._running)]
        height = self._live.console.height if self._live is not None else 24
        room = max(3, height - _ROOM)
        live = live[:room]
        rest = room - len(live)
        return [*(list(self._ended)[-rest:] if rest else []), *live]


def _bar(study: Study) -> str:
    if not study.planned:
        return ""
    done = min(_BAR, _BAR * study.told // study.planned)
    return f"[{'#' * done}{'.' * (_BAR - done)}] "
