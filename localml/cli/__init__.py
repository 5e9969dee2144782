"""The ``localml`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    from localml.cli.app import run

    sys.exit(run(sys.argv[1:]))
