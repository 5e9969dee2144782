"""What objects a job was told of: in its command, in its environment, or in what its launcher is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from localml.core.work.specs import Role

OUTPUT, LAUNCH = "LOCALML_OUTPUT_URI", "LOCALML_LAUNCH"
_URI = re.compile(r"\b(?:fds|obs|s3|hdfs)://[A-Za-z0-9._-]+")
_PLACE = re.compile(r"(?:(?<![\w./-])/buckets|\$\{?LOCALML_BUCKETS(?::?-[^}]*)?\}?)/([A-Za-z0-9._-]+)")


def output_uris(env: Mapping[str, str]) -> list[str]:
    """Folders that a role was told to write to."""
    found = [env[OUTPUT]] if env.get(OUTPUT) else []
    try:
        launch = json.loads(env.get(LAUNCH, "{}"))
    except ValueError:
        launch = {}
    if isinstance(launch, dict) and isinstance(launch.get("output_uri"), str) and launch["output_uri"]:
        found.append(launch["output_uri"])
    return list(dict.fromkeys(found))


def told_uris(role: Role) -> Iterator[str]:
    """URIs of the buckets that a role's command and environment name, wherever in their texts: by a URI, or by where
    they are for a program (``/buckets/NAME``, ``$LOCALML_BUCKETS/NAME``)."""
    yield from output_uris(role.env)
    for text in (*role.command, *role.env.values()):
        yield from _URI.findall(text)
        yield from (f"s3://{name}" for name in _PLACE.findall(text))
