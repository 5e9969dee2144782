"""``python -m localml_launcher``: the command of jobs whose code is a trainer package, or that MPI starts."""

from __future__ import annotations

import sys

from localml_launcher import mpi, trainer
from localml_launcher.console import EXIT_USAGE, LauncherError, say


def main(arguments: list[str]) -> int:
    """Run the named launcher and return the exit status of the job."""
    try:
        if arguments == ["trainer"]:
            return trainer.main()
        if arguments[:2] == ["mpi", "--"] and len(arguments) > 2:
            return mpi.main(arguments[2:])
    except LauncherError as error:
        say(f"error: {error}")
        return error.status
    say("usage: python -m localml_launcher {trainer,mpi -- COMMAND...}")
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
