"""What the vendor's command line (``dlicmd.py``) asks of the scheduler beyond the document."""

from __future__ import annotations

from typing import Any

from flask import Response

from localml.core.errors import not_found
from localml.core.people.allow import MACHINE, allow
from localml.core.people.rights import Action
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.seats import slow
from localml.dialects.wmla.document import SCHEME
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.routes.scheduler import array
from localml.dialects.wmla.schemas import scheduler as schemas
from localml.dialects.wmla.translate import applications, engine

api = Operations("wmla_engine", __name__, url_prefix=BASE, doc_ui=False, abp_security=[{SCHEME: []}])


@api.get("/scheduler/engine/applications")
@slow
def list_applications(query: schemas.EngineQuery) -> Response:
    """List applications in the engine's words"""
    wanted = applications.survey_of(platform(), caller(), engine.in_the_documents_words(query))
    found = applications.page(platform(), wanted)
    return array(engine.answer(platform(), one, use) for one, use in applications.seen(platform(), found))


@api.get("/scheduler/engine/applications/<appid>")
def show_application(path: schemas.ApplicationPath) -> Response:
    """A list of one application"""
    found = applications.find_application(platform(), caller(), path.appid).row.id or 0
    return array(engine.answer(platform(), one, use) for one, use in applications.seen(platform(), [found]))


@api.put("/scheduler/applications/<appid>/stop")
def stop_application(path: schemas.ApplicationPath) -> dict[str, Any]:
    """Stop an application"""
    engine.stop(platform(), caller(), path.appid)
    return {}


@api.get("/scheduler/kubernetesobjects")
def list_kubernetes_objects(query: schemas.ObjectQuery) -> dict[str, Any]:
    """None: there is no Kubernetes here"""
    allow(caller(), Action.READ, MACHINE)
    if query.name:
        raise not_found(query.type or "object", query.name)
    return {"items": []}
