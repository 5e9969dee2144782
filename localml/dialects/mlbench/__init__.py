"""MLBench's dashboard at ``/api``: benchmark runs, their worker pods, and metrics.

Where the vendor's service differs from one machine, this dialect does so:

- The vendor's API knows no authentication. Here it wants HTTP Basic or a bearer token, and the vendor's client takes
  the former from its address: ``localml env mlbench`` prints one with a token that may read, start, stop and delete
  what runs in its user's own workspace and nothing else. ``localml up --open mlbench`` answers programs on this
  machine without, in the administrator's name.
- Runs are in their user's own workspace, and each user sees those that it may read; administrators see all. One run is
  active at a time, whoever's it is.
- The programs of a run find the address in ``MLBENCH_DASHBOARD_URL``, with a token of their run alone: they read it and
  post its metrics until it is over.
- A run's workers are one gang that reaches each other by name. Their command is given ``{hosts}``, ``{rank}``,
  ``{run_id}`` and ``{backend}``, and the variables that ``torch.distributed`` reads.
- A run that names no image trains the benchmark that comes with localml (``benchmark.py``) on all workers.
- The MPI backend is MPICH's: the first worker's ``mpiexec`` starts the command on all workers, over SSH with a key made
  for the run. The image must be ``localml/train-pytorch`` or made from it. Without containers such runs are refused.
- ``max_bandwidth`` is kept, and limits nothing.
"""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response, request

from localml.dialects.kit import Dialect, make_app
from localml.dialects.kit.authorization import CHALLENGE
from localml.dialects.mlbench.auth import authenticate
from localml.dialects.mlbench.document import SECURITY_SCHEMES, complete
from localml.dialects.mlbench.errors import render_error
from localml.dialects.mlbench.routes import api
from localml.dialects.mlbench.translate.pods import POOL
from localml.platform import Platform

__all__ = ["create_app"]

DIALECT = Dialect(
    name=__name__,
    prefix="/api",
    title="MLBench dashboard API",
    version="1",
    authenticate=authenticate,
    render_error=render_error,
    apis=(api,),
    security_schemes=SECURITY_SCHEMES,
    document=complete,
    takes_forms=True,
    scoped=True,
)
JSON, SCRIPT = "application/json", "text/javascript"


def create_app(platform: Platform) -> Flask:
    """The app that serves this dialect of a platform."""
    platform.pools.ensure(POOL, max_workloads=1)  # one run at a time
    app = make_app(DIALECT, platform)
    app.after_request(_negotiate)
    return app


def _negotiate(response: Response) -> Response:
    """The same JSON text under the media type that the client prefers."""
    response.vary.add("Accept")
    if response.mimetype == JSON and request.accept_mimetypes.best_match([JSON, SCRIPT], JSON) == SCRIPT:
        response.content_type = SCRIPT
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = CHALLENGE
    return response
