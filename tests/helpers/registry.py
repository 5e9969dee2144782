"""A private registry with one tiny image, which asks for a user name and a password."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.docker_image import _root_file_system

USER, PASSWORD = "me", "very-secret-word"
NAME = "private/tiny:1"
SAYS = "from the registry"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _contents() -> dict[str, tuple[str, bytes]]:
    """End of the path -> media type and bytes."""
    tar = _root_file_system()
    layer = gzip.compress(tar, 1, mtime=0)
    rootfs = {"type": "layers", "diff_ids": [_digest(tar)]}
    command = {"Cmd": ["/bin/busybox", "echo", SAYS]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": command, "rootfs": rootfs}).encode()
    parts = [
        {"mediaType": kind, "size": len(data), "digest": _digest(data)}
        for kind, data in ((_CONFIG, config), (_LAYER, layer))
    ]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": _MANIFEST, "config": parts[0], "layers": parts[1:]}
    ).encode()
    found = {f"blobs/{_digest(data)}": (kind, data) for kind, data in ((_CONFIG, config), (_LAYER, layer))}
    return found | {f"manifests/{tag}": (_MANIFEST, manifest) for tag in ("1", _digest(manifest))}


@contextmanager
def private_registry() -> Iterator[str]:
    """Serve it; gives ``host:port``. Docker takes a registry on the loopback address without TLS."""
    contents = _contents()
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers.get("Authorization") != wanted:
                self._send(401, "application/json", b'{"errors": [{"code": "UNAUTHORIZED"}]}')
            elif self.path == "/v2/":
                self._send(200, "application/json", b"{}")
            else:
                found = contents.get("/".join(self.path.split("/")[-2:]))
                self._send(*((200, *found) if found else (404, "application/json", b"{}")))

        do_HEAD = do_GET

        def _send(self, status: int, kind: str, data: bytes) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(data)), "Docker-Content-Digest": _digest(data)}
            if status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="private"'
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
