"""Building the container images of the runtimes, offline once their wheels are in the cache.

What comes from the network comes to the host first, through its own pip and apt configuration; ``docker build`` itself
runs without a network. An image's tag is the fingerprint of everything that it is made from, so an unchanged one is
found and not built again.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils import parse_repository_tag
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError as TransportError

from localml.core.catalog import CATALOG_FILE, Catalog, Runtime, load_catalog
from localml.engines.base import EngineError, EngineUnreachable, Progress
from localml.engines.docker.images import report_pull, without_proxy
from localml.engines.runtimes.kernel_server import PROBE, python_of
from localml.engines.runtimes.wheels import download_wheels, lines_of

LABEL_RUNTIME = "localml.runtime"
LABEL_FINGERPRINT = "localml.fingerprint"
LABEL_STAGE = "localml.stage"
"""On what a build needs on its way to an image, and Docker keeps without a name."""
PYTHON_IMAGE = "python:3.11-slim-bookworm"
"""What ``base`` is made from where it is present or can be pulled."""
ROOTFS_IMAGE = "localml/rootfs"
"""What ``base`` is made from elsewhere: a Debian 12 made on this machine."""
IMAGE_PYTHON = "3.11"
_STEP = re.compile(r" ---> ([0-9a-f]{12,64})\s*")
"""How Docker tells what a step has made."""
_CONTEXT = "context-"
_OLD_CONTEXT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """A runtime's image as it is now. ``size`` in bytes, parents included; None while it is not built."""

    name: str
    image: str
    tag: str
    built: bool
    size: int | None
    description: str
    default: bool

    @property
    def reference(self) -> str:
        """Image name with the tag of the current inputs."""
        return f"{self.image}:{self.tag}"


