"""A WMLA client for tests, over a socket or straight into the app, and models as its users pack them."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from helpers.cloudml import Answer, Send
from localml.config import Config
from localml.control.serving.gateway_process import stop
from localml.core.catalog import load_catalog
from localml.platform import Platform
from localml.server import Server

BASE = "/platform/rest/deeplearning/v1"
BOUNDARY = "a-line-between-parts"
OVER = ("FINISHED", "KILLED", "ERROR")
"""States that are the last one."""
MEETS = """
import json, os, socket, sys
rank, address = int(os.environ["NODE_RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
cluster = json.loads(os.environ["TF_CONFIG"])
assert cluster["task"] == {"type": "worker", "index": rank}, cluster
assert cluster["cluster"]["worker"][0] == "%s:%d" % address, cluster
size = int(os.environ["WORLD_SIZE"])
assert size == int(os.environ["WMLA_NWORKER"])
if rank == 0:
    with socket.create_server(address) as server:
        names = sorted(server.accept()[0].makefile().readline() for _ in range(size - 1))
    open(os.environ["RESULT_DIR"] + "/met.txt", "w").write("".join(names))
else:
    for _ in range(300):
        try:
            with socket.create_connection(address) as mine:
                mine.sendall(f"worker {rank}\\n".encode())
            break
        except ConnectionRefusedError:
            __import__("time").sleep(0.1)
"""
"""A program whose workers find each other; the first leaves in ``met.txt`` who came."""
PLUGIN = """
from plugins.core.logger import logger
from plugins.core.base_plugin_opt import BasePluginOptimizer


class PluginOptimizer(BasePluginOptimizer):
    def __init__(self, name, hyper_parameters, **kwargs):
        super().__init__(name, hyper_parameters, **kwargs)
        self.asked = 0

    def search(self, number_samples, last_exp_results):
        logger.info("asked for %s", number_samples)
        found = []
        for _ in range(number_samples):
            self.asked += 1
            found.append({one["name"]: one["minDbVal"] for one in self.hyper_parameters})
        return found

    def get_state(self):
        return {"asked": self.asked}

    def set_state(self, state):
        self.asked = state["asked"]
"""
"""A search algorithm in the vendor's layout, which proposes the lower end of each range."""


class WmlaClient:
    """Sends requests as one user, by Basic authentication as the vendor's client does; without a user as nobody."""

    def __init__(self, send: Send, user: str | None = None, password: str = "") -> None:
        self.send = send
        self.user = user
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.headers = {} if user is None else {"Authorization": f"Basic {pair}"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send JSON, or bytes as they are; ``path`` lies below the API's prefix, with or without a query."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if body is not None else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(method, BASE + path, self.headers | kind | named, data)

    def get(self, path: str, **query: Any) -> Answer:
        return self.call("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, body: Any = None) -> Answer:
        return self.call("POST", path, body)

    def put(self, path: str, body: Any = None) -> Answer:
        return self.call("PUT", path, body)

    def delete(self, path: str) -> Answer:
        return self.call("DELETE", path)

    def form(self, path: str, *parts: bytes) -> Answer:
        """Send a form of :func:`part`."""
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.call("POST", path, multipart(*parts), Content_Type=kind)

    def start(self, args: str, file: bytes, data: str | None = None, filename: str | None = None) -> Answer:
        """``POST /execs`` with a part ``file`` that says neither its name nor its type, unless it is given a name."""
        parts = [part("file", file, filename)] + ([] if data is None else [part("data", data.encode())])
        return self.form(f"/execs?{urlencode({'args': args})}", *parts)

    def search(self, data: Any, file: bytes, filename: str | None = "model.modelDir.tar") -> Answer:
        """``POST /hypersearch`` with ``data`` as JSON, or a text as it is."""
        text = data if isinstance(data, str) else json.dumps(data)
        return self.form("/hypersearch", part("file", file, filename), part("data", text.encode()))

    def install(self, data: Any, file: bytes | None = None) -> Answer:
        """``POST /hypersearch/algorithm/install`` with ``data`` as JSON, or a text as it is."""
        text = data if isinstance(data, str) else json.dumps(data)
        files = [] if file is None else [part("file", file, "plugin.tar", "application/octet-stream")]
        return self.form("/hypersearch/algorithm/install", part("data", text.encode(), kind="text/plain"), *files)


def part(name: str, content: bytes, filename: str | None = None, kind: str | None = None) -> bytes:
    """One part of a form: its head and what it holds."""
    head = f'Content-Disposition: form-data; name="{name}"'
    head += f'; filename="{filename}"' if filename is not None else ""
    head += f"\r\nContent-Type: {kind}" if kind else ""
    return f"{head}\r\n\r\n".encode() + content


def multipart(*parts: bytes) -> bytes:
    """The body of a form."""
    line = f"--{BOUNDARY}".encode()
    return b"".join(line + b"\r\n" + one + b"\r\n" for one in parts) + line + b"--\r\n"


def packed(files: Mapping[str, str | bytes], top: str = "", *, gz: bool = False) -> bytes:
    """A tar of these files, below one folder if it has a name; the same bytes at any time (they may name tests)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"{top}/{name}" if top else name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return gzip.compress(made.getvalue(), mtime=0) if gz else made.getvalue()


@contextmanager
def wmla_server(data: Path, engine: str = "process", **settings: Any) -> Iterator[Server]:
    """A server of its own on a free port, whose jobs run with the tests' Python on simulated GPUs.

    Args:
        data: a folder that is the test's.
        settings: more of :class:`localml.config.Config`, or other values.
    """
    bring = [one for one in load_catalog().runtimes() if not one.launcher]  # what the tests' Python has not
    images = {f"{one.image}{tag}": one.name for one in bring for tag in ("", ":*")} | {"*": "host"}
    given = {"gpus": "simulated:2", "cpus": 64, "images": images, "cache": data / "cache", **settings}
    one = Server(Platform(Config(data / "data", engine=engine, port=0, gateway_port=0, **given)))
    one.start()
    try:
        yield one
    finally:
        one.platform.reconciler.close()  # what waited for those that are ended now would begin
        for name in one.platform.engine.list():
            one.platform.engine.stop(name, 0)
            one.platform.engine.remove(name)
        one.close()
        stop(data / "data", timeout=2)
