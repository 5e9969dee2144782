"""Notebooks and TensorBoards: create, start, stop, restart, change, delete, list, show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core import subjects
from localml.core.errors import Code, LocalmlError, not_found
from localml.core.instances.instances import Change, InstanceFull
from localml.core.instances.tools import Notebook, Tensorboard
from localml.core.numerals import whole
from localml.core.people.allow import Thing, allow, may, places, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import TERMINAL, Kind
from localml.core.work.workloads import Full, Submission
from localml.dialects.kit import caller
from localml.dialects.kit.addresses import access_of
from localml.dialects.kit.held import hold_until, waited_for
from localml.dialects.kit.pools import use_pool
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import workspace_for
from localml.dialects.native.schemas import tools as tool_schemas
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import work as translate
from localml.dialects.native.translate.names import friendly
from localml.objects import BucketsFor
from localml.platform import Platform

DIALECT = "native"
_Settings = tool_schemas.NotebookChange | tool_schemas.TensorboardChange
_New = tool_schemas.NotebookIn | tool_schemas.TensorboardIn
_REMAINS_S = 5.0  # that a start waits for the removal of the run before
_SOURCES = ("folder", "workspace", "logdir")  # the second in requests of earlier versions
_INWARD = frozenset({"token", "image", "command", "env", "mounts", "folder"})
"""Settings that decide who gets in, and what runs with its owner's token and files."""


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_notebooks(api, platform)
    _add_tensorboards(api, platform)
    _add_wishes(api, platform, Kind.NOTEBOOK)
    _add_wishes(api, platform, Kind.TENSORBOARD)


