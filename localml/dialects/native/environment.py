"""What a client of one of the APIs needs: where the server is, and the administrator's credentials."""

from __future__ import annotations

from typing import Any

from localml.core.errors import invalid
from localml.core.people.identity import Credentials
from localml.dialects import served

BASES = {
    "native": "/localml/v1",
    "cloudml": "/cloud_ml/v1",
    "wmla": "/platform/rest/deeplearning/v1",
    "modelarts": "",
    "mlbench": "/api",
    "openpai": "/api/v1",
}
"""Name of an API -> what its endpoint adds to the server's URL."""


def environment(credentials: Credentials, dialect: str, url: str) -> dict[str, Any]:
    """Endpoint and credentials for one API.

    ``url`` is the server's, ``endpoint`` the API's own; ``variables`` are the environment variables that the vendor's
    client, or scripts written for it, read; ``served`` says whether this version answers them.

    Raises:
        LocalmlError: ``INVALID`` when there is no such API.
    """
    if dialect not in BASES:
        raise invalid("dialect", f"must be one of {', '.join(BASES)}, not {dialect!r}")
    endpoint = url + BASES[dialect]
    return {
        "dialect": dialect,
        "url": url,
        "endpoint": endpoint,
        "access_key": credentials.access_key,
        "secret_key": credentials.secret_key,
        "user": credentials.user,
        "password": credentials.password,
        "project_id": credentials.project_id,
        "token": credentials.token,
        "served": dialect in served(),
        "variables": _variables(credentials, dialect, url, endpoint),
    }


def _variables(credentials: Credentials, dialect: str, url: str, endpoint: str) -> dict[str, str]:
    own = {"LOCALML_URL": url, "LOCALML_TOKEN": credentials.token}
    if dialect == "cloudml":
        return {
            "XIAOMI_ACCESS_KEY_ID": credentials.access_key,
            "XIAOMI_SECRET_ACCESS_KEY": credentials.secret_key,
            "XIAOMI_CLOUDML_ENDPOINT": url,
        }
    if dialect == "modelarts":
        return {
            "HUAWEICLOUD_SDK_AK": credentials.access_key,
            "HUAWEICLOUD_SDK_SK": credentials.secret_key,
            "HUAWEICLOUD_SDK_PROJECT_ID": credentials.project_id,
            "MODELARTS_ENDPOINT": endpoint,
        }
    if dialect == "wmla":
        return {
            "WMLA_REST_URL": endpoint,
            "WMLA_USER": credentials.user,
            "WMLA_PASSWORD": credentials.password,
        }
    if dialect == "openpai":
        return {
            "PAI_URI": url,
            "PAI_USER": credentials.user,
            "PAI_PASSWORD": credentials.password,
            "PAI_TOKEN": credentials.token,
        }
    if dialect == "mlbench":
        return {"MLBENCH_DASHBOARD_URL": url}
    return own
