"""Images: which are here, and fetching those that are not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from localml.core.work.specs import RegistryAuth
from localml.engines.base import ImageMissing, Progress
from localml.engines.docker.daemon import Daemon, explanation, out_of_order, readable
from localml.engines.proxies import proxies

_AT_ONCE_S = 2.0


def resolve_image(
    daemon: Daemon, image: str, progress: Progress | None, *, pull: bool, auth: RegistryAuth | None = None
) -> str:
    """The id of the image, fetched first (as the user that ``auth`` names) if it is not here and ``pull`` allows it.

    Raises:
        ImageMissing: it is not here; the message says whether fetching was tried, and why it failed.
    """
    found = _find(daemon, image)
    if found is None:
        if not pull:
            raise ImageMissing(f"image {image} is not on this machine")
        if image.startswith("sha256:"):
            raise ImageMissing(f"image {image} is not on this machine, and an image cannot be pulled by its id")
        try:
            _pull(daemon, image, progress, auth)
        except ImageMissing as error:
            if (found := _find(daemon, image)) is not None:  # it was not found, and is there
                return found
            raise ImageMissing(f"{error}{without_proxy(daemon.info())}") from error
        found = _find(daemon, image)
    if found is None:
        raise ImageMissing(f"image {image} was pulled and is gone again")
    return found


def without_proxy(info: Mapping[str, Any]) -> str:
    """A hint for a failed pull: it is the daemon that pulls, through its own proxies, and it has none while we do."""
    ours = [name for name in ("HTTPS_PROXY", "HTTP_PROXY") if name in proxies()]
    if not ours or info.get("HttpProxy") or info.get("HttpsProxy"):
        return ""
    return f"; the Docker daemon has no proxy, while {ours[0]} is set here: it wants its own (see its daemon.json)"


def image_user(daemon: Daemon, image: str) -> str:
    """Whom an image's programs run as; empty for root, and for an image that is not here."""
    try:
        config = daemon.api.inspect_image(image).get("Config") or {}  # type: ignore[no-untyped-call]
    except NotFound:
        return ""
    user = str(config.get("User") or "").partition(":")[0]
    return "" if user in ("root", "0") else user


def _find(daemon: Daemon, image: str) -> str | None:
    try:
        return str(daemon.api.inspect_image(image)["Id"])  # type: ignore[no-untyped-call]
    except NotFound:
        return None
    except APIError as error:
        if error.status_code == 400:
            raise ImageMissing(f"{image!r} is no name of an image: {readable(explanation(error))}") from error
        raise


def _pull(daemon: Daemon, image: str, progress: Progress | None, auth: RegistryAuth | None) -> None:
    repository, tag = parse_repository_tag(image)
    login = None
    if auth is not None:
        login = {"username": auth.username, "password": auth.password, "serveraddress": auth.registry}
    for again in (True, False):
        began = time.monotonic()
        try:
            events = daemon.api.pull(repository, tag or "latest", stream=True, decode=True, auth_config=login)
            return report_pull(image, events, progress)
        except APIError as error:
            if out_of_order(error):
                raise
            # the daemon says 500 of a registry's failures, too: what took it time was one
            if not (again and error.is_server_error() and time.monotonic() - began < _AT_ONCE_S):
                raise ImageMissing(_failure(image, explanation(error))) from error


def report_pull(image: str, events: Iterable[Mapping[str, Any]], progress: Progress | None) -> None:
    """Say how far the download is, each percent once; layers that are here already have no size and don't count."""
    sizes: dict[str, int] = {}
    done: dict[str, int] = {}
    said = -1
    for event in events:
        if "error" in event:
            raise ImageMissing(_failure(image, str(event["error"])))
        detail = event.get("progressDetail") or {}
        layer = str(event.get("id", ""))
        if event.get("status") == "Downloading" and detail.get("total"):
            sizes[layer], done[layer] = int(detail["total"]), int(detail["current"])
        elif event.get("status") in ("Download complete", "Pull complete") and layer in sizes:
            done[layer] = sizes[layer]
        percent = 100 * sum(done.values()) // sum(sizes.values()) if sizes else 0
        if progress is not None and percent > said:
            said = percent
            progress(f"pulling {image}: {percent} %")


def _failure(image: str, reason: str) -> str:
    return f"image {image} is not on this machine and pulling it failed: {readable(reason)}"
