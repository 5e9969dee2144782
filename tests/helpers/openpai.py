"""An OpenPAI client for tests: bearer tokens, bodies as JSON or as forms, over a socket or straight into the app."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from helpers.cloudml import Answer, Send

BASE = "/api/v1"
FORM = "application/x-www-form-urlencoded"
UNTIL_STOPPED = "trap 'exit 143' TERM; while :; do sleep 0.05; done"


class PaiClient:
    """Sends requests as one user; without a token as nobody."""

    def __init__(self, send: Send, token: str | None = None, *, form: bool = False) -> None:
        self.send = send
        self.token = token
        self.form = form

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        data = b""
        if isinstance(body, bytes):
            data = body
            headers["Content-Type"] = "application/json"
        elif body is not None:
            data = urlencode(_fields(body)).encode() if self.form else json.dumps(body).encode()
            headers["Content-Type"] = FORM if self.form else "application/json"
        return self.send(method, BASE + path, headers, data)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> Answer:
        return self.call("POST", path, body)

    def put(self, path: str, body: Any) -> Answer:
        return self.call("PUT", path, body)

    def delete(self, path: str, body: Any) -> Answer:
        return self.call("DELETE", path, body)

    def login(self, username: str, password: str, **rest: Any) -> PaiClient:
        """The same client as that user."""
        answer = self.post("/token", {"username": username, "password": password, **rest})
        assert answer.status == 200, answer.data
        return PaiClient(self.send, answer.json["token"], form=self.form)

    def submit(self, name: str, *roles: dict[str, Any], **rest: Any) -> dict[str, Any]:
        """Submit a job and return its status."""
        answer = self.post("/jobs", {"jobName": name, "taskRoles": list(roles), **rest})
        assert answer.status == 201, answer.data
        return self.status(name)

    def status(self, name: str) -> dict[str, Any]:
        answer = self.get(f"/jobs/{name}")
        assert answer.status == 200, answer.data
        found: dict[str, Any] = answer.json
        return found


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    """Lists can be said in forms as JSON texts."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in body.items()}


def role(name: str = "main", command: str = "true", count: int = 1, **rest: Any) -> dict[str, Any]:
    """A task role that needs little."""
    needs = {"cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0}
    return {"name": name, "taskNumber": count, **needs, "command": command, **rest}
