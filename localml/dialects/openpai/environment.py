"""What OpenPAI's client needs to know: where the API is, and the variables that it reads."""

from __future__ import annotations

from localml.core.people.identity import Credentials

BASE = "/api/v1"
"""What the API's endpoint adds to the server's URL."""


def variables(credentials: Credentials, url: str, endpoint: str) -> dict[str, str]:
    """Environment variables with the server's ``url``, or the API's own ``endpoint``, and credentials."""
    return {
        "PAI_URI": url,
        "PAI_USER": credentials.user,
        "PAI_PASSWORD": credentials.password,
        "PAI_TOKEN": credentials.token,
    }
