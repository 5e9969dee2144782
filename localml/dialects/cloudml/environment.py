"""What Xiaomi's published client needs to know: where the API is, and the variables that it reads."""

from __future__ import annotations

from localml.core.people.identity import Credentials

BASE = "/cloud_ml/v1"
"""What the API's endpoint adds to the server's URL."""


def variables(credentials: Credentials, url: str, endpoint: str) -> dict[str, str]:
    """Environment variables with the server's ``url``, or the API's own ``endpoint``, and credentials."""
    return {
        "XIAOMI_ACCESS_KEY_ID": credentials.access_key,
        "XIAOMI_SECRET_ACCESS_KEY": credentials.secret_key,
        "XIAOMI_CLOUDML_ENDPOINT": url,
    }
