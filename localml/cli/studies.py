"""Studies: list, show, their trials, export, follow, start over; the algorithms that there are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from localml.cli import show, study_show
from localml.cli.common import Data, Json, Within, as_dict, command, connect, print_json
from localml.cli.completion import complete_users, words
from localml.cli.help import STUDIES, with_example
from localml.cli.names import STUDY, completer
from localml.core.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localml.client import Client, Study, Trial

LIVE = ("waiting", "running", "stopping")
STATES = (*LIVE, "complete", "failed", "stopped")
_TRIAL_STATES = ("running", "complete", "pruned", "failed", "stopped")
_LAST = 10

StudyName = Annotated[str, typer.Argument(help="Name or id.", autocompletion=completer(STUDY), show_default=False)]


class _ByName(TyperGroup):
    """``localml study NAME`` is short for ``localml study show NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["show", *args]
        return super().resolve_command(ctx, args)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("studies", help=with_example(studies, "localml studies --all"), rich_help_panel=STUDIES)(studies)
    app.command(rich_help_panel=STUDIES)(algorithms)
    group = typer.Typer(
        name="study",
        cls=_ByName,
        help="One study: what it found, its trials, all of it as a file.",
        no_args_is_help=True,
        subcommand_metavar="NAME | COMMAND",
    )
    for name, function in (("show", show_study), ("trials", trials), ("export", export), ("follow", follow)):
        group.command(name)(function)
    group.command("stop")(stop_study)
    group.command("restart")(restart)
    group.command("list", help=with_example(studies, "localml study list"))(studies)
    app.add_typer(group, rich_help_panel=STUDIES)


def find(client: Client, name: str) -> int:
    """The study of that name; ``study/NAME`` is one, too, and so is its id."""
    return client.resolve(name if "/" in name else f"{STUDY}/{name}", [STUDY]).id


