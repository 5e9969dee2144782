"""Base of the models that query strings are read into."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel


class Parameters(BaseModel):
    """Parameters of a query string; those that are not known are ignored."""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As pydantic's. The generator asks for it with every request, and making it takes a millisecond."""
        if args or kwargs:
            return super().model_json_schema(*args, **kwargs)
        return _schema(cls)


@cache
def _schema(model: type[Parameters]) -> dict[str, Any]:
    return super(Parameters, model).model_json_schema()
