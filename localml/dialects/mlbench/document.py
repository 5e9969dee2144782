"""What the generated OpenAPI document cannot say by itself: forms, both media types of answers, and ``Vary``."""

from __future__ import annotations

from typing import Any

SECURITY_SCHEMES: dict[str, Any] = {
    "address": {"type": "http", "scheme": "basic"},
    "token": {"type": "http", "scheme": "bearer"},
}
FORM, JSON, SCRIPT = "application/x-www-form-urlencoded", "application/json", "text/javascript"
_VARY = {"Vary": {"description": "Always names Accept", "required": True, "schema": {"type": "string"}}}


def complete(document: dict[str, Any]) -> None:
    """Bodies may be forms as well; answers come under either media type."""
    for path in document["paths"].values():
        for operation in path.values():
            body = operation.get("requestBody", {}).get("content", {})
            if JSON in body:
                body[FORM] = body[JSON]
            for answer in operation["responses"].values():
                answer["headers"] = _VARY
                content = answer.get("content", {})
                if JSON in content:
                    content[SCRIPT] = content[JSON]
