"""Configuration: what the service is set to."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import request

from localml.core.errors import Code
from localml.core.people.allow import MACHINE, allow
from localml.core.people.rights import Action
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.addresses import gateway_url
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import answered
from localml.dialects.wmla.schemas.conf import StringMap
from localml.dialects.wmla.translate.conf import settings

TAGS: list[Any] = [{"name": "Configuration"}]

api = Operations("wmla_conf", __name__, url_prefix=BASE, abp_security=[{SCHEME: []}])


@api.get("/conf", operation_id="getDeepLearningConf", tags=TAGS, responses={200: StringMap, **failures(403)})
def show_settings() -> dict[str, str]:
    """List service settings"""
    with answered({Code.NOT_FOUND: HTTPStatus.FORBIDDEN}):
        allow(caller(), Action.READ, MACHINE)
    return settings(platform(), request.host_url.rstrip("/") + BASE, gateway_url())