class ImageBuilder:
    """Builds the images of the runtimes in one folder.

    Args:
        client: a client of the Docker engine.
        cache: where wheels and the base file system are kept between builds; made when needed.
        runtimes: the folder with ``catalog.toml``.
    """

    def __init__(self, client: docker.DockerClient, cache: Path, runtimes: Path) -> None:
        self._client = client
        self._cache = cache
        self._catalog = load_catalog(runtimes / CATALOG_FILE)

    def status(self) -> list[ImageStatus]:
        """One entry for each runtime, in the catalogue's order.

        Raises:
            EngineUnreachable: the engine does not answer.
        """
        with readable():
            return [self._status(runtime) for runtime in self._catalog.runtimes()]

    def build(self, name: str, progress: Progress) -> ImageStatus:
        """Build a runtime's image, and before it those that it is made from; what is there already is kept.

        Args:
            name: a runtime of the catalogue.
            progress: gets short sentences and the build's own lines.

        Raises:
            LocalmlError: ``NOT_FOUND``: there is no such runtime.
            EngineError: a download or a step of the build failed; the message holds its last lines.
            EngineUnreachable: the engine does not answer.
        """
        lineage = self._catalog.lineage(name)
        with readable():
            for runtime in lineage:
                status = self._status(runtime)
                if status.built:
                    progress(f"{status.reference} is there already")
                else:
                    self._build_one(runtime, status.reference, progress)
                self._client.api.tag(status.reference, status.image, "latest")
            return self._status(lineage[-1])

    def python(self, image: str, progress: Progress) -> tuple[int, int]:
        """Version of the Python in anybody's image, which is pulled if it is not here; a container tells it.

        Raises:
            EngineError: the image cannot be had, has no Python, or one that onnx-server cannot run on.
            EngineUnreachable: the engine does not answer.
        """
        with readable():
            if self._size(image) is None:
                self._pull_image(image, progress)
            container = self._client.containers.create(
                image, ["-c", PROBE], entrypoint="python3", network_disabled=True
            )
            try:
                container.start()
                status = container.wait()["StatusCode"]
                answer = container.logs(stdout=True, stderr=status != 0)
            except APIError as error:
                if "executable file not found" not in str(error.explanation):
                    raise
                raise EngineError(f"{image} has no program python3") from error
            finally:
                container.remove(force=True)
        if status != 0:
            raise EngineError(f"{image}: its Python does not start: {answer.decode(errors='replace').strip()}")
        return python_of(image, answer)

    def _pull_image(self, image: str, progress: Progress) -> None:
        repository, tag = parse_repository_tag(image)
        try:
            report_pull(image, self._client.api.pull(repository, tag or "latest", stream=True, decode=True), progress)
        except APIError as error:
            reason = f"{error.explanation or error}{without_proxy(self._client.info())}"
            raise EngineError(f"image {image} is not on this machine and pulling it failed: {reason}") from error

    def _status(self, runtime: Runtime) -> ImageStatus:
        tag = self._catalog.fingerprint(runtime.name)
        size = self._size(f"{runtime.image}:{tag}")
        return ImageStatus(
            runtime.name, runtime.image, tag, size is not None, size, runtime.description, runtime.default
        )

    def _size(self, reference: str) -> int | None:
        try:
            return int(self._client.images.get(reference).attrs["Size"])
        except ImageNotFound:
            return None

    def _build_one(self, runtime: Runtime, reference: str, progress: Progress) -> None:
        folder = self._catalog.folder
        wheels = download_wheels(folder / runtime.name / "requirements.txt", self._cache, IMAGE_PYTHON, progress)
        if runtime.parent:
            parent = f"{self._catalog.runtime(runtime.parent).image}:{self._catalog.fingerprint(runtime.parent)}"
        else:
            parent = self._foundation(progress)
        self._cache.mkdir(parents=True, exist_ok=True)
        self._sweep()
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=_CONTEXT) as context:
            shutil.copytree(folder / runtime.name, context, dirs_exist_ok=True)
            for extra in runtime.copies:
                ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
                shutil.copytree(folder / extra, Path(context, extra), ignore=ignored)
            shutil.copytree(wheels, Path(context, "wheels"), copy_function=_link)
            progress(f"building {reference}")
            labels = {LABEL_RUNTIME: runtime.name, LABEL_FINGERPRINT: reference.rpartition(":")[2]}
            self._run_build(context, reference, parent, labels, progress)

    def _run_build(self, context: str, reference: str, parent: str, labels: dict[str, str], progress: Progress) -> None:
        last: list[str] = []
        steps: list[str] = []
        # Without a network the build proves that it needs none.
        answers = self._client.api.build(
            path=context,
            tag=reference,
            buildargs={"PARENT": parent},
            labels=labels,
            network_mode="none",
            rm=True,
            forcerm=True,
            decode=True,
        )
        for answer in answers:
            for line in answer.get("stream", "").splitlines():
                if line.strip():
                    last = [*last[-9:], line]
                    progress(line)
                if made := _STEP.fullmatch(line):
                    steps.append(made[1])
            if "error" in answer:
                raise EngineError("\n".join([*last, f"{reference} could not be built: {answer['error']}"]))
        self._remove_steps(steps)

    def _remove_steps(self, steps: list[str]) -> None:
        """What was made on the way to an image takes as much room again; what something else is made from stays. After
        a build that fails all stays, and the next one goes on from there."""
        for step in reversed(dict.fromkeys(steps)):
            with suppress(APIError):
                image = self._client.images.get(step)
                if not image.tags and LABEL_STAGE in image.labels:
                    self._client.images.remove(str(image.id))

    def _sweep(self) -> None:
        """Remove what builds that were killed have left."""
        for folder in self._cache.glob(f"{_CONTEXT}*"):
            with suppress(OSError):
                if folder.stat().st_mtime < time.time() - _OLD_CONTEXT_S:
                    shutil.rmtree(folder)

    def _foundation(self, progress: Progress) -> str:
        """The image under ``base``: the official Python image, else a Debian made here."""
        if self._size(PYTHON_IMAGE) is not None:
            return PYTHON_IMAGE
        tag = rootfs_tag(self._catalog)
        made = f"{ROOTFS_IMAGE}:{tag}"
        if self._size(made) is not None:
            return made
        refusal = self._pull(progress)
        if refusal is None:
            return PYTHON_IMAGE
        progress(f"{PYTHON_IMAGE} cannot be pulled ({refusal}); making a Debian instead, which takes a minute")
        tarball = rootfs_file(self._cache, tag)
        if not tarball.is_file():
            tarball.parent.mkdir(parents=True, exist_ok=True)
            lines_of(
                [str(_rootfs_script(self._catalog)), str(tarball)],
                progress,
                f"{PYTHON_IMAGE} could not be pulled, nor a Debian made",
            )
        progress(f"importing {tarball}")
        self._client.api.import_image_from_file(str(tarball), repository=ROOTFS_IMAGE, tag=tag)
        return made

    def _pull(self, progress: Progress) -> str | None:
        """Try to pull the official image; None when it is here, else the engine's reason."""
        progress(f"pulling {PYTHON_IMAGE}")
        name, _, tag = PYTHON_IMAGE.partition(":")
        try:
            for answer in self._client.api.pull(name, tag=tag, stream=True, decode=True):
                if "error" in answer:
                    return f"{answer['error']}{without_proxy(self._client.info())}"
        except APIError as error:
            return f"{error.explanation or error}{without_proxy(self._client.info())}"
        return None


def rootfs_tag(catalog: Catalog) -> str:
    """Tag of the Debian that the catalogue's script makes."""
    return hashlib.sha256(_rootfs_script(catalog).read_bytes()).hexdigest()[:12]


def rootfs_file(cache: Path, tag: str) -> Path:
    """Where the file system of the Debian with this tag is kept."""
    return cache / "images" / f"rootfs-{tag}.tar"


def _rootfs_script(catalog: Catalog) -> Path:
    return catalog.folder / "base" / "make-rootfs"


def _link(source: str, target: str) -> None:
    """Wheels may be hundreds of megabytes: share them with the cache instead of copying."""
    try:
        Path(target).hardlink_to(source)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


@contextmanager
def readable() -> Iterator[None]:
    """Turn the SDK's failures into the engines' own: ``EngineError`` and ``EngineUnreachable``."""
    try:
        yield
    except APIError as error:
        raise EngineError(str(error.explanation or error)) from error
    except (RequestException, TransportError, DockerException) as error:
        raise EngineUnreachable(f"the Docker engine does not answer: {error}") from error


def connect(**options: Any) -> docker.DockerClient:
    """A client of the engine that the environment names (``DOCKER_HOST``), patient enough for builds.

    Raises:
        EngineUnreachable: it does not answer.
    """
    with readable():
        return docker.from_env(timeout=600, **options)
