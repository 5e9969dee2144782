"""HyperSearch: built-in and installed algorithms."""

from __future__ import annotations

from localml.dialects.kit import Operations
from localml.dialects.wmla.document import SCHEME
from localml.dialects.wmla.environment import BASE

api = Operations("wmla_algorithms", __name__, url_prefix=BASE, abp_security=[{SCHEME: []}])
