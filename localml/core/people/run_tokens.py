"""The token of what runs: with it a program inside a workload reads that workload and adds to its series, no more.

It is derived from the installation's key and the workload's number, and stored nowhere. Whether it is still good is
asked each time: for as long as the workload is not over and its owner is a user.
"""

from __future__ import annotations

import hmac
import re

from sqlmodel import Session

from localml.core.errors import Code, LocalmlError
from localml.core.people.rights import Action, ThingKind
from localml.core.people.scopes import Scope
from localml.core.people.tables import User
from localml.core.work.states import TERMINAL
from localml.core.work.tables import Workload

PURPOSE = "run-token"
"""Of the signing key."""
_FORM = re.compile(r"lmlrun_([1-9][0-9]{0,17})_[0-9a-f]{64}")
_RIGHTS = frozenset({(ThingKind.WORKLOAD.value, action.value) for action in (Action.READ, Action.REPORT)})


def run_token(key: bytes, workload_id: int) -> str:
    """The token of a workload: ``lmlrun_12_`` and 64 hexadecimal digits."""
    digest = hmac.digest(key, str(workload_id).encode(), "sha256")
    return f"lmlrun_{workload_id}_{digest.hex()}"


def is_run_token(token: str) -> bool:
    """Whether a text has the form; no token that is stored has it."""
    return _FORM.fullmatch(token) is not None


def judged(session: Session, key: bytes, token: str) -> tuple[User, Scope]:
    """The owner of the workload that such a token is of, and the scope: this workload alone, in its workspace.

    Raises:
        LocalmlError: ``UNAUTHENTICATED`` when the token is none of this installation, its workload is over or was
            deleted, or its owner is no user any more.
    """
    found = _FORM.fullmatch(token)
    number = int(found[1]) if found is not None else 0
    if not hmac.compare_digest(run_token(key, number).encode(), token.encode()):
        raise LocalmlError(Code.UNAUTHENTICATED, "the token is not known")
    row = session.get(Workload, number)
    if row is None or row.state in TERMINAL or row.deleted_at is not None:
        raise LocalmlError(Code.UNAUTHENTICATED, "the token is that of a run that is over")
    owner = session.get(User, row.owner_id)
    if owner is None or owner.removed_at is not None:
        raise LocalmlError(Code.UNAUTHENTICATED, "the token is that of a run whose owner was removed")
    return owner, Scope(_RIGHTS, row.workspace, (ThingKind.WORKLOAD, str(number)))
