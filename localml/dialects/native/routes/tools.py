"""Notebooks and TensorBoards. They are stopped and deleted as workloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people.allow import Thing, allow, may, places, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, Noun
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import TERMINAL, Kind
from localml.core.work.tools import Notebook, Tensorboard
from localml.core.work.workloads import Full, Query, Submission
from localml.dialects.kit import caller
from localml.dialects.kit.addresses import access_of
from localml.dialects.native.auth import find, workspace_for
from localml.dialects.native.schemas import tools as tool_schemas
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import work as translate
from localml.dialects.native.translate.names import friendly
from localml.platform import Platform

DIALECT = "native"


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_notebooks(api, platform)
    _add_tensorboards(api, platform)


def _add_notebooks(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/notebooks", responses={"201": tool_schemas.ToolOut})
    def start_notebook(body: tool_schemas.NotebookIn) -> Any:
        """Start a JupyterLab, in place of an ended one of that name."""
        who, name = caller(), body.name or friendly()
        wanted = Notebook(
            workspace=body.workspace or name,
            token=body.token,
            image=body.image,
            command=tuple(body.command),
            resources=body.resources,
            env=body.env,
            mounts=tuple(body.mounts),
            idle_limit=body.idle_limit,
            time_limit=body.time_limit,
            priority=body.priority,
        )
        spec = platform.tools.notebook(who.name, wanted)
        given = {"workspace": wanted.workspace}
        return _shown(platform, who, _submit(platform, who, Kind.NOTEBOOK, name, spec, body.pool, given)), 201

    @api.get("/notebooks", responses={"200": tool_schemas.ToolsOut})
    def list_notebooks() -> Any:
        """All notebooks."""
        return {"tools": _list(platform, caller(), Kind.NOTEBOOK)}

    @api.get("/notebooks/<ref>", responses={"200": tool_schemas.ToolFull})
    def show_notebook(path: schemas.Reference) -> Any:
        """A notebook, with what its kernels do."""
        found = _find(platform, caller(), path.ref, Kind.NOTEBOOK)
        activity = _activity(platform, found)
        return {**_shown(platform, caller(), found), "ready": activity is not None, "activity": activity}


def _add_tensorboards(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/tensorboards", responses={"201": tool_schemas.ToolOut})
    def start_tensorboard(body: tool_schemas.TensorboardIn) -> Any:
        """Start a TensorBoard, in place of an ended one of that name."""
        who, name = caller(), body.name or friendly()
        folder = platform.buckets.path(body.logdir, field="logdir").relative_to(platform.buckets.root)
        wanted = Tensorboard(
            folder=folder.as_posix(),
            token=body.token,
            image=body.image,
            command=tuple(body.command),
            resources=body.resources,
            idle_limit=body.idle_limit,
            time_limit=body.time_limit,
            priority=body.priority,
        )
        spec = platform.tools.tensorboard(who.name, wanted)
        given = {"logdir": body.logdir}
        return _shown(platform, who, _submit(platform, who, Kind.TENSORBOARD, name, spec, body.pool, given)), 201

    @api.get("/tensorboards", responses={"200": tool_schemas.ToolsOut})
    def list_tensorboards() -> Any:
        """All TensorBoards."""
        return {"tools": _list(platform, caller(), Kind.TENSORBOARD)}

    @api.get("/tensorboards/<ref>", responses={"200": tool_schemas.ToolFull})
    def show_tensorboard(path: schemas.Reference) -> Any:
        """A TensorBoard, and whether it answers."""
        found = _find(platform, caller(), path.ref, Kind.TENSORBOARD)
        ready = platform.idle.answers(found)
        activity = _use(platform, found) if ready else None
        return {**_shown(platform, caller(), found), "ready": ready, "activity": activity}


def _submit(
    platform: Platform, who: Caller, kind: Kind, name: str, spec: WorkloadSpec, pool: str, given: dict[str, str]
) -> Full:
    place = workspace_for(platform, who, None, Noun.WORKLOAD)
    allow(who, Action.USE, Thing(Noun.POOL, pool, pool))
    old = platform.workloads.find(dialect=DIALECT, kind=kind, name=name, workspace=place)
    over = old is not None and old.row.state in TERMINAL and may(who, Action.DELETE, Thing.of(Noun.WORKLOAD, old.row))
    number = platform.workloads.submit(
        Submission(
            name=name,
            spec=spec,
            caller=who,
            dialect=DIALECT,
            kind=kind,
            pool=pool,
            workspace=place,
            request=given,
            replaces=old.row.id if old is not None and over else None,
        )
    )
    return platform.workloads.get(number)


def _list(platform: Platform, who: Caller, kind: Kind) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = Query(kinds=(kind,), workspaces=reach(who, Noun.WORKLOAD), limit=500, after=cursor)
        page = platform.workloads.page(query)
        found += [_shown(platform, who, platform.workloads.get(row.id or 0)) for row in page.items]
        cursor = page.cursor
        if cursor is None:
            return found


def _find(platform: Platform, who: Caller, reference: str, kind: Kind) -> Full:
    if not (reference.isascii() and reference.isdigit()):
        query = Query(kinds=(kind,), name=reference, workspaces=places(who))
        rows = platform.workloads.page(query).items
        if not who.admin:
            rows = [row for row in rows if row.workspace == who.workspace] or rows
        if len(rows) > 1:
            words = " and ".join(f"{row.id} ({row.dialect}, {row.owner})" for row in rows)
            raise LocalmlError(Code.CONFLICT, f"several are named '{reference}'; say which by id: {words}")
        if not rows:
            raise not_found(kind, reference)
        reference = str(rows[0].id)
    found = find(platform, who, reference)
    if found.row.kind is not kind:
        raise not_found(kind, reference)
    return found


def _shown(platform: Platform, who: Caller, found: Full) -> dict[str, Any]:
    access = access_of(found)
    owns = may(who, Action.ENTER, Thing.of(Noun.WORKLOAD, found.row))
    request = found.request if isinstance(found.request, dict) else {}
    return {
        **translate.workload(found.row),
        "source": str(request.get("workspace") or request.get("logdir") or found.row.name),
        "token": access.token if owns else None,
        "url": access.url if owns else access.base,
        "base_url": access.base,
        "idle_limit": found.spec.idle_limit,
        "time_limit": found.spec.time_limit,
    }


def _activity(platform: Platform, found: Full) -> dict[str, Any] | None:
    """What a notebook does; None while it does not answer."""
    with _quiet(), platform.idle.jupyter(found) as jupyter:
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
