"""A WSGI application that lets only those through who know the token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from localml_tensorboard.activity import PATH, Activity

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PARAMETER = "token"
_REFUSAL = b"A token is needed: open the address that 'localml show NAME' prints, which ends in ?token=...\n"


class Gate:
    """Asks for the token as a header (``Authorization: Bearer T`` or ``token T``), as ``?token=T``, or as a cookie.

    A page opened with ``?token=T`` is answered with a cookie and a redirect to the same page without it, so that the
    token does not stay in the address bar.

    ``GET /localml/activity`` answers, to those who have the token, when a request was let through last: an object
    with ``started``, ``last_activity`` (epoch seconds) and ``in_flight``. Neither that question nor a refusal counts.

    Args:
        inner: what is guarded.
        token: the token; without one everybody is let through.
        port: part of the cookie's name, because browsers share cookies between the ports of a host.
        activity: what remembers the requests.
    """

    def __init__(self, inner: WSGIApplication, token: str, port: int, activity: Activity | None = None) -> None:
        self._inner = inner
        self._token = token
        self._cookie = f"localml-tensorboard-{port}"
        self._activity = activity or Activity()
        self._proof = hashlib.sha256(token.encode()).hexdigest()  # a token may hold what a cookie may not

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        known = not self._token or self._same(self._from_header(environ)) or self._knows(environ)
        query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if not known and not self._same(dict(query).get(PARAMETER, "")):
            return _answer(start_response, "401 Unauthorized", "text/plain; charset=utf-8", _REFUSAL)
        read = environ["REQUEST_METHOD"] == "GET"
        if read and environ.get("PATH_INFO") == PATH:
            return _answer(start_response, "200 OK", "application/json", self._activity.to_json())
        # not until the body is sent: servers do not always tell that a client hung up
        with self._activity.request():
            if known or not read:
                return self._inner(environ, start_response)
            return self._welcome(environ, start_response, [pair for pair in query if pair[0] != PARAMETER])

    def _welcome(self, environ: WSGIEnvironment, start_response: StartResponse, rest: list[Any]) -> Iterable[bytes]:
        # "/" alone: a path such as //elsewhere would lead to another host
        path = "/" + environ.get("PATH_INFO", "/").lstrip("/\\")
        cookie = f"{self._cookie}={self._proof}; Path=/; HttpOnly; SameSite=Strict"
        target = path.encode("latin-1").decode("utf-8", "replace")
        location = "".join(char for char in target if char.isascii() and char.isprintable()) or "/"
        headers = [("Location", location + ("?" + urlencode(rest) if rest else "")), ("Set-Cookie", cookie)]
        start_response("302 Found", [*headers, ("Content-Length", "0")])
        return [b""]

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    @staticmethod
    def _from_header(environ: WSGIEnvironment) -> str:
        scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        return str(value.strip()) if scheme.lower() in ("bearer", "token") else ""

    def _knows(self, environ: WSGIEnvironment) -> bool:
        try:
            found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._proof.encode())


def _answer(start_response: StartResponse, status: str, content_type: str, body: bytes) -> Iterable[bytes]:
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
