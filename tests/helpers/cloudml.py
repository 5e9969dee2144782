"""A Cloud-ML client for tests: signs as the vendor's own signer does, over a socket or straight into the app."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import io
import json
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import Flask

from localml.objects import Buckets, BucketsFor

SETUP = "from setuptools import setup\nsetup(name='trainer', version='1.0', packages=['trainer'])\n"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


Send = Callable[[str, str, dict[str, str], bytes], Answer]


def into(app: Flask) -> Send:
    """Requests straight into an app, without a socket."""

    def send(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        found = app.test_client().open(path, method=method, headers=headers, data=body)
        return Answer(found.status_code, dict(found.headers), found.data)

    return send


def over(url: str) -> Send:
    """Requests to a live server, one connection each."""
    netloc = urlsplit(url).netloc

    def send(method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(netloc, timeout=60)
        try:
            connection.request(method, path, body or None, headers)
            found = connection.getresponse()
            return Answer(found.status, dict(found.getheaders()), found.read())
        finally:
            connection.close()

    return send


def signed(access: str, secret: str, path: str, body: bytes = b"", timestamp: str | None = None) -> dict[str, str]:
    """The four headers of a request; ``path`` may have a query, which is not signed."""
    timestamp = timestamp or str(int(time.time()))
    md5 = hashlib.md5(body).hexdigest()
    text = f"{path.partition('?')[0]}\n{timestamp}\n{md5}\n"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()
    return {
        "X-Xiaomi-Timestamp": timestamp,
        "X-Xiaomi-Content-MD5": md5,
        "X-Xiaomi-Secret-Key-Id": access,
        "Authorization": "Galaxy V3 " + base64.b64encode(digest).decode(),
    }


class SignedClient:
    """Sends signed requests; bodies go as JSON without a Content-Type, as the vendor's client sends them."""

    def __init__(self, access: str, secret: str, send: Send) -> None:
        self.access = access
        self.secret = secret
        self.send = send

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        path = path if path.startswith("/cloud_ml") else "/cloud_ml/v1" + path
        return self.send(method, path, signed(self.access, self.secret, path, data), data)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any) -> Answer:
        return self.call("POST", path, body)

    def delete(self, path: str) -> Answer:
        return self.call("DELETE", path)


def put_trainer(buckets: Buckets | BucketsFor, uri: str, program: str = "print('trained')") -> None:
    """Store a trainer package whose module ``trainer.task`` is this program."""
    files = {"setup.py": SETUP, "trainer/__init__.py": "", "trainer/task.py": program}
    put_archive(buckets, uri, {f"trainer-1.0/{name}": text.encode() for name, text in files.items()})


def put_archive(buckets: Buckets | BucketsFor, uri: str, files: Mapping[str, bytes]) -> None:
    """Store a tar.gz of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with buckets.open(uri, "wb") as file:
        file.write(packed.getvalue())
