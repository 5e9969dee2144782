"""The administrator's credentials, made at first start and kept in a file that only the owner of the data reads."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from localml.core.clock import Clock
from localml.core.events.records import record_event
from localml.core.people.identity import ADMIN, Credentials, Identity
from localml.core.people.secrets import new_password, write_private
from localml.core.ports import Store
from localml.core.subjects import PLATFORM

CREDENTIALS_NAME = "credentials.json"


def administrator(data: Path, identity: Identity, store: Store, clock: Clock) -> Credentials:
    """What the file in the data directory says.

    New ones are made at first start, and where the file cannot be read: after a crash between the two writes of the
    first start, or when the file was lost. Then an event says so.
    """
    path = data / CREDENTIALS_NAME
    made = identity.first_credentials()
    if made is not None:
        return _keep(path, made)
    try:
        return Credentials(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        found = _keep(path, _renewed(identity))
        why, now = f"{path.name} could not be read ({error})", clock.now()
        store.write(lambda s: record_event(s, PLATFORM, "CredentialsRenewed", why, now=now, warning=True))
        return found


def _renewed(identity: Identity) -> Credentials:
    caller = identity.user(ADMIN)
    password = new_password()
    identity.set_password(caller.name, password)
    access, secret = identity.create_key(caller)
    return Credentials(caller.name, password, access, secret, caller.workspace, identity.create_token(caller))


def _keep(path: Path, made: Credentials) -> Credentials:
    write_private(path, json.dumps(asdict(made), indent=2).encode())
    return made
