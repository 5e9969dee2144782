"""Signed requests ("Galaxy V3"): HMAC-SHA1 over path, time and MD5 of the body.

The time is part of the signed text and is not held against a clock: the vendor's contract has no tolerance for it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import cast

from flask import Request

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.kit.wire import WireRequest
from localml.platform import Platform

TIMESTAMP = "X-Xiaomi-Timestamp"
CONTENT_MD5 = "X-Xiaomi-Content-MD5"
KEY_ID = "X-Xiaomi-Secret-Key-Id"
PREFIX = "Galaxy V3 "
REFUSED = "Unauthorized: signature is wrong"
"""The one text of all 401 answers; which part was wrong is nobody's business."""


def signature(secret: str, path: str, timestamp: str, content_md5: str) -> str:
    """The ``Authorization`` header of a request.

    Args:
        secret: the secret key.
        path: the path as sent, without host and query; Latin-1 as in WSGI.
        timestamp: the text of ``X-Xiaomi-Timestamp``.
        content_md5: the text of ``X-Xiaomi-Content-MD5``.
    """
    text = f"{path}\n{timestamp}\n{content_md5}\n".encode("latin-1", "replace")
    digest = hmac.new(secret.encode(), text, hashlib.sha1).digest()
    return PREFIX + base64.b64encode(digest).decode("ascii")


def authenticate(platform: Platform, request: Request) -> Caller:
    """The owner of the access key that signed a request; the administrator where authentication is switched off.

    Raises:
        LocalmlError: ``UNAUTHENTICATED`` when a header is missing, the key is unknown, the MD5 is not the body's, or
            the signature is wrong.
    """
    if not platform.config.auth:
        return platform.identity.user(ADMIN)
    given = [request.headers.get(name, "") for name in (KEY_ID, TIMESTAMP, CONTENT_MD5, "Authorization")]
    if not all(given):
        raise refused()
    key, timestamp, content_md5, authorization = given
    try:
        caller, secret = platform.identity.by_key(key)
    except LocalmlError as error:
        if error.code is Code.UNAUTHENTICATED:
            raise refused() from error
        raise
    path = cast(WireRequest, request).raw_path
    if not _same(signature(secret, path, timestamp, content_md5), authorization):
        raise refused()
    # only now is the body read: it may be large, and nobody unknown shall make the server read it
    body = hashlib.md5(request.get_data(cache=True), usedforsecurity=False).hexdigest()
    if not _same(body, content_md5.lower()):
        raise refused()
    return caller


def refused() -> LocalmlError:
    """The 401 of this API."""
    return LocalmlError(Code.UNAUTHENTICATED, REFUSED)


def _same(expected: str, given: str) -> bool:
    return hmac.compare_digest(expected.encode(), given.encode())
