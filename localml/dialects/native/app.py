"""Putting the API together."""

from __future__ import annotations

from flask import Flask

from localml import __version__
from localml.core.errors import LocalmlError
from localml.dialects.kit import Dialect, make_app
from localml.dialects.native.auth import authenticate
from localml.dialects.native.errors import STATUS, error_body
from localml.dialects.native.routes import blueprints
from localml.platform import Platform

PREFIX = "/localml/v1"
MAX_BODY = 16 << 20
"""Bytes of a JSON body; objects are streamed and have no limit but the disk's."""


def create_app(platform: Platform) -> Flask:
    """The app of this dialect, for requests below :data:`PREFIX`."""
    dialect = Dialect(
        name="localml.dialects.native",
        prefix=PREFIX,
        title="localml",
        version=__version__,
        authenticate=authenticate,
        render_error=_render,
        apis=tuple(blueprints(PREFIX, platform)),
        documented=lambda: blueprints(PREFIX, platform, documented=True),
        security_schemes={
            "token": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic"},
        },
        max_body=MAX_BODY,
    )
    return make_app(dialect, platform)


def _render(error: LocalmlError) -> tuple[int, dict[str, object]]:
    return STATUS[error.code], error_body(error)
