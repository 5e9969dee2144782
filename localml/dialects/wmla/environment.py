"""What scripts for WMLA needs to know: where the API is, and the variables that it reads."""

from __future__ import annotations

from localml.core.people.identity import Credentials

BASE = "/platform/rest/deeplearning/v1"
"""What the API's endpoint adds to the server's URL."""


def variables(credentials: Credentials, url: str, endpoint: str) -> dict[str, str]:
    """Environment variables with the server's ``url``, or the API's own ``endpoint``, and credentials."""
    return {"WMLA_REST_URL": endpoint, "WMLA_USER": credentials.user, "WMLA_PASSWORD": credentials.password}
