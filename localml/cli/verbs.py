"""What can be done to everything that has a name: show, why, events, stop, rm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import (
    WHICH,
    Data,
    Json,
    Name,
    SomeNames,
    as_dict,
    command,
    complete_names,
    connect,
    print_json,
)
from localml.cli.help import JOBS
from localml.cli.names import ENDPOINT, MODEL, RUNNING, STUDY, TOOLS, WORKLOADS
from localml.cli.several import Tried, each
from localml.cli.work import LIVE, is_study
from localml.client.errors import ClientError
from localml.client.studies import OVER
from localml.client.types import ENDED
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client, Endpoint, Event, ModelVersion, Study, Thing, Workload

    Stopped = Workload | Endpoint | Study

_MOST = 10_000


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (stop, rm, why, events):
        app.command(rich_help_panel=JOBS)(function)
    app.command("show", rich_help_panel=JOBS)(show_one)


@command
def show_one(
    name: Name,
    as_file: Annotated[bool, typer.Option("--as-file", help="As a job file, for 'localml run -f FILE'.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Everything about one thing.

    A job, notebook, TensorBoard, endpoint, replica, study, trial or model (model/NAME).

    Example: localml show NAME
    """
    with connect(data) as client:
        thing = client.resolve(name, WORKLOADS if as_file else ())
        if as_file:
            _print_file(client, client.get(thing.id), as_json=as_json)
        elif thing.kind == MODEL:
            _show_model(client.model(thing.name), as_json=as_json)
        elif thing.kind == ENDPOINT:
            show_endpoint(client, thing.id, as_json=as_json)
        elif thing.kind == STUDY:
            from localml.cli.studies import print_one

            print_one(client, thing.id, as_json=as_json)
        else:
            _show_workload(client.get(thing.id), as_json=as_json)


def _print_file(client: Client, found: Workload, *, as_json: bool) -> None:
    from localml.cli.job_file import dump, text_of

    shared = [one.name for one in client.people.workspaces() if one.id == found.workspace and not one.personal]
    members = dump(found, next(iter(shared), None))
    if as_json:
        print_json(members)
    else:
        typer.echo(text_of(members), nl=False)


def _show_workload(found: Workload, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(found))
        return
    from localml.cli.details import print_workload

    print_workload(found)


def _show_model(found: ModelVersion, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(found))
        return
    from localml.cli import serve_show

    serve_show.model(found)


def show_endpoint(client: Client, number: int, *, as_json: bool) -> None:
    """Everything about an endpoint."""
    one, happened = client.endpoint(number), client.endpoint_events(number)
    if as_json:
        print_json({**as_dict(one), "events": as_dict(happened)})
        return
    from localml.cli import serve_show

    serve_show.endpoint(one, happened)


@command
def why(name: Name, data: Data = None, as_json: Json = False) -> None:
    """Why something waits, or how it ended.

    Example: localml why NAME
    """
    with connect(data) as client:
        thing = client.resolve(name, RUNNING)
        if thing.kind == ENDPOINT:
            _why_endpoint(client, thing, as_json=as_json)
        elif thing.kind == STUDY:
            from localml.cli.study_output import print_why

            print_why(client, thing.id, as_json=as_json)
        else:
            _why_workload(client.get(thing.id), as_json=as_json)


def _why_workload(found: Workload, *, as_json: bool) -> None:
    if as_json:
        answer = {"name": found.name, "state": found.state, "why": as_dict(found.why), "cause": found.cause}
        print_json({**answer, "message": found.message, "help": found.help})
        return
    from localml.cli.details import explain

    for line in explain(found):
        typer.echo(line)


def _why_endpoint(client: Client, thing: Thing, *, as_json: bool) -> None:
    """How it is, and what those of its replicas that are not ready wait for."""
    from localml.cli.details import explain

    one = client.endpoint(thing.id)
    late = [at for variant in one.variants for at in variant["replicas"] if at["state"] != "ready"]
    replicas = [client.get(at["workload_id"]) for at in late]
    if as_json:
        words = [{"name": at.name, "state": at.state, "why": as_dict(at.why), "message": at.message} for at in replicas]
        print_json({"name": one.name, "state": one.state, "message": one.message, "replicas": words})
        return
    typer.echo(f"{one.name} is {one.state}" + (f": {one.message}" if one.message else ""))
    for variant in one.variants:
        if variant["message"] and variant["ended_at"] is None:
            typer.echo(f"{variant['name']} is {variant['state']}: {variant['message']}")
    same: dict[tuple[str, ...], list[str]] = {}
    for replica in replicas:
        same.setdefault(tuple(explain(replica)), []).append(replica.name)
    for lines, (first, *more) in same.items():
        for line in lines:
            typer.echo(f"{first}{f' and {len(more)} more' if more else ''}: {line}")


