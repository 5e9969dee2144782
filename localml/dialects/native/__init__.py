"""localml's own API at ``/localml/v1``: all that the platform can do, for the command line, the client and the UI."""

from __future__ import annotations

from flask import Flask

from localml import __version__
from localml.dialects.kit import Dialect, make_app
from localml.dialects.native.auth import SECURITY_SCHEMES, authenticate
from localml.dialects.native.errors import render_error
from localml.dialects.native.routes import PREFIX, blueprints
from localml.platform import Platform

__all__ = ["create_app"]

MAX_BODY = 2 << 20
"""Bytes of a JSON body: twice what one role may have. Objects are streamed and have no limit but the disk's."""


def create_app(platform: Platform) -> Flask:
    """The app that serves this dialect of a platform."""
    dialect = Dialect(
        name=__name__,
        prefix=PREFIX,
        title="localml",
        version=__version__,
        authenticate=authenticate,
        render_error=render_error,
        apis=tuple(blueprints(platform)),
        security_schemes=SECURITY_SCHEMES,
        max_body=MAX_BODY,
        scoped=True,
    )
    return make_app(dialect, platform)
