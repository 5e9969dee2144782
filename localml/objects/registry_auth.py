"""Credentials for pulling images, kept by the user in an object of the bucket tree."""

from __future__ import annotations

from localml.core.errors import invalid
from localml.core.work.specs import RegistryAuth
from localml.objects.access import BucketsFor
from localml.objects.buckets import Buckets

_MOST = 4096


def read_registry_auth(buckets: Buckets | BucketsFor, uri: str, *, field: str = "registry_auth") -> RegistryAuth:
    """What an object with registry, user name and password on a line each says.

    Raises:
        LocalmlError: ``INVALID`` naming ``field`` when there is no such object, or when it does not hold these.
    """
    if not buckets.exists(uri, field=field):
        raise invalid(field, f"{uri} does not exist")
    with buckets.open(uri, field=field) as file:
        text = file.read(_MOST + 1)
    try:
        lines = [line.strip() for line in text.decode().strip().splitlines()]
    except UnicodeDecodeError:
        lines = []
    if len(text) > _MOST or len(lines) != 3 or not all(lines):
        raise invalid(field, f"{uri} must hold a registry, a user name and a password, each on a line of its own")
    registry, username, password = lines
    return RegistryAuth(registry=registry, username=username, password=password)
