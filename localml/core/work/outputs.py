"""Where a job was told to write: in its environment, or in what its launcher is told."""

from __future__ import annotations

import json
from collections.abc import Mapping

OUTPUT, LAUNCH = "LOCALML_OUTPUT_URI", "LOCALML_LAUNCH"


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
