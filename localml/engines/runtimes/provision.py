"""Which environment of this machine an image's name stands for, made when something first runs in it.

Nothing runs in an environment that it did not name: a name that stands for none is missing, and says how to map it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from difflib import get_close_matches
from pathlib import Path

from localml.core.catalog import CATALOG_FILE, HOST, IMAGE_PREFIX, load_catalog
from localml.core.errors import LocalmlError
from localml.engines.base import ImageMissing, Progress
from localml.engines.runtimes.environments import Environments

TELL_S = 5.0
"""Seconds between two words about an environment that is being made."""

_NEAR = 0.8
"""How alike names are, of 1, of which one is taken for the other mistyped."""


class Provision:
    """The environments of a server without containers.

    Args:
        cache: the cache folder, where they are made.
        runtimes: the folder with ``catalog.toml``.
        images: patterns of images' names -> runtime, or :data:`localml.core.catalog.HOST`; they go before the
            catalogue's own, the first that matches counts.

    Raises:
        LocalmlError: ``INVALID``: a pattern stands for no runtime.
    """

    def __init__(self, cache: Path, runtimes: Path, images: Mapping[str, str]) -> None:
        self._catalog = load_catalog(runtimes / CATALOG_FILE)
        self._environments = Environments(cache, runtimes)
        self._images = images
        self._catalog.check(images)
        self._lock = threading.Lock()
        self._making: dict[str, Future[None]] = {}

    def missing(self, image: str) -> str:
        """Why a name stands for no environment, and the setting that makes it one; empty where it does."""
        return "" if self._catalog.stands_for(image, self._images) else self._unmapped(image)

    def resolve(self, image: str, progress: Progress | None = None, pull: bool = True) -> str:
        """The name of the environment that an image stands for, which is made now if need be.

        Args:
            progress: gets a sentence every few seconds while it is made; what it raises ends the waiting, not the
                making, which others may wait for.
            pull: whether to make it.

        Raises:
            ImageMissing: it stands for none, or that cannot be made.
        """
        name = self._catalog.stands_for(image, self._images)
        if not name:
            raise ImageMissing(self._unmapped(image))
        if name == HOST:
            return HOST
        found = self._catalog.runtime(name).image
        if self._environments.env_for(found) is None:
            if not pull:
                raise ImageMissing(f"the runtime '{name}' is not built yet")
            self._await(name, image, progress or (lambda words: None))
        return found

    def env_for(self, name: str) -> Mapping[str, str]:
        """The variables of an environment that :meth:`resolve` named.

        Raises:
            ImageMissing: it is not there any more.
        """
        if name == HOST:
            return self._environments.host()
        found = self._environments.env_for(name)
        if found is None:
            raise ImageMissing(f"{name} is not built; build it with: localml images build {_bare(name)}")
        return found

    def _await(self, name: str, image: str, progress: Progress) -> None:
        """Wait until it is made, by whoever began."""
        began, future = time.monotonic(), self._begun(name)
        about = "" if self._catalog.of_image(image) is not None else f" for {image}"
        while True:
            progress(f"building {name}{about}, {time.monotonic() - began:.0f} s")
            try:
                return future.result(TELL_S)
            except TimeoutError:
                continue
            except Exception as error:
                words = error.message if isinstance(error, LocalmlError) else str(error)
                raise ImageMissing(f"the runtime '{name}' could not be built: {words}") from error

    def _begun(self, name: str) -> Future[None]:
        with self._lock:
            future = self._making.get(name)
            if future is None:
                future = self._making[name] = Future()
                act = threading.Thread(target=self._make, args=(name, future), name=f"build-{name}", daemon=True)
                act.start()
            return future

    def _make(self, name: str, future: Future[None]) -> None:
        failure: Exception | None = None
        try:
            self._environments.ensure(name, lambda line: None)
        except Exception as error:
            failure = error
        with self._lock:
            del self._making[name]  # who asks from now on looks, or tries again
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)

    def _unmapped(self, image: str) -> str:
        name = image.split("@")[0]
        if name.startswith(IMAGE_PREFIX):
            runtimes = [one.image for one in self._catalog.runtimes()]
            near = get_close_matches(name.split(":")[0], runtimes, 1, _NEAR)
            if near:
                return f"image {image}: there is no such runtime; did you mean {near[0]}?"
        folder, slash, last = name.rpartition("/")
        pattern = f"{folder}{slash}{last.split(':')[0]}*"
        runtime = "train-pytorch" if "torch" in name else "train-sklearn"
        meant = self._catalog.meant(image)
        return (
            f"image {image}: this server has no containers, and the name stands for none of its runtimes; "
            f"{f'did you mean {meant}? Or ' if meant else ''}choose one in its settings: "
            f'[images] "{pattern}" = "{runtime}" (or LOCALML_IMAGES="{pattern}={runtime}"; '
            f'"{HOST}" is the Python of this machine)'
        )


def _bare(image: str) -> str:
    return image.removeprefix(IMAGE_PREFIX).split("@")[0].split(":")[0]
