"""``python -m localml_tensorboard``: TensorBoard over folders of the bucket tree, behind a token.

Reads from the environment:

- ``LOCALML_LOGDIR``: the folder with event files, below ``LOCALML_BUCKETS``; it need not exist yet.
- ``LOCALML_PORT_HTTP``: where to listen (6006 without), on the address ``LOCALML_LISTEN`` (all without).
- ``LOCALML_TOKEN``: the token; empty lets everybody in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localml_tensorboard.gate import Gate

DEFAULT_PORT = 6006
RELOAD_S = 5
"""Seconds between looks at the event files."""


def log_folder(env: Mapping[str, str]) -> Path:
    """The folder to show, inside the bucket tree.

    Raises:
        ValueError: it would be outside.
    """
    buckets = Path(env.get("LOCALML_BUCKETS") or "/buckets").resolve()
    folder = (buckets / env.get("LOCALML_LOGDIR", "").lstrip("/")).resolve()
    if not folder.is_relative_to(buckets):
        raise ValueError(f"LOCALML_LOGDIR: {folder} is not inside {buckets}")
    return folder


def main() -> None:
    """Serve until a signal."""
    from tensorboard import default, program

    port = int(os.environ.get("LOCALML_PORT_HTTP") or DEFAULT_PORT)
    token = os.environ.pop("LOCALML_TOKEN", "")

    class Server(program.WerkzeugServer):  # type: ignore[misc]
        def __init__(self, wsgi_app: Any, flags: Any) -> None:
            super().__init__(Gate(wsgi_app, token, port), flags)

    board = program.TensorBoard(plugins=default.get_plugins(), server_class=Server)
    listen = os.environ.get("LOCALML_LISTEN") or "0.0.0.0"
    where = ["--host", listen, "--port", str(port), "--logdir", str(log_folder(os.environ))]
    board.configure(argv=["tensorboard", *where, "--reload_interval", str(RELOAD_S)])
    sys.exit(board.main())


if __name__ == "__main__":
    main()
