"""What answers without credentials: the whole list, with the reason for each.

Nothing else does. An operation of a dialect that is not in :data:`TABLE` asks for a caller (``kit/app.py`` reads it);
``tests/reliability/test_strangers.py`` holds the table against what really answers. What is in it shows no sealed
value.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from flask import Request

from localml.config import Config
from localml.dialects import REGISTRY

SERVER, GATEWAY, PORTS = "server", "gateway", "ports"
"""What is no dialect: the server's own pages, the model gateway, and ports that programs of users listen on."""


class Group(StrEnum):
    """Why something is open, and with that: to whom, and what closes it."""

    HEALTH = "health"
    DOCUMENTS = "documents"
    TOKENS = "tokens"
    FRAMEWORKS = "cloudml-frameworks"
    OPENPAI_READS = "openpai-reads"
    CLOUDML_SERVICES = "cloudml-services"
    PUBLIC_ENDPOINTS = "public-endpoints"
    MLBENCH = "mlbench"
    PROGRAMS = "programs"


ALWAYS = frozenset({Group.HEALTH, Group.DOCUMENTS, Group.TOKENS, Group.PROGRAMS})
"""From everywhere, whatever the settings are. The others are open to this machine only, but for
:attr:`Group.PUBLIC_ENDPOINTS`, and ``up --closed`` closes them: behind a proxy on this machine, for whom everybody is
here, that is how to run it."""
ASKED_FOR = frozenset({Group.MLBENCH})
"""Closed unless ``up --open`` names them."""


@dataclass(frozen=True, slots=True)
class Open:
    """One operation.

    Attributes:
        api: a dialect's name, or one of :data:`SERVER`, :data:`GATEWAY` and :data:`PORTS`.
        operation: name of the endpoint (``blueprint.function``), or the path.
        as_admin: it is done in the administrator's name, which the dialect's ``authenticate`` sees to; the others
            have no caller.
    """

    api: str
    operation: str
    group: Group
    reason: str
    as_admin: bool = False


_READS = "the vendor's document has it without a token, and its clients and pages read so"
_OWN = "the image alone can look at the token in its environment, and may"


def _rows(api: str, group: Group, reason: str, *names: str, as_admin: bool = False) -> Iterator[Open]:
    return (Open(api, f"{api}.{name}", group, reason, as_admin) for name in names)


TABLE: tuple[Open, ...] = (
    Open(SERVER, "/healthz", Group.HEALTH, "whoever starts the server waits for it; it says that it lives"),
    Open(GATEWAY, "/healthz", Group.HEALTH, "the server and load balancers ask it; it says that it lives"),
    *(
        Open(one.name, "document", Group.DOCUMENTS, "the OpenAPI document, which is the same everywhere")
        for one in REGISTRY
        if one.prefixes
    ),
    *_rows("openpai", Group.HEALTH, "portals ask it whether the API is there; it says so and no more", "get_api"),
    *_rows("openpai", Group.TOKENS, "takes name and password, and is how one gets a token", "issue_token"),
    *_rows(
        "openpai",
        Group.OPENPAI_READS,
        _READS,
        "list_jobs",
        "get_job_status",
        "get_job_config",
        "get_job_ssh",
        "list_virtual_clusters",
        "get_virtual_cluster",
    ),
    *_rows(
        "cloudml",
        Group.FRAMEWORKS,
        "the vendor's document has it without a signature; names of frameworks, the same everywhere",
        "list_frameworks",
        "post_frameworks",
    ),
    Open(GATEWAY, "ports of Cloud-ML's services", Group.CLOUDML_SERVICES, "its gRPC clients send no credentials"),
    Open(GATEWAY, "endpoints made with --public", Group.PUBLIC_ENDPOINTS, "who may share the endpoint has said so"),
    *_rows(
        "mlbench",
        Group.MLBENCH,
        "the vendor's client knows no credentials, where it is not given the address that 'localml env' prints",
        "list_worker_pods",
        "list_all_metrics",
        "record_metric",
        "get_metrics",
        "list_runs",
        "start_run",
        "get_run",
        "delete_run",
        as_admin=True,
    ),
    Open(PORTS, "replicas of an image of one's own", Group.PROGRAMS, _OWN),
    Open(PORTS, "notebooks, TensorBoards of an image of one's own", Group.PROGRAMS, _OWN),
    Open(
        PORTS, "ports that jobs and environments publish", Group.PROGRAMS, "what listens there is the job's own program"
    ),
)


def is_open(config: Config, group: Group, address: str | None) -> bool:
    """Whether a group is open to who calls from this address."""
    if group in ALWAYS:
        return True
    asked = group not in ASKED_FOR or group.value in config.open
    return asked and not config.closed and is_here(address)


def opened(config: Config, api: str, request: Request) -> Open | None:
    """The row of the operation that a request is for, if it needs no credentials."""
    wanted = (api, request.endpoint)
    for row in TABLE:
        if (row.api, row.operation) == wanted:
            return row if is_open(config, row.group, request.remote_addr) else None
    return None


def is_here(address: str | None) -> bool:
    """Whether an address is this machine's loopback."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
