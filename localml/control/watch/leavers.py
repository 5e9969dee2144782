"""What opens a shell to somebody who may not be inside any more is stopped, and what begins more and more in that name:
notebooks, TensorBoards and studies of users who were removed, or are no members of its workspace any more.

The address of the former holds a token that the user knows. Jobs and endpoints go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from localml.control.watch.idle import STOPPER
from localml.control.worker import Worker
from localml.core.errors import Code, LocalmlError
from localml.core.instances.instances import Instances
from localml.core.studies.studies import Studies

log = logging.getLogger("localml.control")


class Leavers:
    """Looks when users have changed, and when the server starts.

    Args:
        gone: why nothing may begin in the name of a user (by number) in a workspace; empty where it may.
    """

    def __init__(self, instances: Instances, studies: Studies, gone: Callable[[int, str], str]) -> None:
        self._instances = instances
        self._studies = studies
        self._gone = gone
        self._worker = Worker("leavers", self.tick, what="stopping what was left behind")

    def start(self) -> None:
        """Begin to look."""
        self._worker.start()

    def nudge(self) -> None:
        """Users have changed."""
        self._worker.nudge()

    def close(self) -> None:
        """End the thread."""
        self._worker.close()

    def tick(self) -> float | None:
        """Stop what runs, or is about to."""
        for one in self._instances.left_behind():
            try:
                self._instances.stop(
                    one.row.id or 0, STOPPER, f"{one.row.owner}, whose it is, may not be inside any more"
                )
            except LocalmlError as error:
                if error.code is not Code.NOT_FOUND:  # deleted meanwhile
                    raise
            else:
                log.info("%s %s is stopped: its owner may not be inside any more", one.row.kind, one.row.name)
        for study in self._studies.active():
            if words := self._gone(study.owner_id, study.workspace):
                self._studies.stop(study.id or 0, STOPPER, reason=words)
                log.info("study %s is stopped: %s", study.name, words)
        return None
