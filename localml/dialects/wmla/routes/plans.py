"""Resource plans: pools."""

from __future__ import annotations

from localml.dialects.kit import Operations
from localml.dialects.wmla.document import SCHEME
from localml.dialects.wmla.environment import BASE

api = Operations("wmla_plans", __name__, url_prefix=BASE, abp_security=[{SCHEME: []}])