def _add_notebooks(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/notebooks", responses={"201": tool_schemas.ToolOut})
    def start_notebook(body: tool_schemas.NotebookIn) -> Any:
        """Start a JupyterLab: a new one, or a stopped one of that name, with the settings that are given."""
        return _begun(platform, lambda: _start(platform, caller(), Kind.NOTEBOOK, body), 201)

    @api.patch("/notebooks/<ref>", responses={"200": tool_schemas.ToolOut})
    def change_notebook(path: schemas.Reference, body: tool_schemas.NotebookChange) -> Any:
        """Change settings; one that runs has them after its next start."""
        return _changed(platform, path.ref, Kind.NOTEBOOK, body)

    @api.get("/notebooks", responses={"200": tool_schemas.ToolsOut})
    def list_notebooks() -> Any:
        """All notebooks."""
        return {"tools": _list(platform, caller(), Kind.NOTEBOOK)}

    @api.get("/notebooks/<ref>", responses={"200": tool_schemas.ToolFull})
    @slow
    def show_notebook(path: schemas.Reference) -> Any:
        """A notebook, with what its kernels do."""
        found = _find(platform, caller(), path.ref, Kind.NOTEBOOK)
        activity = _activity(platform, found.run)
        return {**_shown(platform, caller(), found), "ready": activity is not None, "activity": activity}


def _add_tensorboards(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/tensorboards", responses={"201": tool_schemas.ToolOut})
    def start_tensorboard(body: tool_schemas.TensorboardIn) -> Any:
        """Start a TensorBoard: a new one, or a stopped one of that name, with the settings that are given."""
        return _begun(platform, lambda: _start(platform, caller(), Kind.TENSORBOARD, body), 201)

    @api.patch("/tensorboards/<ref>", responses={"200": tool_schemas.ToolOut})
    def change_tensorboard(path: schemas.Reference, body: tool_schemas.TensorboardChange) -> Any:
        """Change settings; one that runs has them after its next start."""
        return _changed(platform, path.ref, Kind.TENSORBOARD, body)

    @api.get("/tensorboards", responses={"200": tool_schemas.ToolsOut})
    def list_tensorboards() -> Any:
        """All TensorBoards."""
        return {"tools": _list(platform, caller(), Kind.TENSORBOARD)}

    @api.get("/tensorboards/<ref>", responses={"200": tool_schemas.ToolFull})
    @slow
    def show_tensorboard(path: schemas.Reference) -> Any:
        """A TensorBoard, and whether it answers."""
        found = _find(platform, caller(), path.ref, Kind.TENSORBOARD)
        ready = platform.idle.answers(found.run)
        activity = _use(platform, found.run) if ready else None
        return {**_shown(platform, caller(), found), "ready": ready, "activity": activity}


def _add_wishes(api: APIBlueprint, platform: Platform, kind: Kind) -> None:
    base = f"/{kind}s/<ref>"
    out: Any = {"200": tool_schemas.ToolOut}

    def number(reference: str, action: Action = Action.STOP) -> int:
        return _find(platform, caller(), reference, kind, action).row.id or 0

    @api.post(f"{base}/start", endpoint=f"start_this_{kind}", responses=out)
    def start(path: schemas.Reference) -> Any:
        """Start it again as it was; one that runs goes on. Its name, token and files stay, its port if it is free."""
        return _begun(platform, lambda: platform.instances.start(number(path.ref), caller()))

    @api.post(f"{base}/stop", endpoint=f"stop_this_{kind}", responses=out)
    def stop(path: schemas.Reference) -> Any:
        """Stop it; it can be started again."""
        return _shown(platform, caller(), platform.instances.stop(number(path.ref), caller()))

    @api.post(f"{base}/restart", endpoint=f"restart_this_{kind}", responses=out)
    def restart(path: schemas.Reference) -> Any:
        """Stop it if it runs, and start it again."""
        return _shown(platform, caller(), platform.instances.restart(number(path.ref), caller()))

    @api.get(f"{base}/events", endpoint=f"events_of_{kind}", responses={"200": schemas.EventsOut})
    def events(path: schemas.Reference, query: schemas.EventQuery) -> Any:
        """What was asked of it, oldest first; what its runs did is told by their own events."""
        found = platform.instances.events(number(path.ref, Action.READ), after=query.after, limit=query.limit)
        after = found[-1].id if found else query.after
        return {"events": [translate.event(one) for one in found], "after": after}

    @api.delete(base, endpoint=f"delete_{kind}", responses=out)
    def delete(path: schemas.Reference) -> Any:
        """Stop it if it runs, and forget its name; a notebook's files stay."""
        return _shown(platform, caller(), platform.instances.delete(number(path.ref, Action.DELETE), caller()))


def _start(platform: Platform, who: Caller, kind: Kind, body: _New) -> InstanceFull:
    name = body.name or friendly()
    place = workspace_for(platform, who, body.workspace, ThingKind.WORKLOAD)
    use_pool(platform, who, body.pool)
    found = platform.instances.list(kinds=(kind,), dialect=DIALECT, workspaces={place}, name=name)
    old = next(iter(found), None)
    if old is not None and not old.live and may(who, Action.CHANGE, Thing.of(ThingKind.WORKLOAD, old.row)):
        change = _change(platform, old, body) if body.model_fields_set - {"name", "workspace"} else None
        return platform.instances.start(old.row.id or 0, who, change)
    if isinstance(body, tool_schemas.NotebookChange):
        spec = platform.tools.notebook(who.id, _notebook(body, Notebook(folder=name)))
        source = {"folder": body.folder or name}
    else:
        board = _tensorboard(platform.buckets_for(who, place), body, Tensorboard(""))
        spec = platform.tools.tensorboard(who.id, board)
        source = {"logdir": body.logdir or ""}
    return platform.instances.create(
        Submission(name, spec, who, DIALECT, kind, workspace=place, pool=body.pool, request=source)
    )


def _begun(platform: Platform, start: Callable[[], InstanceFull], status: int = 200) -> Any:
    """Answer a start with the run that it gave, once what is left of the one before is gone: a moment later."""
    waited = waited_for()
    found = start() if waited is None else platform.instances.get(waited)
    if waited is None and found.pending and found.run.row.state in TERMINAL:
        about = subjects.Subject(subjects.Noun.INSTANCE, found.row.id or 0)
        held = hold_until(platform.feed, about, lambda: not platform.instances.get(about.id).pending, _REMAINS_S)
        if held is not None:
            return held
        found = platform.instances.get(about.id)
    return _shown(platform, caller(), found), status


def _changed(platform: Platform, reference: str, kind: Kind, body: _Settings) -> dict[str, Any]:
    found = _find(platform, caller(), reference, kind, Action.CHANGE)
    if "pool" in body.model_fields_set:
        use_pool(platform, caller(), body.pool)
    change = _change(platform, found, body)
    return _shown(platform, caller(), platform.instances.modify(found.row.id or 0, caller(), change))


def _change(platform: Platform, found: InstanceFull, body: _Settings) -> Change:
    """What a request changes of the settings that there are.

    Raises:
        LocalmlError: ``FORBIDDEN`` for a setting that would let somebody in who may not enter.
    """
    if body.model_fields_set & _INWARD:
        allow(caller(), Action.ENTER, Thing.of(ThingKind.WORKLOAD, found.row))
    owner, request = found.row.owner_id, dict(found.row.request or {})
    spec: WorkloadSpec
    if isinstance(body, tool_schemas.NotebookChange):
        notebook = _notebook(body, platform.tools.notebook_of(owner, found.spec))
        spec, source = platform.tools.notebook(owner, notebook), {"folder": notebook.folder}
    else:
        view = platform.buckets_for(caller(), found.row.workspace)
        board = _tensorboard(view, body, platform.tools.tensorboard_of(owner, found.spec))
        spec, source = platform.tools.tensorboard(owner, board), {"logdir": body.logdir} if body.logdir else {}
    return Change(spec, request | source, body.pool if "pool" in body.model_fields_set else None)


def _notebook(body: tool_schemas.NotebookChange, base: Notebook) -> Notebook:
    given = _given(body, base)
    if body.folder is None:
        given.pop("folder", None)
    return replace(base, **given)


def _tensorboard(view: BucketsFor, body: tool_schemas.TensorboardChange, base: Tensorboard) -> Tensorboard:
    given = _given(body, base)
    if body.logdir is not None:
        given["folder"] = view.place(body.logdir, field="logdir")
    return replace(base, **given)


def _given(body: _Settings, base: Notebook | Tensorboard) -> dict[str, Any]:
    """The members of a request that are settings, and of resources only those that were given."""
    known = {one.name for one in fields(base)}
    found = {name: getattr(body, name) for name in body.model_fields_set & known}
    if found.get("token", "") is None:  # the one that there is, or a new one
        del found["token"]
    if "resources" in found:
        asked = {name: getattr(body.resources, name) for name in body.resources.model_fields_set}
        found["resources"] = base.resources.model_copy(update=asked)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def _list(platform: Platform, who: Caller, kind: Kind) -> list[dict[str, Any]]:
    found = platform.instances.list(kinds=(kind,), workspaces=reach(who, ThingKind.WORKLOAD))
    return [_shown(platform, who, one) for one in found]


def _find(platform: Platform, who: Caller, reference: str, kind: Kind, action: Action = Action.READ) -> InstanceFull:
    found = platform.instances.list(kinds=(kind,), workspaces=places(who), name=reference)
    if not found and (number := whole(reference)) is not None:
        found = [one for one in platform.instances.list(kinds=(kind,)) if number in (one.row.id, one.row.workload_id)]
    found = [one for one in found if may(who, Action.READ, Thing.of(ThingKind.WORKLOAD, one.row))]
    if not who.admin:
        found = [one for one in found if one.row.workspace == who.workspace] or found
    if not found:
        raise not_found(kind, reference)
    if len(found) > 1:
        words = " and ".join(f"{one.row.id} ({one.row.dialect}, {one.row.owner})" for one in found)
        raise LocalmlError(Code.CONFLICT, f"several are named '{reference}'; say which by id: {words}")
    allow(who, action, Thing.of(ThingKind.WORKLOAD, found[0].row, reference))
    return found[0]


def _shown(platform: Platform, who: Caller, found: InstanceFull) -> dict[str, Any]:
    access, row, spec = access_of(found.run), found.row, found.run.spec if found.live else found.spec
    owns = may(who, Action.ENTER, Thing.of(ThingKind.WORKLOAD, row))
    request = row.request if isinstance(row.request, dict) else {}
    return {
        **translate.workload(found.run.row),
        "id": row.id,
        "workload_id": row.workload_id,
        "run": row.run,
        "pending": found.pending,
        "state": found.state,
        "message": found.message,
        "created_at": row.created_at,
        "source": str(next((request[name] for name in _SOURCES if request.get(name)), row.name)),
        "token": access.token if owns else None,
        "url": access.url if owns else access.base,
        "base_url": access.base,
        "idle_limit": spec.idle_limit,
        "time_limit": spec.time_limit,
    }


def _activity(platform: Platform, found: Full) -> dict[str, Any] | None:
    """What a notebook does; None while it does not answer."""
    with _quiet():
        jupyter = platform.idle.jupyter(found)
        activity, usage = jupyter.activity(), jupyter.usage()
        kernels = [asdict(one) for one in activity.kernels]
        return {"kernels": kernels, **asdict(usage), "idle_for": platform.idle.idle_for(activity)}
    return None


def _use(platform: Platform, found: Full) -> dict[str, Any] | None:
    """When a TensorBoard was used; None for one that does not tell."""
    with _quiet():
        use = platform.idle.look(found)
        if use is not None:
            nothing = {"memory": None, "memory_limit": None, "cpu_percent": None}
            return {"kernels": [], **nothing, "idle_for": platform.idle.idle_for(use)}
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """What does not run or answer now has nothing to tell."""
    try:
        yield
    except LocalmlError as error:
        if error.code not in (Code.WRONG_STATE, Code.UNAVAILABLE):
            raise
