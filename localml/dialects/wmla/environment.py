"""What scripts for WMLA need to know: where the API is, and the variables that they read."""

from __future__ import annotations

from localml.core.people.identity import Credentials

BASE = "/platform/rest/deeplearning/v1"
"""What the API's endpoint adds to the server's URL."""
GATEWAY = "WMLA_INFERENCE_URL"
"""The variable with the gateway's URL, which deployed models are below."""
_SDK = "DEEP_LEARNING_IMPACT_RES_TFUL_AP_IS_"
"""How variables begin that the vendor's Python client reads in ``new_instance()``; its URL has no path."""


def variables(credentials: Credentials, url: str, endpoint: str) -> dict[str, str]:
    """Environment variables with the server's ``url``, or the API's own ``endpoint``, and credentials."""
    sdk = {"URL": url, "AUTH_TYPE": "basic", "USERNAME": credentials.user, "PASSWORD": credentials.password}
    return {
        "WMLA_REST_URL": endpoint,
        "WMLA_USER": credentials.user,
        "WMLA_PASSWORD": credentials.password,
        "WMLA_TOKEN": credentials.token,
        **{_SDK + name: value for name, value in sdk.items()},
    }
