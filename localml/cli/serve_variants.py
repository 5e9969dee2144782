"""Several versions of an endpoint, as they are written on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from localml.core.errors import LocalmlError, invalid

if TYPE_CHECKING:
    from localml.client import Endpoint

_OPTION = "--variant"
_SHAPE = "[NAME=]MODEL:VERSION@WEIGHT, such as canary=digits:3@10, or v1@90 for one that serves"


def parse(given: Sequence[str], endpoint: Endpoint) -> list[dict[str, Any]]:
    """What :meth:`localml.client.serving.Serving.put_variants` takes.

    ``v1@90`` is the version that serves under this name, ``3@10`` version 3 of the model that the endpoint serves,
    ``digits:3@10`` says the model, and ``canary=`` before these gives it a name.

    Raises:
        LocalmlError: ``INVALID`` naming ``--variant``: a text that is none of these, or weights that miss 100.
    """
    live = [one for one in endpoint.variants if one["ended_at"] is None]
    model = next((str(one["model"]).partition(":")[0] for one in live if one["version"]), "")
    found = [_one(text, {one["name"] for one in live}, model) for text in given]
    total = sum(one["weight"] for one in found)
    if abs(total - 100.0) > 0.01:
        weights = " + ".join(f"{one['weight']:g}" for one in found)
        raise invalid(_OPTION, f"the weights must add up to 100, and {weights} is {total:g}")
    return found


def _one(text: str, names: set[str], model: str) -> dict[str, Any]:
    what, at, weight = text.rpartition("@")
    if not at or not what:
        raise _misshapen(text)
    try:
        share = float(weight.removesuffix("%"))
    except ValueError:
        raise _misshapen(text) from None
    name, equals, version = what.partition("=")
    if not equals and what in names:
        return {"name": what, "weight": share}
    version = version if equals else what
    if not version or (equals and not name):
        raise _misshapen(text)
    if version.isdigit():
        if not model:
            raise invalid(_OPTION, f"{text!r}: the endpoint serves no registered model, so write MODEL:{version}")
        version = f"{model}:{version}"
    return {"name": name if equals else "", "model": version, "weight": share}


def _misshapen(text: str) -> LocalmlError:
    return invalid(_OPTION, f"{text!r} is not {_SHAPE}")


def asked(made: Endpoint) -> Callable[[Endpoint], bool]:
    """Whether an endpoint serves by now all that was asked for, given how it was when that was recorded."""
    rolling = {one["name"] for one in made.variants if one["state"] == "rolling"}

    def look(done: Endpoint) -> bool:
        return not any(one["name"] in rolling and one["state"] == "failed" for one in done.variants)

    return look
