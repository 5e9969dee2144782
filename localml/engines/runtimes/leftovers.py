"""What older versions of localml left on this machine: images in the Docker engine, folders and files in the cache.

This version asks for none of it again. What something still runs in stays; so do images that somebody gave a name of
their own, and the kernels' servers (``cache/servers``), which endpoints made by an older version go on with.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import docker
import psutil
from docker.errors import ImageNotFound
from docker.models.images import Image

from localml.core.catalog import IMAGE_PREFIX, Catalog
from localml.engines.base import EngineError, EngineUnreachable
from localml.engines.runtimes.build import (
    IMAGE_PYTHON,
    LABEL_RUNTIME,
    LABEL_STAGE,
    ROOTFS_IMAGE,
    readable,
    rootfs_file,
    rootfs_tag,
)
from localml.engines.runtimes.environments import READY, folder_size, locked
from localml.engines.runtimes.wheels import wheels_folder

_ENVIRONMENT = re.compile(r".+-py\d+-([0-9a-f]{12})")
_WHEELS = re.compile(r".+-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that can go.

    Attributes:
        kind: ``image``, ``environment``, ``wheels`` or ``file system``.
        name: of the image, or of the folder or file.
        size: bytes; of an image with what it shares with others.
        remove: removes it; returns why it stays, or an empty text when it is gone.
    """

    kind: str
    name: str
    size: int
    remove: Callable[[], str]


def leftover_images(client: docker.DockerClient, catalog: Catalog) -> Iterator[Leftover]:
    """Images of older versions, and what builds left; children before their parents.

    Raises:
        EngineUnreachable: the engine does not answer.
    """
    current = {f"{one.image}:{tag}" for one in catalog.runtimes() for tag in (catalog.fingerprint(one.name), "latest")}
    current.add(f"{ROOTFS_IMAGE}:{rootfs_tag(catalog)}")
    with readable():
        listed = [
            *client.images.list(filters={"label": LABEL_RUNTIME}),
            *client.images.list(filters={"label": LABEL_STAGE}),
            *client.images.list(ROOTFS_IMAGE),
        ]
    found = {one.id: one for one in listed}  # an image may have both labels
    for image in sorted(found.values(), key=lambda one: str(one.attrs["Created"]), reverse=True):
        if _is_superseded(image, current):
            name = image.tags[0] if image.tags else f"steps of a build, {image.short_id.removeprefix('sha256:')}"
            yield Leftover("image", name, image.attrs["Size"], partial(_remove_image, client, image))


def _is_superseded(image: Image, current: set[str]) -> bool:
    if not image.tags:  # what others made from ours has all our labels but this one
        return LABEL_STAGE in image.labels
    return all(tag.startswith(IMAGE_PREFIX) and tag not in current for tag in image.tags)


def _remove_image(client: docker.DockerClient, image: Image) -> str:
    try:
        with readable():
            for name in image.tags or [str(image.id)]:
                with suppress(ImageNotFound):  # it went with the one that was made from it
                    client.images.remove(name)
    except (EngineError, EngineUnreachable) as error:  # such as: a container was made from it
        return str(error)
    return ""


def leftover_files(cache: Path, catalog: Catalog) -> Iterator[Leftover]:
    """Environments, wheels and base file systems of older versions, largest kinds first.

    Args:
        cache: the cache folder.
    """
    names = [one.name for one in catalog.runtimes()]
    fingerprints = {catalog.fingerprint(name) for name in names}
    for folder in _folders(cache / "environments"):
        named = _ENVIRONMENT.fullmatch(folder.name)
        if named is not None and named[1] not in fingerprints:
            yield Leftover("environment", folder.name, folder_size(folder), partial(_remove_environment, folder))
    wheels = {wheels_folder(catalog.folder / name / "requirements.txt", cache, IMAGE_PYTHON) for name in names}
    for folder in _folders(cache / "wheels"):
        if _WHEELS.fullmatch(folder.name) and folder not in wheels:
            yield Leftover("wheels", folder.name, folder_size(folder), partial(_remove, folder))
    current = rootfs_file(cache, rootfs_tag(catalog))
    for file in sorted(current.parent.glob(f"rootfs-{'[0-9a-f]' * 12}.tar")):
        if file != current:
            yield Leftover("file system", file.name, file.stat().st_size, partial(_remove, file))


def _folders(parent: Path) -> list[Path]:
    return sorted(one for one in parent.glob("*") if one.is_dir())


def _remove_environment(folder: Path) -> str:
    with locked(folder, wait=False) as ours:
        if not ours:
            return "it is being made"
        if user := _user_of(folder):
            return f"process {user} runs in it"
        (folder / READY).unlink(missing_ok=True)  # nothing starts in it from now on
        return _remove(folder)


def _user_of(folder: Path) -> int | None:
    """A process whose environment this is."""
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("VIRTUAL_ENV") == str(folder):
            return int(process.pid)
    return None


def _remove(path: Path) -> str:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return ""
