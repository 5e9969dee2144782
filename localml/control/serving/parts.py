"""Everything that serves, put together: registry, endpoints, their controller and the gateway's process."""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from localml.config import LOOPBACK
from localml.control.jobs.hostports import free_port, is_free
from localml.control.serving.controller import ServingController, Surroundings
from localml.control.serving.gateway_process import GatewaySupervisor
from localml.control.serving.load import EndpointRecord, VariantRecord
from localml.control.serving.outputs import OutputWatcher
from localml.control.serving.probes import Page, get
from localml.control.serving.replicas import SERVER_START, ServingSite, check_options, replica_spec, served_model
from localml.control.serving.routes import Keys
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.events.feed import Feed
from localml.core.events.records import record_event
from localml.core.logs.files import LogStore
from localml.core.people.allow import MACHINE, Thing, may
from localml.core.people.identity import Caller, Identity
from localml.core.people.rights import Action, ThingKind
from localml.core.people.tokens import Tokens
from localml.core.ports import Store
from localml.core.registry.registry import Fetch, Registry
from localml.core.registry.tables import ModelVersion
from localml.core.serving.endpoints import Endpoints
from localml.core.serving.specs import EndpointSpec, VariantSpec
from localml.core.serving.tables import Endpoint
from localml.core.subjects import PLATFORM, Subject
from localml.core.work.specs import need_unprivileged
from localml.core.work.workloads import Submission, Workloads

log = logging.getLogger("localml.control")

_CHECKER = Caller(0, "localml", True, "", "")
_LEARN_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What serving is made of.

    Attributes:
        host, port, port_asked, names: of the gateway (see :class:`GatewaySupervisor`).
        auth: whether requests to endpoints need a token (those that are public do only where it is ``closed``).
        replica_token: what the replica of an attempt (by id) knows the gateway and us by.
        check: refuses what can never run here, admits who may run nothing here.
        missing: why an image of ours cannot be used yet; empty when it can, or nobody knows.
        names_in: names of the files in a folder of objects; none where there is none that the
            caller may read.
    """

    db: Store
    clock: Clock
    workloads: Workloads
    logs: LogStore
    identity: Identity
    tokens: Tokens
    feed: Feed
    data: Path
    site: ServingSite
    host: str
    port: int
    port_asked: bool
    names: tuple[str, ...]
    auth: bool
    closed: bool
    replica_token: Callable[[int], str]
    fetch: Fetch
    names_in: Callable[[Caller, str], list[str]]
    check: Callable[[Submission], object]
    admits: Callable[[Caller], None]
    missing: Callable[[str], str]
    why: Callable[[int], str]


class Serving:
    """The parts that serve, of one installation."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.registry = Registry(parts.db, parts.clock, parts.data, parts.fetch)
        self.gateway = GatewaySupervisor(
            parts.data, parts.host, parts.port, tell=self._tell, names=parts.names, asked=parts.port_asked
        )
        around = Surroundings(
            data=parts.data,
            site=parts.site,
            keys=Keys(
                self._tokens,
                self._readers,
                parts.tokens.hashes,
                parts.replica_token,
                here=parts.host in LOOPBACK,
                closed=parts.closed and parts.auth,
            ),
            why=parts.why,
            owner=self._owner,
            changed=lambda number: parts.feed.changed(Subject.endpoint(number)),
            learn=self._learn,
        )
        self.controller = ServingController(
            parts.db, parts.workloads, parts.logs, parts.clock, around, gateway=self.gateway
        )
        self.endpoints = Endpoints(
            parts.db, parts.clock, check=self._check, admits=parts.admits, nudge=self.controller.nudge
        )
        self.outputs = OutputWatcher(parts.db, self.registry, parts.clock, parts.identity.owner, parts.names_in)

    def start(self) -> None:
        """Take up what an earlier server left."""
        self.registry.sweep()
        self.controller.start()
        self.outputs.start()

    def close(self) -> None:
        """Stop looking; replicas and gateway go on."""
        self.outputs.close()
        self.controller.close()

    def changed(self, workload_id: int) -> None:
        """A workload changed."""
        self.controller.workload_changed(workload_id)
        self.outputs.nudge()

    def free_port(self) -> int:
        """A port that nobody listens on, for an endpoint to have to itself."""
        with ExitStack() as held:
            return free_port(self.endpoints.gateway_ports(), held)

    def need_free(self, port: int, field: str, caller: Caller) -> None:
        """Refuse a port that somebody listens on, or that is not for this caller.

        Raises:
            LocalmlError: ``CONFLICT`` or ``INVALID`` naming the field.
        """
        if not may(caller, Action.ADMINISTER, MACHINE):
            need_unprivileged(port, field)
        if not is_free(port):
            raise LocalmlError(Code.CONFLICT, f"{field}: port {port} is in use on this machine", field=field)

    def _check(self, spec: VariantSpec, version: ModelVersion | None, replicas: int, by: Caller | None) -> None:
        check_options(spec)
        in_their_image = spec.image and not spec.has_own_server(version.format if version is not None else "")
        if in_their_image and not (self._parts.site.server() / SERVER_START).is_file():
            words = f"the server is not ready to run in {spec.image}; first: localml images build --onto {spec.image}"
            raise LocalmlError(Code.UNAVAILABLE, words)
        workload = replica_spec(self._parts.site, EndpointSpec(), spec, "check", served_model(version))
        together = tuple(role.model_copy(update={"count": replicas}) for role in workload.roles)
        workload = workload.model_copy(update={"roles": together})
        self._parts.check(Submission(name="check", spec=workload, caller=_CHECKER, by=by, sees=by))
        trouble = self._parts.missing(workload.roles[0].image)
        if trouble:
            raise LocalmlError(Code.UNAVAILABLE, trouble)

    def _owner(self, row: Endpoint) -> Caller:
        return self._parts.identity.owner(row.owner_id)

    def _tokens(self, row: Endpoint) -> tuple[str, ...] | None:
        """Of those who may use the endpoint: administrators, and whoever is anything in its workspace."""
        if not self._parts.auth:
            return None
        return self._parts.tokens.that_may(Action.USE, Thing.of(ThingKind.ENDPOINT, row))

    def _readers(self) -> tuple[str, ...] | None:
        """Of administrators, because what is counted names the endpoints of all."""
        if not self._parts.auth:
            return None
        return self._parts.tokens.that_may(Action.READ, MACHINE, administrators=True)

    def _tell(self, reason: str, message: str, warning: bool) -> None:
        now = self._parts.clock.now()
        try:
            self._parts.db.write(lambda s: record_event(s, PLATFORM, reason, message, now=now, warning=warning))
        except LocalmlError as error:
            log.error("%s (not recorded: %s)", message, error)

    def _learn(self, place: Page, record: EndpointRecord, variant: VariantRecord) -> None:
        page = replace(place, url=f"{place.url}/v2/models/{record.row.route}")
        number = variant.row.model_version_id or 0
        threading.Thread(target=self._ask_io, args=(page, number), name="localml-learn", daemon=True).start()

    def _ask_io(self, page: Page, version_id: int) -> None:
        try:
            found = json.loads(get(page, _LEARN_TIMEOUT_S)[1])
            self.registry.learn(version_id, found["inputs"], found["outputs"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
            log.info("inputs of model version %d are not known: %r", version_id, error)
        except LocalmlError as error:
            log.info("inputs of model version %d are not known: %s", version_id, error)
