"""The app factory: one Flask app per dialect, so that every failure comes back in the vendor's own shape."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Request, Response, g, jsonify, request
from flask_openapi.models.info import Info
from flask_openapi.openapi import OpenAPI
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.identity import Caller
from localml.dialects.kit.bodies import check_length, merged, most_values, set_limit
from localml.dialects.kit.context import EXTENSION
from localml.dialects.kit.errors import from_http, from_pydantic
from localml.dialects.kit.guard import Watchman, watch_body
from localml.dialects.kit.open import ALWAYS, opened
from localml.dialects.kit.operations import Operations
from localml.dialects.kit.schemas import forget_schemas, remember_schemas
from localml.dialects.kit.seats import slow_turn, take_seat
from localml.dialects.kit.wire import WireRequest
from localml.httpd.body import BodyBroken, BodyTooLarge
from localml.httpd.environ import KNOWN
from localml.httpd.guard import GUARD
from localml.httpd.origin import REFUSED
from localml.httpd.server import TOO_LARGE
from localml.platform import Platform

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("localml.dialects")

remember_schemas()

DOCUMENT = "openapi.json"
_GENERATED = "422"  # where flask-openapi documents its own validation answer, which is never sent


@dataclass(frozen=True, slots=True)
class Dialect:
    """What makes an app one vendor's.

    Attributes:
        name: also the app's import name, such as ``localml.dialects.cloudml``.
        prefix: everything is served below it, the OpenAPI document as ``<prefix>/openapi.json``.
        authenticate: who calls; asked before a request to a known URL is looked at any further. Raises
            ``UNAUTHENTICATED``.
        render_error: HTTP status and JSON body of a failure.
        apis: the operations.
        security_schemes: for the document.
        document: changes the generated document in place, for what the generator cannot say.
        max_body: bytes of a request body, unless an operation has a :func:`localml.dialects.kit.bodies.body_limit`.
        takes_forms: whether bodies may be forms as well as JSON.
        typeless: whether bodies are JSON whatever their Content-Type says, because the vendor's client sends none.
        scoped: whether every operation asks :func:`localml.core.people.allow.allow`. Others take no tokens with a
            scope, because nothing would hold such a token to it.
    """

    name: str
    prefix: str
    title: str
    version: str
    authenticate: Callable[[Platform, Request], Caller]
    render_error: Callable[[LocalmlError], tuple[int, dict[str, Any]]]
    apis: tuple[Operations, ...]
    security_schemes: dict[str, Any] = field(default_factory=dict)
    document: Callable[[dict[str, Any]], None] = lambda _: None
    max_body: int = 1 << 20
    takes_forms: bool = False
    typeless: bool = False
    scoped: bool = False


def make_app(dialect: Dialect, platform: Platform) -> Flask:
    """An app that serves one dialect of a platform.

    Whatever goes wrong in it (an unknown URL, a wrong method, a body that is too large or malformed, a defect) is
    answered through ``dialect.render_error``; defects are logged and answered without particulars.
    """
    app = _App(dialect)
    app.extensions[EXTENSION] = platform
    app.config["MAX_CONTENT_LENGTH"] = dialect.max_body
    app.config["MAX_FORM_MEMORY_SIZE"] = dialect.max_body
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    _add_error_handlers(app, dialect)
    api_name = dialect.name.rpartition(".")[2]

    def identify() -> Response | None:
        if (refusal := request.environ.get(REFUSED)) is not None:
            raise LocalmlError(Code.FORBIDDEN, refusal, details={"refused": True})
        if request.endpoint is None:
            return None  # the answer is that there is no such operation, whatever the body is
        free = opened(platform.config, api_name, request)
        stranger = free is not None and not free.as_admin
        set_limit(app, request, stranger=stranger)
        cast(WireRequest, request).most_values = most_values(app, request.endpoint)
        if not stranger:
            g.caller = _known(dialect, platform)
        elif free is not None and free.group not in ALWAYS and request.authorization is not None:
            with _strangers_too():
                g.caller = _known(dialect, platform)
        if free is None and KNOWN in request.environ:
            request.environ[KNOWN]()
        if TOO_LARGE in request.environ:
            raise RequestEntityTooLarge
        check_length(request)
        if "caller" not in g:
            return None
        take_seat(request.environ, g.caller.id)
        return slow_turn(app, request, g.caller.id)

    app.before_request(identify)
    for api in dialect.apis:
        app.register_api(api)
    app.add_url_rule(f"{dialect.prefix}/{DOCUMENT}", "document", _document_view(dialect))
    app.wsgi_app = _merge_slashes(app.wsgi_app)  # type: ignore[assignment,method-assign]
    return app


def _known(dialect: Dialect, platform: Platform) -> Caller:
    """Who calls; whoever has waited for an answer and lost a right meanwhile does not get it."""
    asked = cast(Request, request._get_current_object())  # type: ignore[attr-defined]
    guard = Watchman(platform.feed, lambda: dialect.authenticate(platform, asked))
    before: Watchman | None = request.environ.get(GUARD)
    for one in (guard, before):  # the new one too: to know who calls may have taken reading the body
        if one is not None:
            one.need()
    request.environ[GUARD] = before or guard
    watch_body(request.environ, before or guard)
    who = guard.caller
    if who.scope.restricts and not dialect.scoped:
        raise LocalmlError(Code.FORBIDDEN, "this API takes no tokens with a scope")
    return who


@contextmanager
def _strangers_too() -> Iterator[None]:
    """For what is open: who is known sees what is theirs to see, and whose credentials are none is anybody."""
    try:
        yield
    except LocalmlError as error:
        if error.code is not Code.UNAUTHENTICATED:
            raise


def _document_view(dialect: Dialect) -> Callable[[], Response]:
    """Answers the document, that of a twin which is made for it and thrown away."""

    @cache
    def text() -> str:
        twin = _App(dialect)
        for api in dialect.apis:
            twin.register_api(api.described())
        forget_schemas()
        return json.dumps(twin.api_doc)

    return lambda: Response(text(), mimetype="application/json")


class _App(OpenAPI):
    """flask-openapi's app with its document put right."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(
            dialect.name,
            info=Info(title=dialect.title, version=dialect.version),
            security_schemes=dialect.security_schemes,
            validation_error_status=_GENERATED,
            validation_error_callback=_refuse,
            doc_ui=False,
            static_folder=None,
        )
        self._dialect = dialect
        self.openapi_version = "3.1.0"
        rules = {"takes_forms": dialect.takes_forms, "typeless": dialect.typeless}
        self.request_class = type("DialectRequest", (WireRequest,), rules)

    def generate_spec_json(self) -> None:
        """Write the document. The generator adds an answer of its own to each operation, an array of its error
        model, which this server never sends."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        for path in self.spec_json["paths"].values():
            for operation in path.values():
                answer = operation["responses"].get(_GENERATED, {})
                if _is_array(answer):
                    del operation["responses"][_GENERATED]
        self.spec_json["components"]["schemas"].pop(self.validation_error_model.__name__, None)
        self._dialect.document(self.spec_json)


def _is_array(answer: dict[str, Any]) -> bool:
    media = answer.get("content", {}).get("application/json", {})
    return bool(media.get("schema", {}).get("type") == "array")


def _refuse(error: ValidationError) -> None:
    raise from_pydantic(error)


def _add_error_handlers(app: Flask, dialect: Dialect) -> None:
    def render(error: LocalmlError) -> Response:
        status, body = dialect.render_error(error)
        response = jsonify(body)
        response.status_code = status
        if "allowed" in error.details:
            response.headers["Allow"] = ", ".join(error.details["allowed"])
        if "retry_after" in error.details:
            response.headers["Retry-After"] = str(error.details["retry_after"])
        return response

    def unexpected(error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.path, exc_info=error)
        return render(LocalmlError(Code.INTERNAL, "an internal error, which the server's log describes"))

    app.register_error_handler(LocalmlError, render)
    app.register_error_handler(ValidationError, lambda error: render(from_pydantic(error)))
    app.register_error_handler(BodyBroken, lambda error: render(invalid("body", str(error))))
    app.register_error_handler(BodyTooLarge, lambda error: render(LocalmlError(Code.TOO_LARGE, str(error))))
    app.register_error_handler(HTTPException, lambda error: render(from_http(error, request.path)))
    app.register_error_handler(Exception, unexpected)


def _merge_slashes(inner: WSGIApplication) -> WSGIApplication:
    """Serve ``/a//b`` like ``/a/b``: endpoints configured with a final slash make clients send such paths, and a
    redirect would break their signature. ``REQUEST_URI``, which signatures cover, stays as it was sent."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = merged(environ.get("PATH_INFO", ""))
        return inner(environ, start_response)

    return call
