"""IBM WMLA's deep learning API at ``/platform/rest/deeplearning/v1``: training tasks, hyperparameter search, notebooks,
resource plans, applications.
"""

from __future__ import annotations

from flask import Flask

from localml.dialects.kit import Dialect, make_app
from localml.dialects.wmla.auth import authenticate
from localml.dialects.wmla.document import SECURITY_SCHEMES, complete
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import render_error
from localml.dialects.wmla.routes import algorithms, conf, engine, execs, logon, notebooks, plans, scheduler, searches
from localml.platform import Platform

__all__ = ["create_app"]

DIALECT = Dialect(
    name=__name__,
    prefix=BASE,
    title="WMLA deep learning API",
    version="v1",
    authenticate=authenticate,
    render_error=render_error,
    apis=(
        logon.api,
        conf.api,
        execs.api,
        algorithms.api,
        searches.api,
        notebooks.api,
        plans.api,
        scheduler.api,
        engine.api,
    ),
    security_schemes=SECURITY_SCHEMES,
    document=complete,
    typeless=True,
    scoped=True,
)


def create_app(platform: Platform) -> Flask:
    """The app that serves this dialect of a platform."""
    return make_app(DIALECT, platform)
