"""What the generated OpenAPI document cannot say by itself."""

from __future__ import annotations

from typing import Any

SCHEME = "ApiKeyAuth"
SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "HTTP Basic, or 'Bearer ' and a token from /auth/v1/logon",
    }
}


def complete(document: dict[str, Any]) -> None:
    """Nothing is missing."""
