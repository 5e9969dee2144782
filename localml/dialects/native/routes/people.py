"""Users with their passwords and tokens."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.revocation import Ended
from localml.core.people.rights import Action, ThingKind
from localml.core.people.scopes import Scope
from localml.core.people.tokens import TokenInfo
from localml.dialects.kit import caller
from localml.dialects.native.auth import find, find_endpoint
from localml.dialects.native.schemas import people as schemas
from localml.platform import Platform


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_users(api, platform)
    _add_tokens(api, platform)
    _add_keys(api, platform)


def _add_users(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/users")
    def list_users() -> Any:
        """All users."""
        allow(caller(), Action.ADMINISTER, Thing(ThingKind.USER))
        return {"users": [_user(one) for one in platform.identity.users()]}

    @api.post("/users")
    def create_user(body: schemas.UserIn) -> Any:
        """Add a user with a workspace of its own; the answer holds a token and a key pair, which are shown once."""
        allow(caller(), Action.CREATE, Thing(ThingKind.USER))
        made = platform.identity.create_user(body.name, body.password, admin=body.admin, org=body.org, by=caller())
        access, secret = platform.identity.create_key(made)
        token = platform.identity.create_token(made)
        return {**_user(made), "access_key": access, "secret_key": secret, "token": token}, 201

    @api.delete("/users/<name>")
    def remove_user(path: schemas.UserPath) -> Any:
        """Remove a user with its keys and tokens; its jobs go on, its notebooks and TensorBoards are stopped."""
        allow(caller(), Action.DELETE, Thing.of_user(caller(), path.name))
        platform.identity.remove_user(path.name, by=caller())
        return {"name": path.name}

    @api.put("/users/<name>/password", responses={"200": schemas.EndedOut})
    def set_password(path: schemas.UserPath, body: schemas.PasswordIn) -> Any:
        """Change a password; everybody may change their own. All else that the user gets in with ends: tokens, keys,
        sessions and what is followed. Who changes the own one finds a new token in the answer."""
        allow(caller(), Action.CHANGE, Thing.of_user(caller(), path.name))
        return _ended(platform, path.name, platform.identity.set_password(path.name, body.password, by=caller()))

    @api.delete("/users/<name>/credentials", responses={"200": schemas.EndedOut})
    def end_credentials(path: schemas.UserPath) -> Any:
        """End all that a user gets in with but the password; answers as a change of that."""
        allow(caller(), Action.CHANGE, Thing.of_user(caller(), path.name))
        return _ended(platform, path.name, platform.identity.end_credentials(path.name, by=caller()))


def _add_tokens(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/users/<name>/tokens", responses={"200": schemas.TokensOut})
    def list_tokens(path: schemas.UserPath) -> Any:
        """A user's tokens; everybody may list their own."""
        allow(caller(), Action.READ, Thing.of_user(caller(), path.name, ThingKind.TOKEN))
        return {"tokens": [_token(one) for one in platform.tokens.of(path.name)]}

    @api.post("/users/<name>/tokens", responses={"201": schemas.NewTokenOut})
    def create_token(path: schemas.UserPath, body: schemas.TokenIn) -> Any:
        """A new token for a user, which is shown this once; everybody may make their own."""
        allow(caller(), Action.CREATE, Thing.of_user(caller(), path.name, ThingKind.TOKEN))
        owner = platform.identity.user(path.name)
        scope = _scope(platform, owner, body)
        token = platform.identity.create_token(owner, name=body.name, lifetime=body.lifetime, scope=scope, by=caller())
        return {**_token(platform.tokens.find(token)), "user": owner.name, "token": token}, 201

    @api.delete("/users/<name>/tokens/<token>", responses={"200": schemas.TokenOut})
    def revoke_token(path: schemas.TokenPath) -> Any:
        """End a token, by id or name; everybody may end their own."""
        allow(caller(), Action.DELETE, Thing.of_user(caller(), path.name, ThingKind.TOKEN))
        return _token(platform.tokens.revoke(path.name, path.token))


def _add_keys(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/users/<name>/keys", responses={"200": schemas.KeysOut})
    def list_keys(path: schemas.UserPath) -> Any:
        """A user's key pairs, without their secrets; everybody may list their own."""
        allow(caller(), Action.READ, Thing.of_user(caller(), path.name, ThingKind.TOKEN))
        return {"keys": [asdict(one) for one in platform.keys.of(path.name)]}

    @api.post("/users/<name>/keys", responses={"201": schemas.NewKeyOut})
    def create_key(path: schemas.UserPath, body: schemas.KeyIn) -> Any:
        """A new key pair for a user, whose secret is shown this once; everybody may make their own."""
        allow(caller(), Action.CREATE, Thing.of_user(caller(), path.name, ThingKind.TOKEN))
        owner = platform.identity.user(path.name)
        access, secret = platform.identity.create_key(owner, name=body.name, by=caller())
        shown = {"user": owner.name, "access_key": access, "secret_key": secret}
        return {**asdict(platform.keys.find(access)), **shown}, 201

    @api.delete("/users/<name>/keys/<key>", responses={"200": schemas.KeyOut})
    def revoke_key(path: schemas.KeyPath) -> Any:
        """End a key pair, by access key or name; everybody may end their own."""
        allow(caller(), Action.DELETE, Thing.of_user(caller(), path.name, ThingKind.TOKEN))
        return asdict(platform.keys.revoke(path.name, path.key))


def _ended(platform: Platform, name: str, ended: Ended) -> dict[str, Any]:
    """What ended, and a token for who has ended its own."""
    who = caller()
    own = who.name == name
    mine = replace(who, generation=who.generation + 1)  # of this end, and not of one that followed at once
    token = platform.identity.create_token(mine) if own else None
    return {"name": name, "ended": asdict(ended), "token": token}


def _user(one: Caller) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("id", "name", "admin", "workspace", "org")}


def _token(one: TokenInfo) -> dict[str, Any]:
    return {**asdict(one), "scope": one.scope.as_json()}


def _scope(platform: Platform, owner: Caller, body: schemas.TokenIn) -> Scope:
    """The scope that was asked for, with ids for names of what the token's owner sees."""
    workspace = None if body.workspace is None else platform.workspaces.find(owner, body.workspace).id
    scope = Scope.of(body.scope, workspace=workspace, thing=body.thing)
    if scope.thing is None:
        return scope
    noun, reference = scope.thing
    if noun is ThingKind.WORKLOAD:
        reference = str(find(platform, owner, reference).row.id)
    elif noun is ThingKind.ENDPOINT:
        reference = str(find_endpoint(platform, owner, reference).row.id)
    return Scope(scope.rights, workspace, (noun, reference))
