"""Making OpenAPI documents quickly: flask-openapi asks pydantic for the same JSON schemas again for every operation.

With the 368 requests of our own API that is most of the time. A model's schema never changes, so it is made once for
each document; callers get a copy, because flask-openapi writes into what it is given.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import flask_openapi.utils
from pydantic import BaseModel


def remember_schemas() -> None:
    """Put a memory in front of the schema generator; harmless to repeat."""
    original = flask_openapi.utils.get_model_schema
    if hasattr(original, "__wrapped__"):
        return
    remembered = functools.cache(original)

    @functools.wraps(original)
    def copied(model: type[BaseModel], *args: Any, **named: Any) -> dict[str, Any]:
        return copy.deepcopy(remembered(model, *args, **named))

    copied.forget = remembered.cache_clear  # type: ignore[attr-defined]
    flask_openapi.utils.get_model_schema = copied


def forget_schemas() -> None:
    """Free what was remembered, once a document is made."""
    remembered = getattr(flask_openapi.utils.get_model_schema, "forget", None)
    if remembered is not None:
        remembered()
