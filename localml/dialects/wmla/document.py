"""What the generated OpenAPI document cannot say by itself."""

from __future__ import annotations

from typing import Any

from flask_openapi.types import ResponseDict

SCHEME = "ApiKeyAuth"
SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "HTTP Basic, or 'Bearer ' and a token from /auth/v1/logon",
    }
}


def failures(*statuses: int) -> ResponseDict:
    """Those that an operation may answer with, besides 401 and 500. The document has no body for them."""
    return dict.fromkeys(sorted({*statuses, 401, 500}))


def complete(document: dict[str, Any]) -> None:
    """Nothing is missing."""
