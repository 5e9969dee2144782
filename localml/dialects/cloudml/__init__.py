"""Xiaomi Cloud-ML at ``/cloud_ml/v1``: training jobs, model services, development environments, tensorboards, quota.

Where the vendor's service differs from one machine, this dialect does so:

- A job's files come from the bucket tree; Kerberos passwords and keytabs are dropped, not stored.
- Node selectors are kept and answered, and choose nothing: there is one machine.
- ``model_input_path``, ``model_export_path``, ``data_input_path``, ``data_output_path`` and ``log_path`` reach the
  program as environment variables of the same names in capitals.
- A model service is served by the gateway: over TensorFlow Serving's gRPC at ``address``, over HTTP (Open Inference
  Protocol) at ``http_address``. ``model_args`` reach an image of one's own as ``MODEL_ARGS``. ``use_seldon`` and
  ``tensorflow_service_http`` are kept and answered, and choose nothing.
- ``model_name``, ``model_version`` and ``tensorboard_logdir`` of a training job are kept and answered; a service or a
  tensorboard is made of it by a request of its own.
- A development environment is a JupyterLab, opened with the ``password`` of the request; there is no ssh. Its files
  are in the folder that localml keeps for the user under the environment's name, and outlast it.
- A tensorboard's ``address`` ends in ``/?token=...``: the vendor's clients print it, and a browser opens it.
- Environments count in the pool ``cloudml/dev/<organisation>``, tensorboards in ``cloudml/tensorboard/<organisation>``:
  the documented quota has no members for these, so ``tensorboard_quota`` and ``tensorboard_used`` count them, as the
  published client expects.
- A volume is a folder of the bucket tree (``fds://bucket/folder``), or, by a bare name, one that localml keeps.
"""

from __future__ import annotations

from flask import Flask

from localml.dialects.cloudml.auth import authenticate
from localml.dialects.cloudml.document import SECURITY_SCHEMES, complete
from localml.dialects.cloudml.errors import render_error
from localml.dialects.cloudml.routes.services import api as model_api
from localml.dialects.cloudml.routes.tools import api as tool_api
from localml.dialects.cloudml.routes.training import api
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
    apis=(api, model_api, tool_api),
    security_schemes=SECURITY_SCHEMES,
    document=complete,
    typeless=True,
    scoped=True,
)


def create_app(platform: Platform) -> Flask:
    """The app that serves this dialect of a platform."""
    return make_app(DIALECT, platform)
