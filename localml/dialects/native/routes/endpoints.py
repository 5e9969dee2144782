"""Endpoints: create, list, show, roll out, scale, stop, start, delete."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import invalid
from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.registry.files import ONNX
from localml.core.serving.endpoints import NewEndpoint
from localml.core.serving.records import EndpointFull, VariantFull
from localml.core.serving.specs import EndpointSpec, VariantSpec
from localml.core.serving.variants import NewVariant
from localml.core.subjects import Subject
from localml.dialects.kit import caller
from localml.dialects.kit.addresses import gateway_url
from localml.dialects.kit.held import hold_until, waited_for
from localml.dialects.kit.pools import use_pool
from localml.dialects.native.auth import find_endpoint, find_model, reached, workspace_for
from localml.dialects.native.schemas import serving as serving_schemas
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import serving as serving_translate
from localml.dialects.native.translate import work as translate
from localml.platform import Platform

_Out = serving_schemas.EndpointOut
_SETTINGS = ("resources", "env", "options", "image", "command")
"""What a rollout may change."""
_INWARD = frozenset({"env", "image", "command"})
"""Those that decide what runs in the endpoint's owner's name, with what that user may see."""


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_changes(api, platform)
    _add_wishes(api, platform)
    _add_questions(api, platform)


def _add_changes(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/endpoints", responses={"201": _Out})
    def create(body: serving_schemas.EndpointIn) -> Any:
        """Serve a model. It is recorded when this answers, and ready when its state says so."""
        made = platform.endpoints.create(_new(platform, caller(), body))
        return _shown(platform, made), 201

    @api.post("/endpoints/<ref>/rollout", responses={"200": _Out})
    def rollout(path: schemas.Reference, body: serving_schemas.RolloutIn) -> Any:
        """Bring up another version beside the ones that serve; it takes its share once it is ready."""
        who = caller()
        found = find_endpoint(platform, who, path.ref, Action.CHANGE)
        if body.model is None and body.image is None:
            raise invalid("model", "give a registered model, or an image")
        newest = _newest(found)
        version = newest.row.model_version_id if newest is not None else None
        if body.model is not None:
            version = find_model(platform, who, body.model).version.id
        given = {name: value for name in _SETTINGS if (value := getattr(body, name)) is not None}
        spec = (newest.spec if newest is not None else VariantSpec()).model_copy(update=given)
        _need_own(platform, found, given, spec, version)
        new = NewVariant(spec, version, body.weight, recreate=body.recreate)
        made = platform.endpoints.rollout(found.row.id or 0, who, new, keep_settings=not given)
        return _shown(platform, made)

    @api.put("/endpoints/<ref>/variants", responses={"200": _Out})
    def put_variants(path: schemas.Reference, body: serving_schemas.VariantsIn) -> Any:
        """Replace all versions at once: the new ones take over together once all of them are ready, or none does."""
        who = caller()
        found = find_endpoint(platform, who, path.ref, Action.CHANGE)
        new = [_member(platform, found, place, one, body.recreate) for place, one in enumerate(body.variants)]
        return _shown(platform, platform.endpoints.put_variants(found.row.id or 0, who, new))

    @api.post("/endpoints/<ref>/scale", responses={"200": _Out})
    def scale(path: schemas.Reference, body: serving_schemas.ScaleIn) -> Any:
        """Change how many replicas there are."""
        limits = body.model_dump(exclude={"replicas"})
        if body.replicas is not None:
            limits |= {"minimum": body.replicas, "maximum": body.replicas}
        number = find_endpoint(platform, caller(), path.ref, Action.CHANGE).row.id or 0
        return _shown(platform, platform.endpoints.set_scaling(number, caller(), **limits))


def _add_wishes(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/endpoints/<ref>/stop", responses={"200": _Out})
    def stop(path: schemas.Reference) -> Any:
        """Let the replicas finish and end; the endpoint can be started again."""
        number = find_endpoint(platform, caller(), path.ref, Action.STOP).row.id or 0
        return _shown(platform, platform.endpoints.stop(number, caller()))

    @api.post("/endpoints/<ref>/start", responses={"200": _Out})
    def start(path: schemas.Reference) -> Any:
        """Start a stopped endpoint again, or wake one that is asleep."""
        number = find_endpoint(platform, caller(), path.ref, Action.STOP).row.id or 0
        return _shown(platform, platform.endpoints.start(number, caller()))

    @api.delete("/endpoints/<ref>", responses={"200": _Out})
    def delete(path: schemas.Reference) -> Any:
        """Let the replicas finish and end, and forget the name."""
        number = find_endpoint(platform, caller(), path.ref, Action.DELETE).row.id or 0
        return _shown(platform, platform.endpoints.delete(number, caller()))


def _add_questions(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/endpoints", responses={"200": serving_schemas.EndpointsOut})
    def list_endpoints(query: serving_schemas.PlaceQuery) -> Any:
        """All endpoints, of all workspaces or of one."""
        found = platform.endpoints.list(reached(platform, caller(), ThingKind.ENDPOINT, query.workspace))
        return {"endpoints": [_shown(platform, one) for one in found]}

    @api.get("/endpoints/<ref>", responses={"200": _Out})
    def show(path: schemas.Reference) -> Any:
        """One endpoint, by name or id, with the versions that it had."""
        return _shown(platform, find_endpoint(platform, caller(), path.ref), history=True)

    @api.get("/endpoints/<ref>/wait", responses={"200": _Out})
    def wait(path: schemas.Reference, query: schemas.WaitQuery) -> Any:
        """Answer when nothing is under way any more, or at the time-out with what it is then."""
        number = waited_for() or find_endpoint(platform, caller(), path.ref).row.id or 0

        def settled() -> bool:
            return platform.endpoints.get(number).row.state not in serving_translate.UNSETTLED

        held = hold_until(platform.feed, Subject.endpoint(number), settled, query.timeout)
        return held or _shown(platform, platform.endpoints.get(number), history=True)

    @api.get("/endpoints/<ref>/events", responses={"200": schemas.EventsOut})
    def events(path: schemas.Reference, query: schemas.EventQuery) -> Any:
        """What happened to it, oldest first."""
        number = find_endpoint(platform, caller(), path.ref).row.id or 0
        found = platform.endpoints.events(number, after=query.after, limit=query.limit)
        after = found[-1].id if found else query.after
        return {"events": [translate.event(one) for one in found], "after": after}

    @api.get("/endpoints/<ref>/samples", responses={"200": serving_schemas.EndpointSamplesOut})
    def samples(path: schemas.Reference, query: serving_schemas.SinceQuery) -> Any:
        """Requests, errors and latencies of its versions over time."""
        number = find_endpoint(platform, caller(), path.ref).row.id or 0
        found = platform.endpoints.samples(number, since=query.since)
        variants = [
            {"variant": name, "samples": [serving_translate.sample(row) for row in rows]}
            for name, rows in found.items()
        ]
        return {"variants": variants}


def _shown(platform: Platform, found: EndpointFull, *, history: bool = False) -> dict[str, Any]:
    return serving_translate.endpoint(found, gateway_url(), history=history)


def _new(platform: Platform, who: Caller, body: serving_schemas.EndpointIn) -> NewEndpoint:
    if not body.model and not body.image:
        raise invalid("model", "give a registered model, or an image")
    workspace = workspace_for(platform, who, body.workspace, ThingKind.ENDPOINT)
    if body.public:
        allow(who, Action.SHARE, Thing(ThingKind.ENDPOINT, owner=who.id, workspace=workspace))
    use_pool(platform, who, body.pool)
    version = find_model(platform, who, body.model) if body.model else None
    name = body.name or (version.model.name if version is not None else "")
    if not name:
        raise invalid("name", "is needed for a custom image")
    if body.gateway_port is not None:
        platform.serving.need_free(body.gateway_port, "gateway_port", who)
    shared = ("image", "command", "port", "health_path", "resources", "env", "options")
    spec = VariantSpec.model_validate({key: getattr(body, key) for key in shared})
    settings = ("scaling", "public", "ready_timeout", "bake", "request_timeout", "max_concurrent", "gateway_port")
    return NewEndpoint(
        name=name,
        variants=(NewVariant(spec, version.version.id if version is not None else None),),
        caller=who,
        spec=EndpointSpec.model_validate({key: getattr(body, key) for key in settings}),
        pool=body.pool,
        workspace=workspace,
    )


def _member(
    platform: Platform, found: EndpointFull, place: int, body: serving_schemas.VariantIn, recreate: bool
) -> NewVariant:
    """One of the versions of a set."""
    named = next((one for one in found.live() if body.name and one.row.name == body.name), None)
    base = named or _newest(found)
    if body.model is not None:
        version = find_model(platform, caller(), body.model).version.id
        same = (one for one in found.live() if one.row.model_version_id == version)
        base = named or next(same, base)
    elif body.image is not None:
        version = base.row.model_version_id if base is not None else None
    elif named is not None:
        version = named.row.model_version_id
    else:
        words = "give a registered model, or an image, or the name of a version that serves"
        raise invalid(f"variants.{place}.model", words)
    given = {name: value for name in _SETTINGS if (value := getattr(body, name)) is not None}
    spec = (base.spec if base is not None else VariantSpec()).model_copy(update=given)
    _need_own(platform, found, given, spec, version)
    return NewVariant(spec, version, body.weight, body.name, recreate)


def _need_own(
    platform: Platform, found: EndpointFull, given: dict[str, Any], spec: VariantSpec, version: int | None
) -> None:
    """Refuse a version by which somebody who may not enter would run a program of one's own in the owner's name.

    What the owner's jobs wrote is not the owner's word: others may write where their output is, too.

    Raises:
        LocalmlError: ``FORBIDDEN``.
    """
    model = None if version is None else platform.registry.version(version).version
    known = {(one.row.model_version_id, one.spec.image) for one in found.variants}
    own = model is not None and model.owner_id == found.row.owner_id and model.workload_id is None  # see below
    trusted = model is None or own or (version, spec.image) in known
    is_data = model is not None and model.format == ONNX and not spec.image  # for a server of ours
    if given.keys() & _INWARD or "kernel" in given.get("options", {}) or not (trusted or is_data):
        allow(caller(), Action.ENTER, Thing.of(ThingKind.ENDPOINT, found.row))


def _newest(found: EndpointFull) -> VariantFull | None:
    """The newest version, one that serves if there is one."""
    return next(iter(found.live() or found.variants), None)
