"""What our own API needs to know: where the API is, and the variables that it reads."""

from __future__ import annotations

from localml.core.people.identity import Credentials

BASE = "/localml/v1"
"""What the API's endpoint adds to the server's URL."""
GATEWAY = "LOCALML_GATEWAY_URL"
"""The variable with the gateway's URL, which endpoints are below."""


def variables(credentials: Credentials, url: str, endpoint: str) -> dict[str, str]:
    """Environment variables with the server's ``url``, or the API's own ``endpoint``, and credentials."""
    return {"LOCALML_URL": url, "LOCALML_TOKEN": credentials.token}
