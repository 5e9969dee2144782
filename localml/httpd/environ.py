"""A request as WSGI's environment (PEP 3333)."""

from __future__ import annotations

import io
import sys
from functools import partial
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote_to_bytes

from localml.httpd.connection import Client
from localml.httpd.held import HOLDS, FileAnswer
from localml.httpd.origin import LOCAL_ADDRESS
from localml.httpd.request import Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KNOWN = "localml.known"
"""Key of the WSGI environment: what an app calls once it knows by credentials who asks."""
_FORWARDED = (b"for", b"host", b"proto", b"port", b"by", b"prefix")
_UNTRUSTED = frozenset({b"forwarded", b"proxy", *(b"x-forwarded-" + part for part in _FORWARDED)})
"""Clients reach this server without a proxy, so what they say of one is not believed. ``Proxy`` would become
``HTTP_PROXY``, which programs take for a setting."""
_NO_PREFIX = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_KEYS: dict[bytes, str] = {}
"""Header name -> environment key, for names that were seen."""
_MOST_KEYS = 500


def make_environ(request: Request, client: Client, address: tuple[str, int]) -> WSGIEnvironment:
    """Everything but the body. ``REQUEST_URI`` is the target exactly as it was sent; signatures cover it.

    Args:
        address: host and port that the server listens on.
    """
    target = request.target.decode("latin-1")
    path, _, query = target.partition("?")
    if path.startswith("//"):
        path = "/" + path.lstrip("/")
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": request.method.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path,
        "QUERY_STRING": query,
        "REQUEST_URI": target,
        "SERVER_NAME": address[0],
        "SERVER_PORT": str(address[1]),
        "SERVER_PROTOCOL": "HTTP/1.0" if request.http10 else "HTTP/1.1",
        "SERVER_SOFTWARE": "localml",
        "REMOTE_ADDR": client.peer.decode("latin-1"),
        LOCAL_ADDRESS: client.local_address,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileAnswer,
        HOLDS: True,
        KNOWN: partial(setattr, client, "known", True),
    }
    _add_headers(environ, request)
    return environ


def _add_headers(environ: WSGIEnvironment, request: Request) -> None:
    for name, _, value in request.headers:
        key = _KEYS.get(name) or _key(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ', '}{text}"
        environ[key] = text


def _key(name: bytes) -> str:
    """Empty for a header that is not passed on: an underscore would make it look like another one."""
    if b"_" in name or name in _UNTRUSTED or name == b"transfer-encoding":
        return ""
    key = _NO_PREFIX.get(name) or "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
    if len(_KEYS) < _MOST_KEYS:
        _KEYS[name] = key
    return key


def set_input(environ: WSGIEnvironment, body: bytes | BinaryIO, length: int | None) -> None:
    """Put the body in. One that is here as a whole has a length, however it came.

    Args:
        length: as it was declared; None for a chunked body.
    """
    if isinstance(body, bytes):
        environ["wsgi.input"] = io.BytesIO(body)
        if length is None or body:
            environ["CONTENT_LENGTH"] = str(len(body))
        return
    environ["wsgi.input"] = body
    if length is None:
        environ["HTTP_TRANSFER_ENCODING"] = "chunked"
