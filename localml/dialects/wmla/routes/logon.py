"""Logging on: a token for a name and a password."""

from __future__ import annotations

from localml.dialects.kit import Operations
from localml.dialects.wmla.document import SCHEME

api = Operations("wmla_logon", __name__, url_prefix="/auth/v1", abp_security=[{SCHEME: []}])
