"""Bodies: how large they may be, and forms with files, read while they arrive."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Request, request
from werkzeug.test import create_environ, run_wsgi_app

from localml.config import Config
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.kit import Dialect, Operations, make_app
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.multipart import FormRules, read_form
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

MIB = 1 << 20
RULES = FormRules(files=frozenset({"file"}), max_parts=5, max_field=1000, max_file=700 * MIB)
api = Operations("acme", __name__, url_prefix="/acme")


@api.post("/small")
def small() -> dict[str, Any]:
    """Take what the dialect takes"""
    return {"size": len(request.get_data())}


@api.post("/tiny")
@body_limit(10)
def tiny() -> dict[str, Any]:
    """Take little"""
    return {"size": len(request.get_data())}


@api.post("/any")
@body_limit(None)
def anything() -> dict[str, Any]:
    """Take all"""
    size = 0
    while block := request.stream.read(MIB):
        size += len(block)
    return {"size": size}


@api.post("/form")
@body_limit(None)
def form() -> dict[str, Any]:
    """Take a form"""
    with read_form(RULES) as found:
        if request.args.get("fail"):
            raise RuntimeError("a defect")
        files = {name: [_told(one) for one in parts] for name, parts in found.files.items()}
        main = found.file("file").size if request.args.get("main") else None
        return {"fields": found.fields, "files": files, "main": main, "title": found.text("title")}


def _told(part: Any) -> list[Any]:
    with part.open() as file:
        head = file.read(20)
    return [part.filename, part.content_type, part.size, head.hex(), (part.path.stat().st_mode & 0o777) == 0o600]


def _authenticate(found: Platform, _given: Request) -> Caller:
    return found.identity.user(ADMIN)


def _render(error: LocalmlError) -> tuple[int, dict[str, Any]]:
    status = {Code.INTERNAL: 500, Code.TOO_LARGE: 413}.get(error.code, 400)
    return status, {"words": error.message, "field": error.field}


def acme(platform: Platform) -> Flask:
    return make_app(
        Dialect(__name__, "/acme", "Acme", "1", _authenticate, _render, apis=(api,), max_body=1000), platform
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    opened = Platform(Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="none"), engine=FakeEngine())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def app(platform: Platform) -> Flask:
    return acme(platform)


class Body(io.RawIOBase):
    """A body that is made while it is read, and tells whether that was begun."""

    def __init__(self, head: bytes, size: int, tail: bytes = b"") -> None:
        self._head, self._left, self._tail = io.BytesIO(head), size, io.BytesIO(tail)
        self.length = len(head) + size + len(tail)
        self.touched = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.touched = True
        data = self._head.read(len(buffer))
        if not data and self._left:
            data = bytes(min(len(buffer), self._left))
            self._left -= len(data)
        data = data or self._tail.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def post(app: Flask, path: str, body: Body | bytes, **more: Any) -> tuple[int, Any]:
    target, _, query = path.partition("?")
    stream = io.BufferedReader(body) if isinstance(body, Body) else io.BytesIO(body)
    length = body.length if isinstance(body, Body) else len(body)
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": target, "QUERY_STRING": query, "CONTENT_LENGTH": str(length)}
    found = run_wsgi_app(app, {**create_environ(), **environ, "wsgi.input": stream, **more})
    return int(found[1].split()[0]), json.loads(b"".join(found[0]))


def chunked(app: Flask, path: str, body: Body) -> tuple[int, Any]:
    return post(app, path, body, CONTENT_LENGTH="", HTTP_TRANSFER_ENCODING="chunked", **{"wsgi.input_terminated": True})


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "limit"), [("small", 1000), ("tiny", 10)])
def test_an_operations_limit_is_held_to_the_byte(app: Flask, path: str, limit: int) -> None:
    assert post(app, f"/acme/{path}", Body(b"", limit)) == (200, {"size": limit})
    over = Body(b"", limit + 1)
    status, answer = post(app, f"/acme/{path}", over)
    assert (status, f"{limit + 1} bytes" in answer["words"], f"may have {limit}" in answer["words"]) == (
        413,
        True,
        True,
    )
    assert not over.touched, "it was refused on the headers"
    assert chunked(app, f"/acme/{path}", Body(b"", limit)) == (200, {"size": limit})
    assert chunked(app, f"/acme/{path}", Body(b"", limit + 1))[0] == 413


@pytest.mark.parametrize("size", [15 * MIB, 17 * MIB, 600 * MIB])
def test_an_operation_without_a_limit_takes_all_and_keeps_none_of_it(app: Flask, size: int) -> None:
    assert post(app, "/acme/any", Body(b"", 1)) == (200, {"size": 1})
    tracemalloc.start()
    try:
        assert post(app, "/acme/any", Body(b"", size)) == (200, {"size": size})
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


# -- forms -----------------------------------------------------------------------------------------

TYPE = "multipart/form-data; boundary=b0"


def part(head: str, data: bytes = b"") -> bytes:
    return b"--b0\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def named(name: str, data: bytes, more: str = "") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"{more}', data)


END = b"--b0--\r\n"


def send(app: Flask, body: Body | bytes, query: str = "", kind: str = TYPE) -> tuple[int, Any]:
    return post(app, f"/acme/form{query}", body, CONTENT_TYPE=kind)


def left(platform: Platform) -> list[str]:
    return [path.name for path in (platform.data / "uploads").glob("*")]


def test_fields_and_files_of_every_kind(app: Flask, platform: Platform) -> None:
    """A part with neither a filename nor a type is a file where the operation says so, whatever bytes it has."""
    binary = bytes(range(256)) * 3 + b"\r\n--b1\r\n\r\n--b0x"
    body = (
        named("title", "größe".encode())
        + named("file", binary)
        + named("more", b"\x1f\x8b", '; filename="a.tar"\r\nContent-Type: application/x-tar')
        + named("title2", b"")
        + END
    )
    status, found = send(app, body, "?main=1")
    assert status == 200
    assert found["fields"] == {"title": ["größe"], "title2": [""]}
    assert found["files"]["file"] == [[None, None, len(binary), binary[:20].hex(), True]]
    assert found["files"]["more"] == [["a.tar", "application/x-tar", 2, "1f8b", True]]
    assert (found["main"], found["title"]) == (len(binary), "größe")
    assert left(platform) == []


REFUSED = [
    (b"", 400, "body", "is no multipart/form-data"),
    (named("title", b"a"), 400, "body", "is no multipart/form-data"),  # cut off
    (b"--b0\r\nX: y\r\n\r\n\r\n" + END, 400, "body", "Content-Disposition"),
    (part("Content-Disposition: form-data", b"a") + END, 400, "body", "a part without a name"),
    (named("title", b"\xff\xfe") + END, 400, "title", "is not UTF-8 text"),
    (named("title", b"a\0b") + END, 400, "title", "NUL"),
    (named("title", b"a" * 1001) + END, 413, "title", "larger than 1000 bytes"),
    (b"".join(named("f", b"a") for _ in range(6)) + END, 413, "body", "more than 5 parts"),
    (part("X: " + "a" * MIB) + END, 413, "body", "head is larger than"),
    (named("file", b"a") * 2 + END, 400, "file", "came 2 times"),
    (named("title", b"a") + END, 400, "file", "is required"),
]


@pytest.mark.parametrize(("body", "status", "field", "words"), REFUSED)
def test_a_form_that_is_refused_says_which_part(
    app: Flask, platform: Platform, body: bytes, status: int, field: str, words: str
) -> None:
    found = send(app, body, "?main=1")
    assert (found[0], found[1]["field"]) == (status, field)
    assert words in found[1]["words"]
    assert left(platform) == []


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary="])
def test_what_is_no_form_is_refused(app: Flask, kind: str) -> None:
    assert send(app, END, kind=kind)[1]["field"] == "body"


def test_a_defect_and_a_body_cut_short_leave_no_file(app: Flask, platform: Platform) -> None:
    assert send(app, named("file", b"a" * MIB) + END, "?fail=1")[0] == 500
    assert send(app, named("file", b"a" * MIB))[0] == 400
    assert left(platform) == []


@pytest.mark.slow
def test_a_large_file_goes_to_disk_and_not_to_memory(app: Flask, platform: Platform) -> None:
    head = b'--b0\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    tracemalloc.start()
    try:
        status, found = send(app, Body(head, 600 * MIB, b"\r\n" + END), "?main=1")
        assert (status, found["main"]) == (200, 600 * MIB)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    status, found = send(app, Body(head, 700 * MIB + 1, b"\r\n" + END))
    assert (status, found["field"]) == (413, "file")
    assert left(platform) == []


KILLED = """
import io, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_kit_bodies as tests
from localml.config import Config
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

class Stuck(tests.Body):
    def readinto(self, buffer):
        found = super().readinto(buffer)
        if not found:
            print("stuck", flush=True)
            sys.stdin.read()
        return found

platform = Platform(Config(Path(sys.argv[1]), engine="fake", gpus="none"), engine=FakeEngine())
head = b'--b0\\r\\nContent-Disposition: form-data; name="file"\\r\\n\\r\\n'
body = Stuck(head, 1 << 20)
body.length += 100
tests.send(tests.acme(platform), body)
"""


@pytest.mark.slow
def test_what_a_killed_server_left_is_swept_by_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"
        os.kill(process.pid, signal.SIGKILL)
    assert [path.stat().st_size > 0 for path in (tmp_path / "uploads").iterdir()] == [True]
    Platform(Config(tmp_path, engine="fake", gpus="none"), engine=FakeEngine()).close()
    assert list((tmp_path / "uploads").iterdir()) == []
