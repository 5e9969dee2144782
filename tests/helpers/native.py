"""Plain HTTP to our own API, for tests that look at what goes over the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import urllib3


@dataclass
class Answer:
    """What the server said."""

    status: int
    headers: Any
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Http:
    """Calls of our own API by somebody."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url = url
        self.headers = headers
        self.pool = urllib3.PoolManager(retries=False)

    def __call__(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"{self.url}/localml/v1{path}"
        typed = {} if data is None else {"Content-Type": "application/json"}
        found = self.pool.request(method, url, body=data, headers=typed | self.headers | (headers or {}))
        return Answer(found.status, found.headers, found.data)

    def close(self) -> None:
        self.pool.clear()


def spec(*command: str, **members: Any) -> dict[str, Any]:
    """A workload of one command."""
    return {"roles": [{"command": list(command), **members}]}


def sh(script: str, **members: Any) -> dict[str, Any]:
    """A workload of one shell script."""
    return spec("sh", "-c", script, **members)
