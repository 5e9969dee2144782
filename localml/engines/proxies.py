"""The proxies of whoever runs this: variables of the environment, and the configuration of Docker's client."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""In small letters; programs look for them in capitals, too."""
_HERE = ("localhost", "127.0.0.1", "::1")


def proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables in both spellings, as far as there are any; the environment goes before ``config.json``."""
    configured = _configured(environment)
    found: dict[str, str] = {}
    for name in VARIABLES:
        value = environment.get(name) or environment.get(name.upper()) or configured.get(name)
        if value:
            found |= {name: value, name.upper(): value}
    return found


def _configured(environment: Mapping[str, str]) -> dict[str, str]:
    """What ``~/.docker/config.json`` says, for this daemon or for any; nothing where it cannot be read."""
    from docker.utils.config import load_general_config
    from docker.utils.proxy import ProxyConfig

    whole: Any = load_general_config()
    entries = whole.get("proxies") if isinstance(whole, dict) else None
    if not isinstance(entries, dict):
        return {}
    mine = entries.get(environment.get("DOCKER_HOST", "")) or entries.get("default")
    if not isinstance(mine, dict):
        return {}
    read: Any = ProxyConfig.from_dict
    return dict(read(mine).get_environment())


def inherited(found: Mapping[str, str], env: Mapping[str, str], near: Iterable[str] = ()) -> dict[str, str]:
    """The variables for a job: those that it does not set itself, in either spelling. Without a proxy, or beside one of
    its own, none are needed.

    Args:
        found: as :func:`proxies` gives them.
        env: the job's own.
        near: hosts that are never reached by a proxy, beside the job's own machine.
    """
    said = {name.lower() for name in env}
    mine = {name: value for name, value in found.items() if name.lower() not in said}
    if not mine.keys() - {"no_proxy", "NO_PROXY"}:
        return mine
    if "no_proxy" not in said:
        near = dict.fromkeys((*filter(None, found.get("no_proxy", "").split(",")), *_HERE, *near))
        mine |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(near))
    return mine
