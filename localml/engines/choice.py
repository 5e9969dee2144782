"""Which engine runs the jobs: the value of ``--engine`` made into one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from localml.config import Config
from localml.core.catalog import runtimes_dir
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.people.folders import FOLDERS
from localml.core.work.engines import NOTHING, Holding, Memory, kind_of
from localml.engines import engine_class
from localml.engines.base import Engine, EngineError, EngineUnreachable

SHARED_UMASK = 0o002


@dataclass(frozen=True, slots=True)
class Chosen:
    """An engine; ``note`` says why it is not the one that one would expect, and is empty when it is. One that is
    ``away`` does not answer yet, and is the one all the same, because it has work."""

    engine: Engine
    note: str = ""
    away: bool = False


def choose_engine(config: Config, install: str, clock: Clock, memory: Memory = NOTHING) -> Chosen:
    """The engine that the settings ask for; ``auto`` is the one that has work, whether it answers or not; if none has,
    Docker's where a daemon answers, else child processes.

    Raises:
        LocalmlError: ``UNAVAILABLE`` when Docker was asked for, does not answer, and has no work for which to wait.
    """
    if config.engine == "fake":
        return Chosen(engine_class("fake")(clock, install=install))
    stays = memory.kind if config.engine == "auto" else ""
    if config.engine == "process":
        return Chosen(_process_engine(config, install))
    from localml.engines.docker import docker_available

    trouble = docker_available()
    if stays == "process":
        return Chosen(_process_engine(config, install), _stays_process(memory, trouble))
    if trouble is None or memory.kind == "docker":
        return _docker(config, install, memory, trouble)
    if config.engine == "docker":
        raise LocalmlError(Code.UNAVAILABLE, f"engine: {trouble}", field="engine")
    return Chosen(_process_engine(config, install), _NO_DOCKER.format(trouble))


_NO_DOCKER = "no Docker ({}): jobs run as child processes"


def _stays_process(memory: Memory, trouble: str | None) -> str:
    if trouble is not None:
        return _NO_DOCKER.format(trouble)
    held = memory.holding
    because = f"it has work ({held.words})" if held else "what waits is for it"
    return f"child processes go on, as {because}; after that a start takes Docker"


def _docker(config: Config, install: str, memory: Memory, trouble: str | None) -> Chosen:
    from localml.engines.docker import DockerEngine

    if trouble is None:
        engine = DockerEngine(install, bind_address=config.host)
        with suppress(EngineUnreachable):
            engine.meet()
        return Chosen(engine)
    held = memory.holding
    identity = held.engine if held else memory.waits_for
    other = "localml up --engine process" + (f" --abandon {kind_of(held.engine)}" if held else "")
    has = f"it has work ({held.words}), looked after when it answers" if held else "what waits is for it"
    note = f"{trouble.rstrip('.')}; {has}. To do without: {other}"
    return Chosen(DockerEngine(install, bind_address=config.host, identity=identity), note, away=True)


def need_no_other(engine: Engine, memory: Memory) -> None:
    """Refuse to start with an engine while another one has work: it would look lost, and begin a second time.

    Raises:
        LocalmlError: ``CONFLICT``, with what to do.
    """
    for held in memory.elsewhere(engine.identity):
        there, here = kind_of(held.engine), engine.name
        where = "another Docker daemon (see DOCKER_HOST)" if there == here else f"the {there} engine"
        raise LocalmlError(
            Code.CONFLICT,
            f"engine: {where} has work ({held.words}), which would begin a second time in the {here} engine. Go on "
            f"with it: localml up --engine {there}. Or take it for lost, so that it begins again here: "
            f"localml up --engine {here} --abandon {there}",
            field="engine",
            details={"engine": there, "workloads": list(held.workloads)},
        )


def end_there(config: Config, install: str, held: Holding) -> None:
    """Remove what an engine has that is taken for lost, as far as that engine can be asked; the rest is removed when it
    is used again, as nobody knows of it any more."""
    with suppress(EngineUnreachable, EngineError), _asked(config, install, held) as engine:
        for container in held.containers:
            engine.remove(container)


@contextmanager
def _asked(config: Config, install: str, held: Holding) -> Iterator[Engine]:
    engine: Engine
    if kind_of(held.engine) == "process":
        engine = _process_engine(config, install)
    else:
        from localml.engines.docker import DockerEngine

        engine = DockerEngine(install, bind_address=config.host, identity=held.engine)
    with closing(engine):
        yield engine


def _process_engine(config: Config, install: str) -> Engine:
    from localml.engines.runtimes.provision import Provision

    provision = Provision(config.cache, runtimes_dir(), config.images)
    # What the administrator's jobs leave in buckets, those of the users' accounts may change, too.
    umask = None if config.trust_users else SHARED_UMASK
    engine: Engine = engine_class("process")(
        config.data / "replicas",
        install,
        environments=provision.env_for,
        resolve=provision.resolve,
        hidden=_private(config.data),
        umask=umask,
    )
    return engine


def _private(data: Path) -> list[Path]:
    """The data directory, and what of it is on another disk."""
    return [data, *(one for place in (data, data / FOLDERS) for one in place.glob("*") if one.is_symlink())]


def container_ids(engine: Engine) -> list[str]:
    """The ids of all containers that an engine has of ours; none where it has no containers, or does not answer."""
    try:
        found = [seen.handle.get("id") for seen in engine.list().values()]
    except EngineUnreachable:
        return []
    return [str(one) for one in found if one]
