"""What MLBench's client needs to know: where the API is, and the variables that it reads."""

from __future__ import annotations

from localml.core.people.identity import Credentials

BASE = "/api"
"""What the API's endpoint adds to the server's URL."""
ADDRESS_RIGHTS = ("workload:read", "workload:create", "workload:report", "workload:stop", "workload:delete")
"""What the token in the address is good for, in its user's own workspace: the client takes no other credentials."""


def variables(credentials: Credentials, url: str, endpoint: str) -> dict[str, str]:
    """Environment variables with the server's ``url``, or the API's own ``endpoint``, and credentials."""
    return {"MLBENCH_DASHBOARD_URL": url}
