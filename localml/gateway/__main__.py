"""``python -m localml.gateway --data DIR --host H --port P``: exit status 0 after an orderly end, 1 if the port cannot
be used."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import uvloop

from localml.gateway.server import DRAIN, Settings, serve


def main(arguments: list[str] | None = None) -> int:
    """Run until told to end."""
    parser = argparse.ArgumentParser(prog="python -m localml.gateway", description="Router in front of the endpoints.")
    parser.add_argument("--data", type=Path, required=True, help="data directory of the installation")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7071, help="port to listen on; 0 takes a free one")
    parser.add_argument("--allow-host", action="append", default=[], help="further name of this machine (Host header)")
    parser.add_argument("--drain", type=float, default=DRAIN, help="seconds for requests in flight at the end")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(given.data, given.host, given.port, tuple(given.allow_host), given.drain)
    try:
        uvloop.run(serve(settings))
    except OSError as error:
        logging.getLogger("localml.gateway").error("cannot start on %s:%d: %s", given.host, given.port, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
