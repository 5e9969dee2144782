"""What the generated OpenAPI document cannot say by itself: bodies may be forms as well."""

from __future__ import annotations

from typing import Any

SCHEME = "bearerToken"
SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {"type": "http", "scheme": "bearer", "description": "Token from issueToken"},
}
FORM = "application/x-www-form-urlencoded"


def complete(document: dict[str, Any]) -> None:
    """Offer every body as a form too."""
    for path in document["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/json" in content:
                content[FORM] = {"schema": content["application/json"]["schema"]}
