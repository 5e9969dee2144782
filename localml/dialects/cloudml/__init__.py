"""Xiaomi Cloud-ML at ``/cloud_ml/v1``: training jobs, quota and frameworks.

Where the vendor's service differs from one machine, this dialect does so:

- A job's files come from the bucket tree; Kerberos passwords and keytabs are dropped, not stored.
- Node selectors are kept and answered, and choose nothing: there is one machine.
- ``model_input_path``, ``model_export_path``, ``data_input_path``, ``data_output_path`` and ``log_path`` reach the
  program as environment variables of the same names in capitals.
- A volume is a folder of the bucket tree (``fds://bucket/folder``), or, by a bare name, one that localml keeps.
"""

from __future__ import annotations

from flask import Flask

from localml.dialects.cloudml.auth import authenticate
from localml.dialects.cloudml.document import SECURITY_SCHEMES, complete
from localml.dialects.cloudml.errors import render_error
from localml.dialects.cloudml.routes import PUBLIC, api
from localml.dialects.kit import Dialect, make_app
from localml.platform import Platform

__all__ = ["create_app"]

DIALECT = Dialect(
    name=__name__,
    prefix="/cloud_ml",
    title="Xiaomi Cloud-ML API",
    version="1",
    authenticate=authenticate,
    render_error=render_error,
    apis=(api,),
    public=PUBLIC,
    security_schemes=SECURITY_SCHEMES,
    document=complete,
)


def create_app(platform: Platform) -> Flask:
    """The app that serves this dialect of a platform."""
    return make_app(DIALECT, platform)