@command
def studies(
    all_states: Annotated[bool, typer.Option("--all", "-a", help="Those that are over, too.")] = False,
    state: Annotated[
        list[str], typer.Option(help="Only in this state; may be repeated.", autocompletion=words(*STATES))
    ] = [],  # noqa: B006
    contains: Annotated[str | None, typer.Option(help="Only names with this in them.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this user's.", autocompletion=complete_users)] = None,
    workspace: Within = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 50,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List studies: those that are not over, or all."""
    states = state or ([] if all_states else list(LIVE))
    with connect(data) as client:
        page = client.studies.list(state=states, contains=contains, owner=owner, workspace=workspace, limit=limit)
    if as_json:
        print_json({"studies": as_dict(page.studies), "next": page.next})
        return
    rows = [
        (
            one.id,
            one.name,
            study_show.state(one.state),
            f"{one.told}/{one.planned}" if one.planned is not None else one.told,
            one.running or "-",
            one.failed or "-",
            study_show.best(one) or "-",
            one.algorithm,
            one.owner,
            show.ago(one.created_at),
            show.took(one.started_at, one.ended_at),
        )
        for one in page.studies
    ]
    titles = ("ID", "NAME", "STATE", "TRIALS", "RUNNING", "FAILED", "BEST", "ALGORITHM", "OWNER", "CREATED", "RAN")
    empty = "No studies." if all_states or state else "No study runs; 'localml studies -a' shows what is over."
    show.table(*titles, rows=rows, empty=empty)
    if page.next:
        typer.secho(f"There are more than {limit}; see --limit.", dim=True, err=True)


@command
def show_study(
    name: StudyName,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Everything about a study, and its last trials.

    Example: localml study show NAME
    """
    with connect(data) as client:
        print_one(client, find(client, name), as_json=as_json)


def print_one(client: Client, number: int, *, as_json: bool) -> None:
    """A study by its id."""
    one = client.studies.get(number)
    if as_json:
        print_json(as_dict(one))
    else:
        after = max(0, one.asked - _LAST)
        study_show.print_study(client, one, list(client.studies.trials(number, after=after)))


@command
def trials(
    name: StudyName,
    best: Annotated[bool, typer.Option("--best", help="By value, the best first.")] = False,
    state: Annotated[
        list[str], typer.Option(help="Only in this state; may be repeated.", autocompletion=words(*_TRIAL_STATES))
    ] = [],  # noqa: B006
    run: Annotated[
        int | None, typer.Option(help="Of this run, where it was started over; 0 for all. [default: the newest]")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most: the last ones, or the best.")] = 50,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List the trials of a study.

    Example: localml study trials NAME --best -n 5
    """
    with connect(data) as client:
        number = find(client, name)
        one = client.studies.get(number)
        found = list(client.studies.trials(number, state=state, run=run))
    shown = _best(one, found)[:limit] if best else found[-limit:] if limit > 0 else []
    if as_json:
        print_json({"study": one.name, "trials": as_dict(shown)})
        return
    study_show.print_trials(one, shown)
    if len(shown) < len(found):
        typer.secho(f"{len(found)} in all; see --limit.", dim=True, err=True)


def _best(study: Study, found: list[Trial]) -> list[Trial]:
    """Those with a value, the best first, and the others behind them."""
    valued = [one for one in found if one.value is not None]
    valued.sort(key=lambda one: one.value or 0.0, reverse=study.goal == "maximize")
    return [*valued, *(one for one in found if one.value is None)]


@command
def export(
    name: StudyName,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, a line for each trial; so by default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document, with what was searched.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Into this file. [default: standard output]")
    ] = None,
    run: Annotated[
        int | None, typer.Option(help="Of this run, where it was started over; 0 for all. [default: the newest]")
    ] = None,
    data: Data = None,
) -> None:
    """All trials of a study, for spreadsheets and programs.

    Example: localml study export NAME --csv -o trials.csv
    """
    if as_csv and as_json:
        raise invalid("--csv", "and --json exclude each other")
    with connect(data) as client:
        blocks = client.studies.export(find(client, name), format="json" if as_json else "csv", run=run)
        if output is None:
            _print(blocks)
        else:
            _write(blocks, output.expanduser())


def _print(blocks: Iterator[bytes]) -> None:
    from localml.cli.terminal import output_writer

    write = output_writer(sys.stdout)
    for block in blocks:
        write(block)
    sys.stdout.flush()


def _write(blocks: Iterator[bytes], path: Path) -> None:
    first = next(blocks, b"")  # before there is a file: a refusal leaves none
    with path.open("wb") as file:
        file.write(first)
        file.writelines(blocks)


@command
def follow(name: StudyName, data: Data = None, as_json: Json = False) -> None:
    """Show how a study goes, until it is over.

    Ctrl-C leaves it alone. Exits with 0 if it is complete and has a best trial.

    Example: localml study follow NAME
    """
    from localml.cli.study_live import follow_to_end

    with connect(data) as client:
        one = client.studies.get(find(client, name))
        raise typer.Exit(follow_to_end(client, one, data, as_json=as_json))


@command
def stop_study(
    name: StudyName,
    force: Annotated[bool, typer.Option("--force", help="Give its trials no time to end by themselves.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """End a study: nothing more is proposed, and its trials are stopped.

    Example: localml study stop NAME --force
    """
    with connect(data) as client:
        one = client.studies.stop(find(client, name), force=force)
    if as_json:
        print_json(as_dict(one))
    else:
        typer.echo(f"{one.name} {'asked to stop' if not one.ended else one.state}")


@command
def restart(name: StudyName, data: Data = None, as_json: Json = False) -> None:
    """Search once more from the beginning, when a study is over; 'localml tune --resume' goes on instead.

    Example: localml study restart NAME
    """
    with connect(data) as client:
        one = client.studies.restart(find(client, name))
    if as_json:
        print_json(as_dict(one))
    else:
        typer.echo(f"{one.name} starts over: run {one.run}")


@command
def algorithms(data: Data = None, as_json: Json = False) -> None:
    """Who can propose trials, and what each may be told.

    Example: localml algorithms
    """
    with connect(data) as client:
        found = client.studies.algorithms()
    if as_json:
        print_json({"algorithms": as_dict(list(found))})
        return
    rows: list[tuple[str, ...]] = []
    for one in found:
        rows.append((one.name, "", "", one.description or f"installed by {one.owner}"))
        rows += [("", param["name"], param["default"] or "-", param["description"]) for param in one.params]
    show.table("ALGORITHM", "PARAMETER", "DEFAULT", "DESCRIPTION", rows=rows, empty="There are none.")
