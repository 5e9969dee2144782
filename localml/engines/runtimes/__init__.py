"""The runtimes' images, whichever engine runs them: container images with Docker, virtual environments without.

Used by our own API and by ``localml images``, which also works while no server runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from localml.config import Config
from localml.core.catalog import KERNEL_SERVER, Catalog, Progress, RuntimeImage, load_catalog, runtimes_dir
from localml.core.errors import Code, LocalmlError
from localml.engines.base import EngineError, EngineUnreachable

if TYPE_CHECKING:
    from localml.engines.runtimes.leftovers import Leftover


class Images(Protocol):
    """Lists and builds the runtimes of one engine."""

    def status(self) -> list[RuntimeImage]:
        """All runtimes, in the catalogue's order. ``UNAVAILABLE`` when the engine does not answer."""
        ...

    def build(self, name: str, progress: Progress) -> RuntimeImage:
        """Build one runtime and what it is made from. ``progress`` gets lines.

        Raises:
            LocalmlError: ``NOT_FOUND`` (no such runtime), ``UNAVAILABLE`` (the engine, or a step of the build failed).
        """
        ...

    def build_onto(self, image: str, progress: Progress) -> RuntimeImage:
        """Make onnx-server ready to run a user's kernel in an image of theirs, which stays as it is.

        Returns:
            What was made; ``image`` is theirs, ``reference`` the folder that its containers will be given.

        Raises:
            LocalmlError: ``UNAVAILABLE`` (the engine, no such image, or one that the server cannot run in).
        """
        ...


def open_images(engine: str, cache: Path) -> Images:
    """The images of an engine, ``docker`` or ``process``; another engine's runtimes are those of ``process``."""
    return _DockerImages(cache) if engine == "docker" else _Environments(cache)


def server_folder(cache: Path) -> Path:
    """The folder of the server that kernels in images of their users run under."""
    from localml.engines.runtimes.kernel_server import KernelServer

    return KernelServer(cache, runtimes_dir()).usable()


def unmapped(engine: str, config: Config, image: str) -> str:
    """Why an image can never be used, as far as that can be told without asking a daemon; empty otherwise."""
    if engine != "process":
        return ""
    from localml.engines.runtimes.provision import Provision

    return Provision(config.cache, runtimes_dir(), config.images).missing(image)


def find_leftovers(cache: Path) -> list[Leftover]:
    """What older versions of localml left: in the cache, and in the Docker engine where one answers."""
    from localml.engines.docker import docker_available
    from localml.engines.runtimes.build import connect
    from localml.engines.runtimes.leftovers import leftover_files, leftover_images

    catalog = load_catalog()
    found = list(leftover_files(cache, catalog))
    if docker_available() is None:
        with _readable():
            found += leftover_images(connect(), catalog)
    return found


class _DockerImages:
    def __init__(self, cache: Path) -> None:
        from localml.engines.runtimes.build import ImageBuilder, connect
        from localml.engines.runtimes.kernel_server import KernelServer

        self._catalog = load_catalog()
        with _readable():
            self._builder = ImageBuilder(connect(), cache, runtimes_dir())
        self._server = KernelServer(cache, runtimes_dir())

    def status(self) -> list[RuntimeImage]:
        with _readable():
            found = self._builder.status()
        return [self._image(one.name, one.reference, one.size) for one in found]

    def build(self, name: str, progress: Progress) -> RuntimeImage:
        with _readable():
            made = self._builder.build(name, progress)
        return self._image(made.name, made.reference, made.size)

    def build_onto(self, image: str, progress: Progress) -> RuntimeImage:
        with _readable():
            made = self._server.make(self._builder.python(image, progress), progress)
        return _server_image(self._catalog, image, made)

    def _image(self, name: str, reference: str, size: int | None) -> RuntimeImage:
        return _runtime_image(self._catalog, name, reference, size)


class _Environments:
    def __init__(self, cache: Path) -> None:
        from localml.engines.runtimes.environments import Environments
        from localml.engines.runtimes.kernel_server import KernelServer

        self._catalog = load_catalog()
        self._environments = Environments(cache, runtimes_dir())
        self._server = KernelServer(cache, runtimes_dir())

    def status(self) -> list[RuntimeImage]:
        return [self._image(runtime.name) for runtime in self._catalog.runtimes()]

    def build(self, name: str, progress: Progress) -> RuntimeImage:
        with _readable():
            self._environments.ensure(name, progress)
        return self._image(name)

    def build_onto(self, image: str, progress: Progress) -> RuntimeImage:
        with _readable():
            made = self._server.make(self._environments.python(image), progress)
        return _server_image(self._catalog, image, made)

    def _image(self, name: str) -> RuntimeImage:
        from localml.engines.runtimes.environments import folder_size

        variables = self._environments.env_for(self._catalog.runtime(name).image) or {}
        folder = variables.get("VIRTUAL_ENV")
        size = folder_size(Path(folder)) if folder else None
        return _runtime_image(self._catalog, name, folder or "", size)


def _runtime_image(catalog: Catalog, name: str, reference: str, size: int | None) -> RuntimeImage:
    runtime = catalog.runtime(name)
    return RuntimeImage(
        name,
        runtime.image,
        reference,
        size is not None,
        size,
        runtime.description,
        runtime.contains,
        runtime.default,
    )


def _server_image(catalog: Catalog, image: str, folder: Path) -> RuntimeImage:
    from localml.engines.runtimes.environments import folder_size

    made = _runtime_image(catalog, KERNEL_SERVER, str(folder), folder_size(folder))
    return replace(made, image=image)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (EngineError, EngineUnreachable) as error:
        raise LocalmlError(Code.UNAVAILABLE, f"images: {error}") from error
