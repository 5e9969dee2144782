"""What people do in JupyterLab and see in TensorBoard, over the same HTTP as their own pages."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import aiohttp
import httpx

from helpers.rig import wait_until


async def execute(base: str, token: str, code: str) -> list[dict[str, Any]]:
    """Run a cell in a new kernel, as JupyterLab's own page does; returns the messages that answer it."""
    headers = {"Authorization": f"token {token}"}
    number = uuid.uuid4().hex
    header = {"msg_id": number, "msg_type": "execute_request", "session": "s", "username": "", "version": "5.4"}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    found: list[dict[str, Any]] = []
    async with aiohttp.ClientSession(base, headers=headers) as http:
        async with http.post("/api/kernels", json={"name": "python3"}) as made:
            kernel = (await made.json())["id"]
        async with http.ws_connect(f"/api/kernels/{kernel}/channels") as socket, asyncio.timeout(90):
            await socket.send_json(request)
            async for message in socket:
                answer = json.loads(message.data)
                if answer["parent_header"].get("msg_id") != number:
                    continue
                found.append(answer)
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    return found
    raise ConnectionError("the kernel hung up")


def printed(messages: list[dict[str, Any]]) -> str:
    """What a cell wrote to its streams."""
    return "".join(one["content"]["text"] for one in messages if one["msg_type"] == "stream")


def points(http: httpx.Client, run: str, tag: str, count: int) -> list[Any]:
    """A series, once TensorBoard has read all of it."""
    found: list[Any] = []

    def read() -> bool:
        answer = http.get("/data/plugin/scalars/scalars", params={"run": run, "tag": tag})
        found[:] = answer.json() if answer.status_code == 200 else []
        return len(found) >= count

    wait_until(read, 60)
    return found
