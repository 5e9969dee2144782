"""The catalogue of runtimes: which framework and version runs in which image, started by which launcher.

It is read from ``runtimes/catalog.toml``, whose comments explain the members.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.home import expanded, home

CATALOG_FILE = "catalog.toml"
IMAGE_PREFIX = "localml/"
HOST = "host"
"""What stands, on an engine without containers, for the Python that runs localml with what is installed there; it is
what runs whatever names no image."""
_REGISTRY = re.compile(r"^(localhost|[^/]*[.:][^/]*)/")
"""In front of an image's name: a host with a dot or a port, as Docker tells it from a folder."""
_PACKAGE = Path(__file__).resolve().parents[1]
_SETTLED_S = 2.0
_IGNORED = frozenset({"__pycache__", "build", ".mypy_cache", ".ruff_cache"})


class _Entry(BaseModel):
    """A ``[runtimes.NAME]`` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str
    parent: str | None = None
    launcher: str | None = None
    contains: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    gpu: str | None = None
    default: bool = False


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    runtimes: dict[str, _Entry]
    frameworks: dict[str, dict[str, str]] = {}
    images: dict[str, str] = {}


class Runtime(_Entry):
    """An environment that jobs run in: an image of the Docker engine, a virtual environment of the process engine."""

    name: str

    @property
    def image(self) -> str:
        """The image's name without a tag; ``:latest`` is the one last built."""
        return IMAGE_PREFIX + self.name

    @property
    def command(self) -> tuple[str, ...]:
        """The command that starts the user's code; empty if the runtime has no launcher."""
        return ("python", "-m", "localml_launcher", self.launcher) if self.launcher else ()


class Catalog:
    """The runtimes of one ``catalog.toml`` and the frameworks that they give. Immutable."""

    def __init__(self, folder: Path, runtimes: dict[str, Runtime], file: _File) -> None:
        self.folder = folder
        self._runtimes = runtimes
        self._frameworks = file.frameworks
        self._images = file.images
        self._fingerprints: dict[str, tuple[tuple[_Stamp, ...], str]] = {}

    def runtimes(self) -> tuple[Runtime, ...]:
        """All runtimes, in the order of the file."""
        return tuple(self._runtimes.values())

    def runtime(self, name: str) -> Runtime:
        """The runtime of that name.

        Raises:
            LocalmlError: ``NOT_FOUND``.
        """
        if name not in self._runtimes:
            raise not_found("runtime", name)
        return self._runtimes[name]

    def frameworks(self, built: Collection[str] | None = None) -> dict[str, list[str]]:
        """Versions by framework, the preferred version first.

        Args:
            built: names of runtimes; only what these give is listed. None lists everything that can be built.
        """
        listed = {
            framework: [version for version, name in versions.items() if built is None or name in built]
            for framework, versions in self._frameworks.items()
        }
        return {framework: versions for framework, versions in listed.items() if versions}

    def find(self, framework: str, version: str | None = None, *, gpu: bool = False) -> Runtime:
        """The runtime for a framework; without a version the preferred one.

        Args:
            gpu: whether it runs on GPUs that exist.

        Raises:
            LocalmlError: ``INVALID`` with field ``framework`` or ``framework_version``; it names the known ones.
        """
        versions = self._frameworks.get(framework)
        if versions is None:
            known = ", ".join(sorted(self._frameworks))
            raise invalid("framework", f"'{framework}' is not known; known are {known}", known=sorted(self._frameworks))
        if not version:
            version = next(iter(versions))
        if version not in versions:
            raise invalid(
                "framework_version",
                f"{framework} '{version}' is not known; known are {', '.join(versions)}",
                known=list(versions),
            )
        found = self._runtimes[versions[version]]
        return self._runtimes[found.gpu] if gpu and found.gpu else found

    def of_image(self, image: str) -> Runtime | None:
        """The runtime of an image reference of ours (``localml/base``, ``localml/base:latest``), else None."""
        if not image.startswith(IMAGE_PREFIX):
            return None
        name = image.removeprefix(IMAGE_PREFIX).split("@")[0].split(":")[0]
        return self._runtimes.get(name)

    def stands_for(self, image: str, images: Mapping[str, str]) -> str:
        """The runtime that an image's name stands for where there are no containers, or :data:`HOST`; empty for none.

        Args:
            images: patterns (``*``, ``?``, ``[...]``) -> runtime. The first that matches counts, then what the name
                is here, then the catalogue's own patterns, whichever registry the image comes from.
        """
        for pattern, name in images.items():
            if fnmatchcase(image, pattern):
                return name
        if image == HOST:
            return HOST
        ours = self.of_image(image)
        if ours is not None:
            return ours.name
        public = _REGISTRY.sub("", image).removeprefix("library/")
        return next((name for pattern, name in self._images.items() if fnmatchcase(public, pattern)), "")

    def meant(self, image: str) -> str:
        """The image of ours whose name was given without what all of them begin with; empty for other names."""
        runtime = None if "/" in image else self.of_image(IMAGE_PREFIX + image)
        return runtime.image if runtime else ""

    def check(self, images: Mapping[str, str]) -> None:
        """Refuse patterns, such as those of a server's settings, that stand for no runtime and not for :data:`HOST`.

        Raises:
            LocalmlError: ``INVALID`` with field ``images``; it names the known ones.
        """
        known = [HOST, *self._runtimes]
        for pattern, name in images.items():
            if name not in known:
                raise invalid("images", f"{pattern!r} = {name!r}: must be one of {', '.join(known)}")

    def lineage(self, name: str) -> tuple[Runtime, ...]:
        """The runtime and what it is made from, the first ancestor first."""
        runtime = self.runtime(name)
        return (*self.lineage(runtime.parent), runtime) if runtime.parent else (runtime,)

    def fingerprint(self, name: str) -> str:
        """12 hex digits that change when a file changes which the runtime, or an ancestor of it, is made from.

        Each start of a child process asks for it, so the files are read again only when one of them was touched.
        """
        folders = [self.folder / part for runtime in self.lineage(name) for part in (runtime.name, *runtime.copies)]
        stamps = tuple(stamp for folder in folders for stamp in _stamps(str(folder)))
        known = self._fingerprints.get(name)
        if known is not None and known[0] == stamps:
            return known[1]
        found = self._fingerprint(folders)
        # a file may be written twice within one tick of the clock that its stamp is taken from
        if all(stamp.changed < time.time() - _SETTLED_S for stamp in stamps):
            self._fingerprints[name] = (stamps, found)
        return found

    def _fingerprint(self, folders: Iterable[Path]) -> str:
        digest = hashlib.sha256()
        for folder in folders:
            for file in _files(folder):
                executable = file.stat().st_mode & 0o100
                data = file.read_bytes()
                path = file.relative_to(self.folder).as_posix()
                digest.update(f"{path}\0{executable}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()[:12]


def load_catalog(path: Path | None = None) -> Catalog:
    """Read a catalogue.

    Args:
        path: the ``catalog.toml``; by default the one that comes with localml.

    Raises:
        LocalmlError: ``INTERNAL``: it is missing, malformed, or names a runtime that it does not have.
    """
    path = path or runtimes_dir() / CATALOG_FILE
    try:
        file = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise LocalmlError(Code.INTERNAL, f"{path}: {error}") from error
    runtimes = {name: Runtime(name=name, **entry.model_dump()) for name, entry in file.runtimes.items()}
    for problem in _problems(file, path.parent):
        raise LocalmlError(Code.INTERNAL, f"{path}: {problem}")
    return Catalog(path.parent, runtimes, file)


def runtimes_dir() -> Path:
    """The folder of runtimes: beside the package in a checkout, inside the package in an installed wheel."""
    checkout = _PACKAGE.parent / "runtimes"
    return checkout if (checkout / CATALOG_FILE).is_file() else _PACKAGE / "_assets" / "runtimes"


def cache_dir() -> Path:
    """Where downloads and builds are kept: ``$LOCALML_CACHE``, else ``.cache`` of the checkout or of the user."""
    given = os.environ.get("LOCALML_CACHE")
    if given:
        return expanded(given, "LOCALML_CACHE").absolute()
    if (_PACKAGE.parent / "runtimes" / CATALOG_FILE).is_file():
        return _PACKAGE.parent / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or home("LOCALML_CACHE") / ".cache") / "localml"