@command
def events(
    name: Annotated[
        str | None,
        typer.Argument(help=f"{WHICH} The platform when left out.", autocompletion=complete_names),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most, the newest ones.")] = 100,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What happened, to one thing or to the platform.

    Example: localml events NAME
    """
    with connect(data) as client:
        found = _happened(client, name)[-limit:]
    if as_json:
        print_json({"events": as_dict(found)})
        return
    rows = [(show.clock(one.at), one.severity, one.reason, one.replica or "-", one.message) for one in found]
    show.table("AT", "SEVERITY", "REASON", "REPLICA", "MESSAGE", rows=rows, empty="Nothing happened yet.")


def _happened(client: Client, name: str | None) -> list[Event]:
    if name is None:
        return client.events(limit=_MOST)
    thing = client.resolve(name, RUNNING)
    if thing.kind == STUDY:
        return list(client.studies.events(thing.id, limit=_MOST))
    return client.endpoint_events(thing.id) if thing.kind == ENDPOINT else client.events(thing.id, limit=_MOST)


@command
def stop(
    names: Annotated[list[str], typer.Argument(help=WHICH, autocompletion=complete_names)] = [],  # noqa: B006
    everything: Annotated[bool, typer.Option("--all", help="All of yours that wait or run, of whatever kind.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Stop jobs, notebooks, TensorBoards, endpoints or studies.

    Example: localml stop --wait NAME
    """
    if everything == bool(names):
        raise invalid("NAMES", "give names, or --all")
    over: set[tuple[bool, int]] = set()
    with connect(data) as client:

        def act(thing: Thing) -> Stopped:
            if thing.kind == ENDPOINT:
                return client.stop_endpoint(thing.id)
            if thing.state in (OVER if thing.kind == STUDY else ENDED):
                over.add((thing.kind == STUDY, thing.id))
            return client.studies.stop(thing.id) if thing.kind == STUDY else client.stop(thing.id)

        tried = each(_own(client) if everything else names, lambda name: _resolved(client, name, act))
        if wait:
            tried.done = [_ended(client, one) for one in tried.done]
    if everything and not tried.done and not tried.failed and not as_json:
        typer.echo("Nothing of yours waits or runs.")
    _answer(tried, lambda one: _stopped(one, over, wait=wait), as_json=as_json)


def _ended(client: Client, one: Stopped) -> Stopped:
    if is_study(one):
        return client.studies.wait(one.id)
    return client.wait_endpoint(one.id) if _is_endpoint(one) else client.wait(one.id)


def _resolved(client: Client, name: str, act: Callable[[Thing], Stopped], turns: int = 3) -> Stopped:
    """Do it to what has that name. Of a notebook or TensorBoard another run may begin meanwhile: then to that."""
    thing = client.resolve(name, RUNNING)
    try:
        return act(thing)
    except ClientError as error:
        if error.code != "wrong_state" or thing.kind not in TOOLS or turns <= 1:
            raise
        return _resolved(client, name, act, turns - 1)


def _stopped(one: Stopped, over: Collection[tuple[bool, int]], *, wait: bool) -> str:
    """What came of the wish that it stops."""
    if not _is_endpoint(one) and (is_study(one), one.id) in over:
        return f"has ended already: {one.state}"
    return one.state if wait else "asked to stop"


def _own(client: Client) -> Iterator[str]:
    """What of the caller's waits or runs. Endpoints and studies first: they would bring replicas and trials back."""
    me = client.people.me()
    for study in client.studies.all(owner=me, state=["waiting", "running"]):
        yield f"{STUDY}/{study.id}"
    for endpoint in client.endpoints():
        if endpoint.owner == me and endpoint.desired == "run":
            yield f"{ENDPOINT}/{endpoint.route}"
    for one in list(client.all(owner=me, state=list(LIVE))):
        if one.kind != "endpoint" and one.state != "stopping":
            yield f"id/{one.id}"


@command
def rm(names: SomeNames, data: Data = None, as_json: Json = False) -> None:
    """Remove jobs, notebooks, TensorBoards, endpoints or studies.

    They are stopped first. Output and events stay until 'localml prune'.

    Example: localml rm NAME endpoint/OTHER
    """
    with connect(data) as client:

        def act(thing: Thing) -> Stopped:
            if thing.kind == STUDY:
                return client.studies.delete(thing.id)
            return client.delete_endpoint(thing.id) if thing.kind == ENDPOINT else client.delete(thing.id)

        tried = each(names, lambda name: _resolved(client, name, act))
    _answer(tried, lambda _: "removed", as_json=as_json)


def _is_endpoint(one: Stopped) -> bool:
    from localml.client import Endpoint

    return isinstance(one, Endpoint)


def _answer(tried: Tried[Stopped], what: Callable[[Any], str], *, as_json: bool) -> None:
    if as_json:
        answer: dict[str, list[Any]] = {"workloads": []}
        for one in tried.done:
            kind = "studies" if is_study(one) else "endpoints" if _is_endpoint(one) else "workloads"
            answer.setdefault(kind, []).append(as_dict(one))
        print_json(answer | tried.members())
    else:
        for one in tried.done:
            typer.echo(f"{one.name} {what(one)}")
    tried.finish(as_json=as_json)
