"""``python -m localml_launcher trainer``: the command of jobs whose code is a trainer package."""

from __future__ import annotations

import sys

from localml_launcher import trainer
from localml_launcher.console import EXIT_USAGE, LauncherError, say

LAUNCHERS = {"trainer": trainer.main}


def main(arguments: list[str]) -> int:
    """Run the named launcher and return the exit status of the job."""
    if len(arguments) != 1 or arguments[0] not in LAUNCHERS:
        say(f"usage: python -m localml_launcher {{{','.join(LAUNCHERS)}}}")
        return EXIT_USAGE
    try:
        return LAUNCHERS[arguments[0]]()
    except LauncherError as error:
        say(f"error: {error}")
        return error.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
