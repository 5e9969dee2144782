"""What the generated OpenAPI document cannot say by itself: the signature and its headers."""

from __future__ import annotations

from typing import Any

from localml.dialects.cloudml.auth import CONTENT_MD5, KEY_ID, TIMESTAMP

SCHEME = "xiaomiSignature"
SECURITY_SCHEMES: dict[str, Any] = {
    SCHEME: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "'Galaxy V3 ' and the base64 of HMAC-SHA1, with the secret key, over path, timestamp and "
        "content MD5, each followed by a newline; goes with the three X-Xiaomi headers",
    }
}

HEADERS = {
    TIMESTAMP: "Time of the request in seconds since the Unix epoch",
    CONTENT_MD5: "MD5 of the body in hexadecimal, also of an empty one",
    KEY_ID: "Access key",
}


def complete(document: dict[str, Any]) -> None:
    """Give every signed operation its three headers."""
    for path in document["paths"].values():
        for operation in path.values():
            if {} in operation.get("security", []):
                continue
            operation["parameters"] = [
                {"name": name, "in": "header", "required": True, "description": words, "schema": {"type": "string"}}
                for name, words in HEADERS.items()
            ] + operation.get("parameters", [])
