"""A distributed job's view of its members, in the words that training frameworks read.

``LOCALML_CLUSTER`` holds JSON:
``{"roles": {"ps": ["host:port", ...], "worker": [...], "master": [...]}, "role": "worker", "index": 0}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from localml_launcher.console import LauncherError

CLUSTER = "LOCALML_CLUSTER"


def framework_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to add for the program: ``TF_CONFIG`` when the job has more than one replica, else none.

    Raises:
        LauncherError: the variable is there and is not as described above.
    """
    text = environ.get(CLUSTER)
    if not text:
        return {}
    try:
        cluster: Any = json.loads(text)
        roles: dict[str, list[str]] = {name: list(members) for name, members in cluster["roles"].items() if members}
        role, index = str(cluster["role"]), int(cluster["index"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LauncherError(f"{CLUSTER} cannot be read: {error!r}") from error
    if not 0 <= index < len(roles.get(role, [])):
        raise LauncherError(f"{CLUSTER}: there is no replica {index} of role '{role}'")
    if sum(len(members) for members in roles.values()) < 2:
        return {}
    return {"TF_CONFIG": json.dumps({"cluster": roles, "task": {"type": role, "index": index}})}
