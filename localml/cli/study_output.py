"""What the trials of a study wrote, together, and why they wait."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from localml.cli import INTERRUPTED
from localml.cli.common import as_dict, print_json
from localml.cli.details import explain
from localml.cli.marked import Marked
from localml.client.errors import ClientError
from localml.client.studies import Trial
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client, Study, Workload

_MOST = 20
"""Trials whose waiting is told."""


def print_logs(client: Client, number: int, query: dict[str, Any], *, follow: bool, raw: bool, as_json: bool) -> int:
    """What its trials wrote, each line marked with the trial; of those that run when they have ended, where it is
    followed. Returns the exit code.

    Args:
        query: as for a workload.
    """
    if "role" in query:
        raise invalid("--role", "a study has no roles; --index chooses one of its trials")
    shown = _Shown(client, query, raw=raw, as_json=as_json)
    if not follow:
        shown.whole(list(client.studies.trials(number)), client.studies.get(number).name)
        return 0
    try:
        for item in client.studies.follow(number):
            if isinstance(item, Trial) and item.ended:
                shown.add(item)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


class _Shown:
    """Output of trials, one after the other."""

    def __init__(self, client: Client, query: dict[str, Any], *, raw: bool, as_json: bool) -> None:
        self._client, self._query = client, query
        self._marked, self._as_json = Marked(raw=raw), as_json

    def whole(self, trials: list[Trial], name: str) -> None:
        """All of them as they are now."""
        if self._as_json:
            return print_json({"name": name, "text": "".join(map(self._text, trials))})
        for one in trials:
            self.add(one)
        if not trials:
            typer.echo(f"{name} has no trial yet", err=True)
        return None

    def add(self, one: Trial) -> None:
        """One of them, as it is now."""
        if self._as_json:
            typer.echo(json.dumps({"trial": one.number, "text": self._read(one)}))
            return
        self._marked.show(sys.stdout, _mark(one), self._read(one))
        self._marked.rest(lambda _: sys.stdout)
        sys.stdout.flush()

    def _read(self, one: Trial) -> str:
        try:
            return self._client.text(one.workload_id, **self._query)
        except ClientError as error:
            if error.code != "not_found":  # pruned
                raise
            return ""

    def _text(self, one: Trial) -> str:
        return "".join(f"[{_mark(one)}] {line}\n" for line in self._read(one).splitlines())


def _mark(one: Trial) -> str:
    return one.workload or f"trial {one.number}"


def print_why(client: Client, number: int, *, as_json: bool) -> None:
    """How a study is, and what those of its trials wait for that do."""
    one = client.studies.get(number)
    live = [] if one.ended else list(client.studies.trials(number, state="running"))[:_MOST]
    late = [client.get(trial.workload_id) for trial in live if trial.workload_state in ("queued", "preparing")]
    if as_json:
        words = [{"name": at.name, "state": at.state, "why": as_dict(at.why), "message": at.message} for at in late]
        print_json({"name": one.name, "state": one.state, "message": one.message, "trials": words})
        return
    typer.echo(f"{one.name} is {one.state}" + (f": {one.message}" if one.message else _words(one)))
    same: dict[tuple[str, ...], list[Workload]] = {}
    for trial in late:
        same.setdefault(tuple(explain(trial)), []).append(trial)
    for lines, (first, *more) in same.items():
        for line in lines:
            typer.echo(f"{first.name}{f' and {len(more)} more' if more else ''}: {line}")


def _words(one: Study) -> str:
    if one.state == "waiting":
        return ": its algorithm has not proposed anything yet"
    return f", {one.running} trial(s) at work" if not one.ended else ""
