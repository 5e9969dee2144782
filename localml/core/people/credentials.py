"""The administrator's credentials, made at first start and kept in a file that only the owner of the data reads."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.events.records import record_event
from localml.core.people.identity import ADMIN, Credentials, Identity
from localml.core.people.secrets import new_password, write_private
from localml.core.ports import Store
from localml.core.subjects import PLATFORM

CREDENTIALS_NAME = "credentials.json"

log = logging.getLogger("localml.people")


class Administrator:
    """Keeps the file in the data directory good: whoever may read it is the owner of the installation.

    New credentials are made at first start, where the file cannot be read (after a crash between the two writes of the
    first start, or when it was lost), and where those in it were ended: by a new password of the administrator, or one
    by one. The password is in the file for as long as it is the one that was made up here; one that somebody chose is
    written down nowhere.

    Attributes:
        credentials: what the file says.
    """

    def __init__(self, data: Path, identity: Identity, store: Store, clock: Clock) -> None:
        self._path = data / CREDENTIALS_NAME
        self._identity = identity
        self._store = store
        self._clock = clock
        self._renewing = threading.Lock()
        self._asked = 0
        made = identity.first_credentials()
        if made is not None:
            self._keep(made)
        else:
            self._open()

    def check(self) -> None:
        """Something about users changed: renew in the file what has ended. Whoever calls meanwhile need not wait."""
        self._asked += 1
        while self._renewing.acquire(blocking=False):
            asked = self._asked
            try:
                self._renew()
            except LocalmlError as error:  # the disk is full, say: the next change, or start, tries again
                log.error("%s holds what has ended, and cannot be renewed: %s", self._path, error)
            finally:
                self._renewing.release()
            if asked == self._asked:
                return

    def _open(self) -> None:
        try:
            self.credentials = Credentials(**json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            password = new_password()
            self._identity.set_password(ADMIN, password, generated=True)
            self._keep(Credentials(ADMIN, password, "", "", self._identity.user(ADMIN).workspace, ""))
            self._tell(f"{self._path.name} could not be read ({error})")
        if self._renew():
            self._tell(f"what {self._path.name} held had ended")

    def _renew(self) -> bool:
        """Make anew what has ended; whether anything had that was there."""
        held = self.credentials
        key_stands, token_stands = self._identity.holds(ADMIN, held.access_key, held.token)
        if key_stands and token_stands:
            return False
        caller = self._identity.user(ADMIN)
        if not key_stands:
            access, secret = self._identity.create_key(caller, name=CREDENTIALS_NAME)
            held = replace(held, access_key=access, secret_key=secret)
        if not token_stands:
            held = replace(held, token=self._identity.create_token(caller, name=CREDENTIALS_NAME))
        if held.password and not self._identity.has_password(ADMIN, held.password):
            held = replace(held, password="")
        ended = bool(self.credentials.token)
        self._keep(held)
        return ended

    def _keep(self, made: Credentials) -> None:
        self.credentials = made
        try:
            write_private(self._path, json.dumps(asdict(made), indent=2).encode())
        except OSError as error:  # the next start finds that what the file says has ended
            log.error("%s could not be written, so the command line is shut out: %s", self._path, error)

    def _tell(self, why: str) -> None:
        now = self._clock.now()
        with suppress(LocalmlError):
            self._store.write(lambda s: record_event(s, PLATFORM, "CredentialsRenewed", why, now=now, warning=True))
