"""What this installation is set to, as the vendor's properties file has such: texts by name, and nothing secret.

Names that begin with ``LOCALML_`` are those of the server's own settings (``localml up --help``).
"""

from __future__ import annotations

from localml import __version__
from localml.dialects.wmla.translate.plans import DEFAULT, path_of
from localml.platform import Platform


def settings(platform: Platform, endpoint: str, gateway: str | None) -> dict[str, str]:
    """Name -> value.

    Args:
        endpoint: where the caller reaches this API.
        gateway: where models are reached; None while that is not known.
    """
    config, machine = platform.config, platform.hardware.machine()
    return {
        "MSD_ENABLED": "true",  # the vendor's command line asks whether jobs have a scheduler of their own
        "DLI_REST_URL": endpoint,
        "DLI_EDI_REST_URL": gateway or "",
        "DLI_DEFAULT_RESPLAN": path_of(DEFAULT),
        "LOCALML_VERSION": __version__,
        "LOCALML_ENGINE": platform.engine.name,
        "LOCALML_CPUS": f"{machine.cpu:g}",
        "LOCALML_CPU_OVERCOMMIT": f"{config.cpu_overcommit:g}",
        "LOCALML_MEMORY": str(machine.memory),
        "LOCALML_GPUS": str(len(platform.gpus.devices())),
        "LOCALML_MAX_REPLICAS": str(machine.max_replicas),
        "LOCALML_NO_AUTH": "false" if config.auth else "true",
        "LOCALML_KEEP_LOGS_DAYS": f"{config.keep_logs_days:g}",
        "LOCALML_KEEP_REMOVED_DAYS": f"{config.keep_removed_days:g}",
        "LOCALML_KEEP_JOBS_DAYS": f"{config.keep_jobs_days:g}",
        "LOCALML_KEEP_EVENTS_DAYS": f"{config.keep_events_days:g}",
    }