def _problems(file: _File, folder: Path) -> Iterator[str]:
    for name, entry in file.runtimes.items():
        if entry.parent is not None and list(file.runtimes).index(name) <= _position(file, entry.parent):
            yield f"runtime '{name}': its parent '{entry.parent}' must be listed before it"
        for part in (name, *entry.copies):
            if not (folder / part).is_dir():
                yield f"runtime '{name}': the folder '{part}' is missing"
        if entry.gpu is not None and entry.gpu not in file.runtimes:
            yield f"runtime '{name}': there is no runtime '{entry.gpu}' for GPUs"
    for framework, versions in file.frameworks.items():
        if not versions:
            yield f"framework '{framework}' has no versions"
        for version, name in versions.items():
            if name not in file.runtimes:
                yield f"framework '{framework}' {version}: there is no runtime '{name}'"
    for pattern, name in file.images.items():
        if name not in file.runtimes:
            yield f"image '{pattern}': there is no runtime '{name}'"


def _position(file: _File, name: str) -> int:
    """Where a runtime stands in the file; behind all others if it does not."""
    names = list(file.runtimes)
    return names.index(name) if name in names else len(names)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(_ignored(part) for part in path.relative_to(folder).parts):
            yield path


def _ignored(name: str) -> bool:
    return name in _IGNORED or name.endswith(".egg-info")


class _Stamp(NamedTuple):
    """What tells without reading it that a file is the one that was read before."""

    path: str
    inode: int
    size: int
    changed: float


def _stamps(folder: str) -> Iterator[_Stamp]:
    """Those of all files below a folder that :func:`_files` gives, in the same order while none changes."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if _ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _stamps(entry.path)
            elif entry.is_file():
                seen = entry.stat()
                yield _Stamp(entry.path, seen.st_ino, seen.st_size, seen.st_ctime)


Progress = Callable[[str], None]
"""Takes a line about work that goes on."""
KERNEL_SERVER = "onnx-server"
"""The runtime that can be put into an image of somebody else's."""


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """One runtime as it is on this machine. ``size`` in bytes, None while it is not built.

    ``reference`` is the image's name and tag, or the folder of the environment.
    """

    name: str
    image: str
    reference: str
    built: bool
    size: int | None
    description: str
    contains: tuple[str, ...]
    default: bool


def default_names(images: Iterable[RuntimeImage]) -> list[str]:
    """The runtimes that are built when none is named."""
    return [one.name for one in images if one.default]
