"""One installation, put together: the only place where the parts meet.

Dialects, the command line and the tests get a :class:`Platform` and use its services; nothing is found through
module-level state.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sqlmodel import Session

from localml.config import LOOPBACK, Config
from localml.control.jobs.demands import Reason
from localml.control.jobs.hardware import GpuView as GpuView
from localml.control.jobs.hardware import Hardware, Size
from localml.control.jobs.holdings import LOCAL
from localml.control.jobs.hostports import free_port, is_free
from localml.control.jobs.plans import Site
from localml.control.jobs.reconciler import Reconciler
from localml.control.jobs.snapshot import WorkloadRow
from localml.control.serving.parts import Parts, Serving
from localml.control.serving.replicas import ServingSite
from localml.control.shell.shells import Shells
from localml.control.watch.idle import IdleWatch
from localml.control.watch.sampler import Sampler
from localml.core.capacity import pools
from localml.core.capacity.pools import Pools
from localml.core.catalog import Catalog, load_catalog, runtimes_dir
from localml.core.clock import Clock, SystemClock
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.events.feed import Feed
from localml.core.logs.files import LogStore
from localml.core.people.identity import ADMIN, Credentials, Identity
from localml.core.people.sealing import Sealer
from localml.core.people.secrets import Vault, write_private
from localml.core.rows import Meta
from localml.core.series.samples import Samples
from localml.core.work.lifecycle import record_event
from localml.core.work.specs import Mount
from localml.core.work.tools import Tools
from localml.core.work.workloads import Submission, Workloads
from localml.engines import engine_class
from localml.engines.base import Engine, EngineError, EngineUnreachable, ImageMissing
from localml.engines.runtimes import Images, open_images
from localml.gpus import Inventory, open_inventory
from localml.gpus.selection import descends_from_us
from localml.objects import ArchiveInfo, Buckets, inspect_archive, unpack_in_place
from localml.objects.registry_auth import read_registry_auth
from localml.store.database import Database
from localml.store.lock import DataLock
from localml.store.schema import prepare

DEFAULT_IMAGE = "localml/base:latest"
CREDENTIALS_NAME = "credentials.json"
_EPSILON = 1e-9


EnvironmentOf = Callable[[str], Mapping[str, str] | None]
"""From an image's name to the variables of its virtual environment."""


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
        self.db = Database(prepare(self.data))
        self.install = self._install_id()
        vault = Vault.open(self.data / "secret.key")
        self.identity = Identity(self.db, vault, self.clock)
        self.sealer = Sealer(vault)
        self.tools = Tools(self.sealer, self.config.host)
        self.credentials = self._credentials()
        self.feed = Feed()
        self.logs = LogStore(self.data)
        self.pools = Pools(self.db)
        self.samples = Samples(self.db)
        self.buckets = Buckets(self.data / "buckets")
        self.catalog: Catalog = load_catalog()
        self.engine = engine or self._engine()
        self.gpus: Inventory = inventory or open_inventory(self.config.gpus, is_ours=self._is_ours)
        self.sampler = Sampler(
            self.db, self.engine, self.samples, self.clock, gpus=self.gpus.usage, changed=self.feed.changed
        )
        self.hardware = Hardware(self.db, self.gpus, self.clock, self._size())
        self.reconciler = Reconciler(
            self.db,
            self.engine,
            self._site(),
            self.logs,
            self.clock,
            machines=lambda: (self.hardware.machine(),),
            unhealthy=self.gpus.health,
            changed=self._changed,
        )
        self.workloads = Workloads(
            self.db,
            self.clock,
            check=self._check,
            changed=self.feed.changed,
            nudge=self.reconciler.nudge,
        )
        self.hardware.nudge = self.reconciler.nudge
        self.idle = IdleWatch(self.workloads, self.tools, self.clock)
        self.ssh = Shells(self.data, vault, self.workloads, self.engine, self.buckets, self._site().bind_address)
        self.serving = self._serving()
        self.registry, self.endpoints = self.serving.registry, self.serving.endpoints
        self._watch_stop = threading.Event()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the control loop; containers of an earlier run are adopted by its first tick."""
        self.reconciler.start()
        self.idle.start()
        self.sampler.start()
        self.serving.start()
        self.ssh.start()
        if any(not gpu.simulated for gpu in self.gpus.devices()):
            threading.Thread(target=self._watch_gpus, name="localml-gpu-watch", daemon=True).start()

    def close(self) -> None:
        """Stop everything of this process. Workloads go on."""
        self._watch_stop.set()
        self.feed.close()
        self.idle.close()
        self.ssh.close()
        self.serving.close()
        self.reconciler.close()
        self.sampler.close()
        self.samples.flush()
        self.engine.close()
        self.gpus.close()
        self.db.close()
        self.lock.release()

    def _changed(self, workload_id: int) -> None:
        self.feed.changed(workload_id)
        self.sampler.nudge()
        self.idle.nudge()
        self.serving.changed(workload_id)
        self.ssh.changed(workload_id)

    def _watch_gpus(self) -> None:
        for gpu, reason in self.gpus.watch(self._watch_stop):
            self.hardware.mark_gpu(gpu, reason, fenced=True)

    def _install_id(self) -> str:
        def act(session: Session) -> str:
            found = session.get(Meta, "install")
            if found is None:
                found = Meta(key="install", value=secrets.token_hex(4))
                session.add(found)
            return found.value

        return self.db.write(act)

    def _credentials(self) -> Credentials:
        """The administrator's credentials, made at first start and kept in a file that only the owner reads."""
        path = self.data / CREDENTIALS_NAME
        made = self.identity.first_credentials()
        if made is not None:
            write_private(path, json.dumps(asdict(made), indent=2).encode())
            return made
        try:
            return Credentials(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            return self._renew_credentials(path, f"{path.name} could not be read ({error})")

    def _renew_credentials(self, path: Path, why: str) -> Credentials:
        """New ones after a crash between the two writes of the first start, or after the file was lost."""
        caller = self.identity.user(ADMIN)
        password = secrets.token_urlsafe(12)
        self.identity.set_password(caller.name, password)
        access, secret = self.identity.create_key(caller)
        token = self.identity.create_token(caller)
        made = Credentials(caller.name, password, access, secret, caller.project, token)
        write_private(path, json.dumps(asdict(made), indent=2).encode())
        now = self.clock.now()
        self.db.write(lambda s: record_event(s, None, "CredentialsRenewed", why, now=now, warning=True))
        return made

    def _engine(self) -> Engine:
        name = self.config.engine
        if name in ("auto", "docker"):
            from localml.engines.docker import DockerEngine, docker_available

            trouble = docker_available()
            if trouble is None:
                engine: Engine = DockerEngine(self.install, bind_address=self.config.host)
                return engine
            if name == "docker":
                raise LocalmlError(Code.UNAVAILABLE, f"engine: {trouble}", field="engine")
            self.engine_note = f"no Docker ({trouble}): jobs run as child processes, without isolation"
        if name == "fake":
            fake: Engine = engine_class("fake")(self.clock, install=self.install)
            return fake
        from localml.engines.runtimes.environments import Environments

        environments = Environments(self.config.cache, runtimes_dir())
        process: Engine = engine_class("process")(
            self.data / "replicas", self.install, environments=self._environments(environments.env_for)
        )
        return process

    def _environments(self, known: EnvironmentOf) -> EnvironmentOf:
        """Environments by image; a runtime that brings its own program must have been built."""

        def find(image: str) -> Mapping[str, str] | None:
            runtime, found = self.catalog.of_image(image), known(image)
            if found is None and runtime is not None and runtime.launcher is None:
                raise ImageMissing(f"{image} is not built; build it with: localml images build {runtime.name}")
            return found

        return find

    engine_note = ""
    """Why the engine is not the one that one would expect; empty when it is."""

    def _site(self) -> Site:
        owner = self.data.stat()
        return Site(
            install=self.install,
            node=LOCAL,
            isolated=self.engine.isolated,
            bind_address=self.config.host if self.config.host not in ("localhost", "::1") else LOOPBACK[0],
            buckets=self.buckets.root,
            mount_source=self._mount_source,
            our_image=lambda image: self.catalog.of_image(image) is not None,
            default_image=DEFAULT_IMAGE,
            user=f"{owner.st_uid}:{owner.st_gid}",
            gpu=self.hardware.grant,
            host_cpus=float(os.cpu_count() or 1),
            unseal=self._unseal,
            registry_auth=partial(read_registry_auth, self.buckets),
        )

    def _serving(self) -> Serving:
        site = self._site()
        gpus = any(not gpu.simulated for gpu in self.gpus.devices())
        host = LOOPBACK[0] if site.bind_address in ("0.0.0.0", "::") else site.bind_address
        return Serving(
            Parts(
                db=self.db,
                clock=self.clock,
                workloads=self.workloads,
                logs=self.logs,
                identity=self.identity,
                feed=self.feed,
                data=self.data,
                site=ServingSite(site.isolated, host, gpus, lambda path: self.data / path, self._kernel_server),
                host=self.config.host,
                port=self.config.gateway_port,
                names=self.config.hosts,
                auth=self.config.auth,
                fetch=self._fetch_model,
                names_in=self._file_names,
                check=self._check,
                missing=self._missing_runtime,
                why=self._why_words,
            )
        )

    def _file_names(self, folder: str) -> list[str]:
        if not self.buckets.exists(folder):
            return []
        return [one.name for one in self.buckets.list(folder) if not one.is_folder]

    def _kernel_server(self) -> Path:
        from localml.engines.runtimes.kernel_server import KernelServer

        return KernelServer(self.config.cache, runtimes_dir()).usable()

    def _missing_runtime(self, image: str) -> str:
        """Why an image of ours cannot be used yet, where that can be told without asking a daemon."""
        runtime = self.catalog.of_image(image)
        if self.engine.name != "process" or runtime is None:
            return ""
        from localml.engines.runtimes.environments import Environments

        if Environments(self.config.cache, runtimes_dir()).env_for(image) is not None:
            return ""
        return f"the runtime '{runtime.name}' is not built yet; build it with: localml images build {runtime.name}"

    def _why_words(self, workload_id: int) -> str:
        reason = self.why(workload_id)
        return reason.message if reason is not None else ""

    @property
    def gateway_url(self) -> str | None:
        """Where the gateway listens, or will; None when that is any free port and it has not been started yet."""
        return self.serving.gateway.url

    def free_gateway_port(self) -> int:
        """A port that nobody listens on, for an endpoint to have to itself."""
        with ExitStack() as held:
            return free_port(self.endpoints.gateway_ports(), held)

    def need_free_port(self, port: int, field: str) -> None:
        """Refuse a port that somebody listens on.

        Raises:
            LocalmlError: ``CONFLICT`` naming the field.
        """
        if not is_free(port):
            raise LocalmlError(Code.CONFLICT, f"{field}: port {port} is in use on this machine", field=field)

    def _fetch_model(self, uri: str, folder: Path) -> None:
        """Copy a model's files; of an archive, what is in it."""
        self.buckets.get(uri, folder, field="source")
        try:
            unpack_in_place(folder)
        except LocalmlError as error:
            words = f"source: {error.message.removeprefix('archive: ')}"
            raise LocalmlError(error.code, words, field="source") from error

    def _unseal(self, row: WorkloadRow, sealed: str) -> str:
        try:
            return self.sealer.open(row.owner, sealed)
        except LocalmlError as error:
            raise EngineError(error.message) from error

    def _is_ours(self, pid: int) -> bool:
        """Whether a program on a GPU runs in one of our containers, or is a child of this process."""
        if descends_from_us(pid):
            return True
        try:
            cgroup = Path(f"/proc/{pid}/cgroup").read_text()
            ours = [seen.handle.get("id") for seen in self.engine.list().values()]
        except (OSError, EngineUnreachable):
            return False
        return any(container and str(container) in cgroup for container in ours)

    def _mount_source(self, mount: Mount, row: WorkloadRow) -> Path:
        if mount.source.startswith("workspace:"):
            return self.workspace(row.owner, mount.source.removeprefix("workspace:"))
        if mount.source.startswith("/") and not self._names_bucket(mount.source):
            return Path(mount.source)
        return self.buckets.path(mount.source)

    def _names_bucket(self, source: str) -> bool:
        first = source.split("/", 2)[1]
        return (self.buckets.root / first).is_dir() and not Path("/" + first).exists()

    def workspace(self, owner: str, name: str) -> Path:
        """The folder that localml keeps for a user under this name."""
        if not name or "/" in name or name.startswith("."):
            raise invalid("mounts", f"workspace name {name!r} must not be empty, start with '.' or hold '/'")
        return self.data / "workspaces" / owner / name

    def inspect_archive(self, uri: str, *, field: str = "uri") -> ArchiveInfo:
        """Hold an archive of the bucket tree against all rules of unpacking, writing nothing.

        Args:
            field: the request member that an error names.

        Raises:
            LocalmlError: ``INVALID`` when it does not exist, is no archive or is not safe, ``TOO_LARGE`` when it is
                over a limit.
        """
        if not self.buckets.exists(uri, field=field):
            raise invalid(field, f"{uri} does not exist")
        if self.buckets.stat(uri, field=field).is_folder:
            raise invalid(field, f"{uri} is a folder, not an archive")
        with self.buckets.open(uri, field=field) as file:
            try:
                return inspect_archive(file)
            except LocalmlError as error:
                reason = error.message.removeprefix("archive: ")
                raise LocalmlError(error.code, f"{field}: {reason}", field=field, details=error.details) from error

    # -- requests --------------------------------------------------------------------------------

    def _size(self) -> Size:
        """What the settings declare of the machine."""
        config = self.config
        return Size(config.cpus, config.memory, config.cpu_overcommit, config.max_replicas)

    def _check(self, submission: Submission) -> None:
        """Refuse at once what this machine never has, with the numbers."""
        self._check_mounts(submission)
        for role in submission.spec.roles:
            for sealed in role.sealed_env.values():
                self.sealer.open(submission.caller.name, sealed)
        self.hardware.check(submission.spec)

    def _check_mounts(self, submission: Submission) -> None:
        for mount in submission.spec.mounts:
            source = mount.source
            if source.startswith("workspace:"):
                self.workspace(submission.caller.name, source.removeprefix("workspace:"))
            elif source.startswith("/") and not self._names_bucket(source):
                if not submission.caller.admin:
                    raise LocalmlError(
                        Code.FORBIDDEN, f"mounts: only administrators may mount {source}", field="mounts"
                    )
                if not Path(source).exists():
                    raise invalid("mounts", f"{source} does not exist on this machine")
            else:
                self.buckets.path(source)

    def why(self, workload_id: int) -> Reason | None:
        """Why a queued workload waits; None when it does not."""
        return self.reconciler.why(workload_id)

    def ensure_pool(self, path: str, **limits: Any) -> None:
        """Make a pool with limits if there is none of that name; an existing one keeps its own."""
        with self.db.read() as session:
            from sqlmodel import select

            from localml.core.capacity.tables import Pool

            if session.exec(select(Pool.id).where(Pool.name == path)).first() is not None:
                return
        self.pools.set_limits(path, **limits)

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
