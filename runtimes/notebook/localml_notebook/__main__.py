"""``python -m localml_notebook``: becomes a JupyterLab that works without internet and keeps its settings.

Reads from the environment:

- ``LOCALML_PORT_HTTP``: where to listen (8888 without), on the address ``LOCALML_LISTEN`` (all without).
- ``LOCALML_WORK``: the work folder. Where folders are not mounted, ``LOCALML_MOUNTS`` (JSON, target -> real path) says
  where it really is.
- ``JUPYTER_TOKEN``: the token; it never appears on the command line.
- ``MEM_LIMIT``, ``CPU_LIMIT``: bytes and cores, which the resource display shows.

Settings, history and what ``pip install`` adds live in the work folder, so they outlast the container.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

DEFAULT_PORT = "8888"
PACKAGES = ".packages"
NOT_USE = (
    *(
        f"{what}_{end}"
        for what in ("comm_info", "kernel_info", "shutdown", "interrupt", "debug", "input", "usage")
        for end in ("request", "reply")
    ),
    *("stream", "display_data", "update_display_data", "execute_input", "execute_result", "error", "status"),
    *("clear_output", "debug_event"),
)
"""Messages that are no use of a kernel: jupyter_server's own list, and questions of what the kernel uses. Whoever asks
that would make one that computes look idle, and one that is idle look used."""


def work_folder(env: Mapping[str, str]) -> Path:
    """Where the user's files are; made when it is missing."""
    wanted = env.get("LOCALML_WORK") or os.getcwd()
    folder = Path(json.loads(env.get("LOCALML_MOUNTS") or "{}").get(wanted, wanted))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def options(env: Mapping[str, str], folder: Path) -> list[str]:
    """JupyterLab's command line."""
    return [
        "--no-browser",
        "--allow-root",  # in a container the calling user may be root
        f"--ServerApp.ip={env.get('LOCALML_LISTEN') or '0.0.0.0'}",
        f"--ServerApp.port={env.get('LOCALML_PORT_HTTP') or DEFAULT_PORT}",
        "--ServerApp.port_retries=0",  # the published port, or none
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.quit_button=False",  # it runs until localml stops it
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--ResourceUseDisplay.track_cpu_percent=True",
        *(f"--MappingKernelManager.untracked_message_types={name}" for name in NOT_USE),
    ]


def environment(env: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What JupyterLab and its kernels see."""
    packages = str(folder / PACKAGES)
    search = [packages, *filter(None, [env.get("PYTHONPATH")])]
    return {
        **env,
        "JUPYTER_CONFIG_DIR": str(folder / ".jupyter"),
        "IPYTHONDIR": str(folder / ".ipython"),
        "PIP_TARGET": packages,
        "PYTHONPATH": os.pathsep.join(search),
    }


def main() -> None:
    """Replace this process by JupyterLab."""
    folder = work_folder(os.environ)
    os.chdir(folder)
    env = environment(os.environ, folder)
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", *options(env, folder)], env)


if __name__ == "__main__":
    main()
