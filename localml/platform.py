"""One installation, put together: the only place where the parts meet.

Dialects, the command line and the tests get a :class:`Platform` and use its services; nothing is found through
module-level state.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from localml.config import LOOPBACK, Config
from localml.control.jobs.accounts import Accounts
from localml.control.jobs.code import CodeFolders
from localml.control.jobs.demands import Reason
from localml.control.jobs.hardware import GpuView as GpuView
from localml.control.jobs.hardware import Hardware, Size
from localml.control.jobs.mounts import Mounts
from localml.control.jobs.pins import Pins
from localml.control.jobs.reconciler import Reconciler
from localml.control.jobs.site import Possible, open_site
from localml.control.jobs.work_folders import put
from localml.control.leaving import wait_for_ends
from localml.control.serving.parts import Parts, Serving
from localml.control.serving.replicas import ServingSite
from localml.control.shell.shells import Shells
from localml.control.studies.parts import Searching
from localml.control.watch.gpus import GpuWatch
from localml.control.watch.idle import IdleWatch
from localml.control.watch.leavers import Leavers
from localml.control.watch.metrics import MetricsWatch
from localml.control.watch.restarts import Restarts
from localml.control.watch.sampler import Sampler
from localml.control.watch.upkeep import Upkeep
from localml.core.buckets.records import BucketRecords
from localml.core.capacity import pools
from localml.core.capacity.pools import Pools
from localml.core.catalog import Catalog, load_catalog
from localml.core.clock import Clock, SystemClock
from localml.core.errors import LocalmlError
from localml.core.events.feed import Feed
from localml.core.events.records import Events, record_event
from localml.core.instances.instances import Instances
from localml.core.instances.tables import Instance
from localml.core.instances.tools import Tools
from localml.core.logs.files import LogStore
from localml.core.logs.services import service_limit
from localml.core.metrics.folders import Folders
from localml.core.metrics.reading import Metrics
from localml.core.people.allow import Thing, may
from localml.core.people.credentials import Administrator
from localml.core.people.folders import by_number
from localml.core.people.identity import ADMIN, Caller, Credentials, Identity
from localml.core.people.keys import Keys
from localml.core.people.rights import Action, ThingKind
from localml.core.people.sealing import Sealer
from localml.core.people.secrets import Vault
from localml.core.people.tokens import Tokens
from localml.core.people.workspaces import Workspaces
from localml.core.public_ids import PublicIds
from localml.core.rows import install_id
from localml.core.series.samples import Samples
from localml.core.series.uses import Uses
from localml.core.subjects import PEOPLE, PLATFORM, Subject
from localml.core.work.code import kept_attempts
from localml.core.work.engines import Memory, abandon, kind_of, recall, remember
from localml.core.work.survey import Surveys
from localml.core.work.workloads import Workloads
from localml.engines.base import Engine
from localml.engines.choice import Chosen, choose_engine, container_ids, end_there, need_no_other
from localml.engines.runtimes import Images, open_images, server_folder, unmapped
from localml.gpus import Inventory, open_inventory
from localml.gpus.selection import runs_in
from localml.objects import Buckets, BucketsFor, fetch_unpacked, file_names
from localml.objects.access import adopt
from localml.objects.results import Results
from localml.objects.uploads import Uploads
from localml.store.database import Database
from localml.store.lock import DataLock
from localml.store.schema import prepare

_REPORTING = frozenset({"mlbench"})
"""Dialects whose programs report metrics by an API of their own."""


class Platform:
    """All services of one installation.

    Args:
        config: the settings.
        engine, inventory, clock: for tests; made from the settings when left out.

    Raises:
        LocalmlError: ``CONFLICT`` when another server holds the data directory, ``UNAVAILABLE`` when the engine
            that was asked for does not answer, ``INVALID`` for settings.
    """

    def __init__(
        self,
        config: Config,
        *,
        engine: Engine | None = None,
        inventory: Inventory | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.config = config
        self.clock: Clock = clock or SystemClock()
        self.started_at = self.clock.now()
        self.data = config.data
        self.lock = DataLock(config.data)
        try:
            self._open(engine, inventory)
        except BaseException:
            self.lock.release()
            raise

    def _open(self, engine: Engine | None, inventory: Inventory | None) -> None:
        self.data.chmod(0o700)
        self._open_core()
        self._open_machine(engine, inventory)
        self._open_work()
        self.serving = self._serving()
        self.registry, self.endpoints = self.serving.registry, self.serving.endpoints
        self._told_of_people = (
            self.serving.controller.nudge,
            self.ssh.people_changed,
            self.leavers.nudge,
            self._administrator.check,
        )
        self.identity.nudge = self._people_changed
        self.identity.attempts.tell = self._guessed

    def _open_core(self) -> None:
        self.db = Database(prepare(self.data))
        self.install = install_id(self.db)
        self.public_ids = PublicIds(self.install)
        vault = self._vault = Vault.open(self.data / "secret.key")
        self.identity = Identity(self.db, vault, self.clock)
        by_number(self.data, self.db)
        self.tokens = Tokens(self.db, self.clock, self.identity)
        self.keys = Keys(self.db, self.identity)
        self.workspaces = Workspaces(self.db, self.clock, changed=self.identity.forget)
        self.sealer = Sealer(vault, self.identity.was_called)
        self.tools = Tools(self.sealer, self.config.host)
        self._administrator = Administrator(self.data, self.identity, self.db, self.clock)
        self.feed = Feed()
        self.events = Events(self.db)
        self.logs = LogStore(self.data, service_limit(self.db, self.config.service_logs))
        self.pools = Pools(self.db)
        self.samples = Samples(self.db)
        self.uses = Uses(self.samples, self.clock)
        self.buckets = Buckets(self.data / "buckets")
        self.bucket_records = BucketRecords(self.db, self.clock)
        users, admin = self.identity.users(), self.identity.user(ADMIN)
        adopt(self.buckets, self.bucket_records, self.db, admin, len(users), self.started_at)
        self.uploads = Uploads(self.data)
        self.uploads.sweep()
        self.catalog: Catalog = load_catalog()

    def _open_machine(self, engine: Engine | None, inventory: Inventory | None) -> None:
        config = self.config
        self._chosen = self._choose(engine)
        self.engine = self._chosen.engine
        ours = partial(runs_in, containers=partial(container_ids, self.engine))
        self.gpus: Inventory = inventory or open_inventory(config.gpus, is_ours=ours)
        size = Size(config.cpus, config.memory, config.cpu_overcommit, config.max_replicas)
        self.hardware = Hardware(self.db, self.gpus, self.clock, size)
        self.mounts = Mounts(self.data, self.buckets, self.bucket_records, self.identity.owner)
        self.accounts = Accounts(
            self.engine.capabilities, trusted=config.trust_users, first=config.uids, user=self.identity.owner
        )
        self.code = CodeFolders(self.data)
        self.code.sweep(kept_attempts(self.db))
        self._pins = Pins(self.data, self.engine)
        self._site = open_site(
            config,
            self.install,
            engine=self.engine,
            hardware=self.hardware,
            mounts=self.mounts,
            buckets=self.buckets,
            catalog=self.catalog,
            sealer=self.sealer,
            pins=self._pins,
            run_token=self.identity.run_token,
            replica_token=self._replica_token,
            accounts=self.accounts,
            code=self.code,
        )

    def _choose(self, given: Engine | None) -> Chosen:
        """The engine, once it is certain that no other one has work, or has it any more."""
        config, memory = self.config, recall(self.db)
        lost = [one for one in memory.holdings if kind_of(one.engine) == config.abandon]
        if lost:
            memory = Memory(tuple(one for one in memory.holdings if one not in lost))
        chosen = Chosen(given) if given else choose_engine(config, self.install, self.clock, memory)
        need_no_other(chosen.engine, memory)
        lost = Memory(tuple(lost)).elsewhere(chosen.engine.identity)
        for one in lost:
            end_there(config, self.install, one)
        if lost:
            abandon(self.db, lost, chosen.engine.identity, self.started_at)
        remember(self.db, chosen.engine.identity)
        return chosen

    def _open_work(self) -> None:
        results = Results(self.identity.owner, self.buckets_for)
        self.metrics = Metrics(self.db, self.logs, self.samples, Folders(self.db, results), own=_REPORTING)
        self.metrics_watch = MetricsWatch(self.db, self.metrics)
        self.sampler = Sampler(self.db, self.engine, self.samples, self.clock, gpus=self.gpus.usage, changed=self._tell)
        self.reconciler = Reconciler(
            self.db,
            self.engine,
            self._site,
            self.logs,
            self.clock,
            machines=lambda: (self.hardware.machine(),),
            unhealthy=self.gpus.health,
            changed=self._changed,
        )
        own_ports = {self.config.port, self.config.gateway_port} - {0}
        gang = self.engine.capabilities.gang
        self._possible = Possible(
            self.accounts, self.mounts, self.sealer, self.hardware, own_ports, self.code.archives, gang
        )
        self.workloads = Workloads(self.db, self.clock, check=self._possible, changed=self._tell)
        self.surveys = Surveys(self.db, self.clock)
        self.instances = Instances(
            self.db, self.clock, self.workloads, self.identity.owner, changed=self.feed.changed, gone=self._gone
        )
        self.searching = Searching(
            self.config,
            self.db,
            self.clock,
            self.workloads,
            self.logs,
            self.metrics,
            self.samples,
            results,
            owner=self.identity.owner,
            changed=self.feed.changed,
        )
        self.studies, self.algorithms = self.searching.studies, self.searching.algorithms
        self.restarts = Restarts(self.instances)
        self.leavers = Leavers(self.instances, self.studies, self.searching.gone)
        shared = not self.engine.capabilities.ports_mapped
        self.idle = IdleWatch(self.workloads, self.tools, self.clock, shared=shared)
        self.gpu_watch = GpuWatch(self.gpus, self.hardware)
        self.upkeep = Upkeep(self.db, self.data, self.config, self.clock)
        address, users = self._site.bind_address, self.identity.users
        self.ssh = Shells(self.data, self._vault, self.workloads, self.engine, self.buckets, address, users)

    @property
    def real_gpus(self) -> bool:
        """Whether the GPUs that are leased exist."""
        return any(not gpu.simulated for gpu in self.gpus.devices())

    def _serving(self) -> Serving:
        config, site, cache = self.config, self._site, self.config.cache
        host = LOOPBACK[0] if site.bind_address in ("0.0.0.0", "::") else site.bind_address
        return Serving(
            Parts(
                db=self.db,
                clock=self.clock,
                workloads=self.workloads,
                logs=self.logs,
                identity=self.identity,
                tokens=self.tokens,
                feed=self.feed,
                data=self.data,
                site=ServingSite(
                    site.capabilities, host, self.real_gpus, self.data.joinpath, partial(server_folder, cache)
                ),
                host=config.host,
                port=config.gateway_port,
                port_asked="gateway_port" in config.asked,
                names=config.hosts,
                auth=config.auth,
                closed=config.closed,
                replica_token=self._replica_token,
                fetch=lambda caller, uri, folder: fetch_unpacked(self.buckets_for(caller), uri, folder),
                names_in=lambda caller, folder: file_names(self.buckets_for(caller), folder),
                check=self._possible,
                admits=self.accounts.check,
                missing=partial(unmapped, self.engine.name, self.config),
                why=self._why_words,
            )
        )

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the control loop; containers of an earlier run are adopted by its first tick."""
        self.reconciler.start()
        self.idle.start()
        self.restarts.start()
        self.leavers.start()
        self.sampler.start()
        self.metrics_watch.start()
        self.searching.driver.start()
        self.serving.start()
        self.ssh.start()
        self.gpu_watch.start()
        self.upkeep.start()

    def close(self) -> None:
        """Stop everything of this process. Workloads go on."""
        self.feed.close()
        self.upkeep.close()
        self.gpu_watch.close()
        self.idle.close()
        self.restarts.close()
        self.leavers.close()
        self.ssh.close()
        self.serving.close()
        self.searching.close()
        self.reconciler.close()
        self.sampler.close()
        self.metrics_watch.close()
        self.samples.flush()
        self.engine.close()
        self._pins.close()
        self.gpus.close()
        self.db.close()
        self.lock.release()

    def finish(self, seconds: float) -> None:
        """Let what was asked to stop, or is over, go; so long at most."""
        if seconds:
            wait_for_ends(self.db, seconds, lambda: self.reconciler.engine_down)

    def _replica_token(self, attempt: int) -> str:
        return self._vault.token("replica", str(attempt))

    def _tell(self, workload_id: int) -> None:
        self.feed.changed(Subject.workload(workload_id))

    def _changed(self, workload_id: int) -> None:
        self._tell(workload_id)
        self.sampler.nudge()
        self.metrics_watch.nudge(workload_id)
        self.idle.nudge()
        self.restarts.changed()
        self.serving.changed(workload_id)
        self.searching.driver.changed(workload_id)
        self.ssh.changed(workload_id)

    def _people_changed(self) -> None:
        """Whoever was let in for long is asked for again, and what was made for those who are gone ends."""
        self.feed.changed(PEOPLE)
        for told in self._told_of_people:
            told()

    def _gone(self, row: Instance) -> bool:
        """Whether the owner is no user any more, or may not be inside."""
        owners = [user for user in self.identity.users() if user.id == row.owner_id]
        return not any(may(owner, Action.ENTER, Thing.of(ThingKind.WORKLOAD, row)) for owner in owners)

    def _guessed(self, words: str) -> None:
        now = self.clock.now()
        with suppress(LocalmlError):  # on a full disk the log alone says it
            self.db.write(lambda s: record_event(s, PLATFORM, "PasswordGuessed", words, now=now, warning=True))

    def buckets_for(self, caller: Caller, workspace: str | None = None) -> BucketsFor:
        """The objects that a caller may use: whatever a request names in the bucket tree goes through this.

        Args:
            workspace: id of the one that a bucket is made in which does not exist yet; None for the caller's own.
        """
        return BucketsFor(self.buckets, self.bucket_records, caller, workspace)

    def put_code(self, workspace: str, code: str, owner: int, folder: str, *, replace: bool) -> None:
        """Put code into a folder that is kept for a user; see :func:`localml.control.jobs.work_folders.put`."""
        with self.code.opened(workspace, code) as found:
            place, root = self.mounts.made_folder(owner, folder, self._site.user)
            put(found, root, place, replace=replace)

    # -- questions -------------------------------------------------------------------------------

    @property
    def credentials(self) -> Credentials:
        """The administrator's, as they are now."""
        return self._administrator.credentials

    @property
    def engine_note(self) -> str:
        """Why the engine is not the one that one would expect; empty when it is, and once one that was away answers."""
        answers = self._chosen.away and self.reconciler.eyes.seen.complete
        return "" if answers else self._chosen.note

    @property
    def gateway_url(self) -> str | None:
        """Where the gateway listens, or will; None when that is any free port and it has not been started yet."""
        return self.serving.gateway.url

    def why(self, workload_id: int) -> Reason | None:
        """Why a workload waits: for resources, in the engine, for its output, for what is stuck; or None."""
        return self.reconciler.why(workload_id)

    def _why_words(self, workload_id: int) -> str:
        """For what others read, too: it names no workload."""
        reason = self.why(workload_id)
        return reason.discreet if reason is not None else ""

    def images(self) -> Images:
        """The runtimes as this engine has them."""
        return open_images(self.engine.name, self.config.cache)

    def backup(self, target: Path) -> None:
        """Copy the database while the server runs."""
        self.db.backup(target)

    def info(self) -> Mapping[str, Any]:
        """What ``localml status`` shows of the installation itself."""
        return {
            "install": self.install,
            "engine": self.engine.name,
            "engine_note": self.engine_note,
            "data": str(self.data),
            "root_pool": pools.ROOT,
        }
