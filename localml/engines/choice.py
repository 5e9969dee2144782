"""Which engine runs the jobs: the value of ``--engine`` made into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localml.config import Config
from localml.core.catalog import Catalog, runtimes_dir
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.people.folders import FOLDERS
from localml.engines import engine_class
from localml.engines.base import Engine, EngineUnreachable, ImageMissing

SHARED_UMASK = 0o002
EnvironmentOf = Callable[[str], Mapping[str, str] | None]
"""From an image's name to the variables of its virtual environment."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An engine; ``note`` says why it is not the one that one would expect, and is empty when it is."""

    engine: Engine
    note: str = ""


def choose_engine(config: Config, install: str, clock: Clock, catalog: Catalog) -> Chosen:
    """The engine that the settings ask for; ``auto`` is Docker's where a daemon answers, else child processes.

    Raises:
        LocalmlError: ``UNAVAILABLE`` when Docker was asked for and does not answer.
    """
    if config.engine == "fake":
        return Chosen(engine_class("fake")(clock, install=install))
    note = ""
    if config.engine in ("auto", "docker"):
        from localml.engines.docker import DockerEngine, docker_available

        trouble = docker_available()
        if trouble is None:
            return Chosen(DockerEngine(install, bind_address=config.host))
        if config.engine == "docker":
            raise LocalmlError(Code.UNAVAILABLE, f"engine: {trouble}", field="engine")
        note = f"no Docker ({trouble}): jobs run as child processes"
    return Chosen(_process_engine(config, install, catalog), note)


def _process_engine(config: Config, install: str, catalog: Catalog) -> Engine:
    from localml.engines.runtimes.environments import Environments

    known = Environments(config.cache, runtimes_dir()).env_for
    # What the administrator's jobs leave in buckets, those of the users' accounts may change, too.
    umask = None if config.trust_users else SHARED_UMASK
    engine: Engine = engine_class("process")(
        config.data / "replicas",
        install,
        environments=_built_environments(catalog, known),
        hidden=_private(config.data),
        umask=umask,
    )
    return engine


def _private(data: Path) -> list[Path]:
    """The data directory, and what of it is on another disk."""
    return [data, *(one for place in (data, data / FOLDERS) for one in place.glob("*") if one.is_symlink())]


def _built_environments(catalog: Catalog, known: EnvironmentOf) -> EnvironmentOf:
    """Environments by image; a runtime that brings its own program must have been built."""

    def find(image: str) -> Mapping[str, str] | None:
        runtime, found = catalog.of_image(image), known(image)
        if found is None and runtime is not None and runtime.launcher is None:
            raise ImageMissing(f"{image} is not built; build it with: localml images build {runtime.name}")
        return found

    return find


def container_ids(engine: Engine) -> list[str]:
    """The ids of all containers that an engine has of ours; none where it has no containers, or does not answer."""
    try:
        found = [seen.handle.get("id") for seen in engine.list().values()]
    except EngineUnreachable:
        return []
    return [str(one) for one in found if one]
