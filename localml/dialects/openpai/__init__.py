"""OpenPAI's REST server at ``/api/v1``: tokens, users, jobs and virtual clusters.

Where the vendor's service differs from one machine, this dialect does so:

- ``hdfs://`` directories are folders of the bucket tree (bucket ``hdfs``), whatever host they name; a program finds
  them below ``$LOCALML_BUCKETS/hdfs``. ``$PAI_...`` references in them are expanded.
- A virtual cluster is a pool ``openpai/NAME``. ``capacity`` and ``maxCapacity`` are both the pool's limit as a share of
  the machine: nothing is set aside for a pool, and none can go beyond its limit.
- A port that a task is given is the same inside its container and on this machine. A port of the user's own choice is,
  where several tasks ask for it, one of each container, and another one on the machine.
- START runs a job that is over once more; the former run stays among the records, hidden.
- A job without ``taskRoles`` is refused, as the vendor's server does. One of former versions is one task that runs the
  image's own command, and can be started again.
"""

from __future__ import annotations

from flask import Flask

from localml.core.people.identity import ADMIN
from localml.core.people.rights import MemberRole
from localml.dialects.kit import Dialect, make_app
from localml.dialects.openpai.auth import authenticate
from localml.dialects.openpai.document import SECURITY_SCHEMES, complete
from localml.dialects.openpai.errors import render_error
from localml.dialects.openpai.routes import api
from localml.dialects.openpai.translate.clusters import DEFAULT, pool_of
from localml.dialects.openpai.translate.jobs import DIALECT as ORIGIN
from localml.platform import Platform

__all__ = ["create_app"]

DIALECT = Dialect(
    name=__name__,
    prefix="/api/v1",
    title="OpenPAI REST server API",
    version="v1",
    authenticate=authenticate,
    render_error=render_error,
    apis=(api,),
    security_schemes=SECURITY_SCHEMES,
    document=complete,
    takes_forms=True,
    scoped=True,
)


def create_app(platform: Platform) -> Flask:
    """The app that serves this dialect of a platform. The virtual cluster ``default`` exists from then on."""
    platform.pools.ensure(pool_of(DEFAULT))
    platform.workspaces.ensure(ORIGIN, owner=platform.identity.user(ADMIN), everyone=MemberRole.MEMBER)
    return make_app(DIALECT, platform)
