"""Requests to localml's own API: where the server is, and one connection pool with readable failures.

Kept small and apart, because the command line starts with it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from localml.client.errors import ClientError
from localml.core.home import expanded

BASE = "/localml/v1"
JSON = {"Content-Type": "application/json"}
CREDENTIALS_NAME = "credentials.json"
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_CONNECT_S = 5.0
_ANSWER_S = 120.0
FOLLOW_S = 60.0
"""A followed stream that says nothing for so long, not even a heartbeat, is broken."""


def find_server(data: Path | str | None = None) -> tuple[str, str]:
    """URL and token of the server to talk to, both from one source: whoever names a place means its credentials too.

    That of ``data``; without it ``$LOCALML_URL`` with ``$LOCALML_TOKEN`` where both are set, else that of
    ``$LOCALML_DATA``, else ``$LOCALML_URL`` alone, else that of the default data directory. A directory's server is
    asked with the directory's own token: ``$LOCALML_TOKEN`` belongs to ``$LOCALML_URL``.

    Raises:
        ClientError: ``no_server`` when none runs there, ``forbidden`` when its credentials cannot be read.
    """
    given = data or os.environ.get("LOCALML_DATA")
    if (url := _address(data)) is not None:
        return url, os.environ.get("LOCALML_TOKEN", "")
    folder = data_directory(given)
    from localml.store.lock import holder

    info = holder(folder)
    if info is None:
        hint = "" if given is None else f" --data {folder}"
        raise ClientError("no_server", f"no server runs on {folder}; start it with: localml up --detach{hint}")
    if not info.get("url"):
        raise ClientError("no_server", f"the server on {folder} starts or ends just now; try again in a moment")
    return str(info["url"]), _token(folder)


def _address(data: Path | str | None) -> str | None:
    """``$LOCALML_URL`` where it is what says which server is meant."""
    url = os.environ.get("LOCALML_URL")
    if url and not data and (os.environ.get("LOCALML_TOKEN") or not os.environ.get("LOCALML_DATA")):
        return url.rstrip("/")
    return None


def server_directory(data: Path | str | None) -> Path:
    """The data directory of the server that is meant, for what is done to that server itself.

    Raises:
        ClientError: ``conflict`` when the environment means a server elsewhere, and another one runs here.
    """
    from localml.store.lock import holder

    folder, url = data_directory(data), _address(data)
    here = None if url is None else (holder(folder) or {}).get("url")
    if url is not None and here is not None and not _same(url, str(here)):
        raise ClientError("conflict", f"LOCALML_URL means {url}; the server on {folder} ({here}) is --data {folder}")
    return folder


def _same(url: str, here: str) -> bool:
    """Whether an address is that of a server of this machine."""
    try:
        given, own = urlsplit(url), urlsplit(here)
        return given.port == own.port and given.hostname in (own.hostname, "localhost", "127.0.0.1", "::1")
    except ValueError:
        return False


def data_directory(given: Path | str | None) -> Path:
    """The data directory that is meant: the one given, ``$LOCALML_DATA``, or the default one."""
    from localml.config import default_data

    chosen = given or os.environ.get("LOCALML_DATA")
    return expanded(chosen, "data").absolute() if chosen else default_data()


def _token(folder: Path) -> str:
    path = folder / CREDENTIALS_NAME
    try:
        return str(json.loads(path.read_text())["token"])
    except (OSError, ValueError, KeyError) as error:
        raise ClientError(
            "forbidden", f"{path} cannot be read ({error}); set LOCALML_URL and LOCALML_TOKEN instead"
        ) from error


class Transport:
    """Sends requests below :data:`BASE` of one server, with one token; safe to share between threads.

    Raises:
        ClientError: ``invalid`` for a token that cannot be sent, and for what is no address.
    """

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        if not url.lower().startswith(("http://", "https://")):
            words = f"a server's address (LOCALML_URL) is one such as http://127.0.0.1:7070, not {url!r}"
            raise ClientError("invalid", words)
        headers = {"User-Agent": "localml", "Accept-Encoding": "identity"}
        if token:
            if not (token.isascii() and token.isprintable()):
                raise ClientError("invalid", "the token (LOCALML_TOKEN) holds what no token does, such as a line break")
            headers["Authorization"] = f"Bearer {token}"
        self._headers = headers
        self._pool = urllib3.PoolManager(num_pools=2, maxsize=8, retries=False)

    def use(self, token: str) -> None:
        """Go on with another token."""
        self._headers = {**self._headers, "Authorization": f"Bearer {token}"}

    @property
    def authorization(self) -> dict[str, str]:
        """The header that says who calls; empty without a token."""
        return {key: value for key, value in self._headers.items() if key == "Authorization"}

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def json(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request whose answer is JSON. Query members that are None are left out."""
        data = None if body is None else _body(body)
        with readable(self.url):
            answer = self._send(method, path, query, data, headers=None if data is None else JSON)
            return json.loads(answer.data)

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = _ANSWER_S,
        **query: Any,
    ) -> Iterator[BaseHTTPResponse]:
        """One request whose answer is read piece by piece; the connection is closed if it is left before its end."""
        with readable(self.url):
            answer = self._send(method, path, query, body, headers=headers, timeout=timeout, preload=False)
            try:
                yield answer
            finally:
                answer.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = _ANSWER_S,
        preload: bool = True,
    ) -> BaseHTTPResponse:
        answer = self._pool.request(
            method,
            f"{self.url}{BASE}{path}{_query(query)}",
            body=body,
            headers={**self._headers, **(headers or {})},
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=timeout),
            preload_content=preload,
            redirect=False,
        )
        if answer.status >= 300:
            try:
                raise _refusal(answer.status, answer.data)
            finally:
                answer.close()
        return answer


def _body(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except ValueError:
        field, number = next(_endless(value, ""))
        raise ClientError("invalid", f"{field}: must be a finite number, not {number:g}", field=field) from None


def _endless(value: Any, field: str) -> Iterator[tuple[str, float]]:
    """The numbers in a request that JSON cannot say, and the members that they are."""
    if isinstance(value, float) and not isfinite(value):
        yield field, value
    members = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, one in members:
        yield from _endless(one, f"{field}.{name}".lstrip("."))


def _query(query: Mapping[str, Any]) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        if value is None:
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            pairs.append((name, str(one).lower() if isinstance(one, bool) else str(one)))
    return "?" + urlencode(pairs) if pairs else ""


def _refusal(status: int, data: bytes) -> ClientError:
    try:
        found = json.loads(data)["error"]
        return ClientError(
            str(found["code"]),
            str(found["message"]),
            field=found.get("field"),
            details=found.get("details"),
            status=status,
        )
    except (ValueError, KeyError, TypeError):
        words = data[:200].decode("utf-8", "replace").strip()
        return ClientError("unexpected", f"the server answered {status}: {words}", status=status)


@contextmanager
def readable(url: str) -> Iterator[None]:
    """Turn a transport's failures into :class:`ClientError` ``unreachable``."""
    try:
        yield
    except HTTPError as error:
        reason = getattr(error, "reason", None) or error
        words = _ERRNO.sub("", str(reason).rpartition(": ")[2]) or type(error).__name__
        raise ClientError("unreachable", f"{url} does not answer: {words}") from error
