"""Workspaces and their members."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.people.tables import Workspace
from localml.core.people.workspaces import thing_of
from localml.dialects.kit import caller
from localml.dialects.native.schemas import people as schemas
from localml.platform import Platform

_MEMBERS = ("id", "name", "description", "owner", "personal", "everyone", "origin")
_TIMES = ("created_at", "updated_at", "deleted_at")


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_workspaces(api, platform)
    _add_members(api, platform)


def _add_workspaces(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/workspaces", responses={"200": schemas.WorkspacesOut})
    def list_workspaces() -> Any:
        """The workspaces that the caller sees."""
        return {"workspaces": [_shown(caller(), row) for row in platform.workspaces.visible(caller())]}

    @api.post("/workspaces", responses={"201": schemas.WorkspaceFull})
    def create(body: schemas.WorkspaceIn) -> Any:
        """Make a workspace, whose owner the caller is."""
        allow(caller(), Action.CREATE, Thing(ThingKind.WORKSPACE))
        made = platform.workspaces.create(caller(), body.name, description=body.description, everyone=body.everyone)
        return _full(platform, made.id), 201

    @api.get("/workspaces/<ref>", responses={"200": schemas.WorkspaceFull})
    def show(path: schemas.WorkspacePath) -> Any:
        """One workspace with its members, by id or name."""
        return _full(platform, _find(platform, path.ref, Action.READ))

    @api.patch("/workspaces/<ref>", responses={"200": schemas.WorkspaceFull})
    def change(path: schemas.WorkspacePath, body: schemas.WorkspaceChange) -> Any:
        """Change what is given; null for ``everyone`` closes the workspace to all but its members."""
        found = _find(platform, path.ref, Action.CHANGE)
        given = body.model_dump(exclude_unset=True)
        if "everyone" in given:
            _find(platform, found, Action.SHARE)
        platform.workspaces.change(found, **given)
        return _full(platform, found)

    @api.delete("/workspaces/<ref>", responses={"200": schemas.WorkspaceOut})
    def delete(path: schemas.WorkspacePath) -> Any:
        """Delete a workspace that nothing is in use in."""
        found = _find(platform, path.ref, Action.DELETE)
        return _shown(caller(), platform.workspaces.delete(found))


def _add_members(api: APIBlueprint, platform: Platform) -> None:
    @api.put("/workspaces/<ref>/members/<user>", responses={"200": schemas.WorkspaceFull})
    def set_member(path: schemas.MemberPath, body: schemas.MemberIn) -> Any:
        """Make a user a member, or change what it is there."""
        found = _find(platform, path.ref, Action.SHARE)
        platform.workspaces.set_member(found, path.user, body.role)
        return _full(platform, found)

    @api.delete("/workspaces/<ref>/members/<user>", responses={"200": schemas.WorkspaceFull})
    def remove_member(path: schemas.MemberPath) -> Any:
        """End a membership; everybody may leave."""
        leaves = path.user == caller().name
        if leaves:
            allow(caller(), Action.CHANGE, Thing.of_user(caller(), path.user))
        found = _find(platform, path.ref, Action.READ if leaves else Action.SHARE)
        answer = _full(platform, found)
        platform.workspaces.remove_member(found, path.user)
        return answer | {"members": [one for one in answer["members"] if one["user"] != path.user]}


def _find(platform: Platform, reference: str, action: Action) -> str:
    """The id of a workspace that the caller may do this to."""
    found = platform.workspaces.find(caller(), reference)
    allow(caller(), action, thing_of(found, reference))
    return found.id


def _full(platform: Platform, workspace: str) -> dict[str, Any]:
    # what the caller is may just have changed
    who = platform.identity.user(caller().name)
    members = [asdict(one) for one in platform.workspaces.members(workspace)]
    return {**_shown(who, platform.workspaces.get(workspace)), "members": members}


def _shown(who: Caller, row: Workspace) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in (*_MEMBERS, *_TIMES)},
        "role": who.roles.get(row.id),
    }
