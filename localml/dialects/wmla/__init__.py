"""IBM WMLA's deep learning API at ``/platform/rest/deeplearning/v1``: training tasks, hyperparameter search, notebooks,
resource plans, applications.

Where one machine differs from the vendor's cluster:

* A task is a gang of workers without a driver: its first worker is what the document calls the driver.
* A search is a study of the core, its trainings are children of it; any client of the server sees them.
* Conda environments are names alone: a framework is a runtime of the catalog, a plugin algorithm has an environment of
  its own, made from its ``requirements.txt``.
* Data are places in the bucket tree, results a bucket of each user's. Connections and data assets name buckets.
* Resource plans are pools. Elastic inference is an endpoint behind the gateway, which serves its address, too.
* Nothing is started for a user's notebook here; the one that the user started by other means is the user's service.

docs/vendors.md has the particulars.
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
