"""The body of an answer to who logs on."""

from __future__ import annotations

from pydantic import BaseModel


class AccessToken(BaseModel):
    """A token, to be sent as ``Authorization: Bearer TOKEN`` or in ``X-Auth-Token``."""

    accessToken: str
