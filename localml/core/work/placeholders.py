"""References in the values of a role's environment to what is known only when its replicas are placed.

========================  ==================================================================================
``%{index}``              the replica's index within its role
``%{host}``               the name or address under which the others of its workload reach the replica
``%{host:ROLE:INDEX}``    the same of another replica
``%{hosts:ROLE}``         those of all replicas of a role, by index, with commas between
``%{port:LABEL}``         the port with this label that the replica is to listen on
``%{addresses:ROLE:LABEL}``  ``host:port`` of all replicas of a role, by index, with commas between
``%{token}``              the workload's own token: with it a program in it reads the workload, and adds to its series
========================  ==================================================================================

Anything else between ``%{`` and ``}`` is text like any other. ``%%{`` stands for ``%{``; :func:`literal` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ROLE, _LABEL = r"[A-Za-z0-9._~-]+", r"[^:{}]+"
_FORMS = rf"index|host|token|host:{_ROLE}:[0-9]+|hosts:{_ROLE}|port:{_LABEL}|addresses:{_ROLE}:{_LABEL}"
_FOUND = re.compile(rf"%%\{{|%\{{({_FORMS})\}}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One placeholder: ``role`` None is the replica's own, ``index`` None all replicas or its own."""

    kind: str
    role: str | None = None
    index: int | None = None
    label: str | None = None


def literal(text: str) -> str:
    """The text written so that :func:`expand` gives exactly it; for values that come from a user."""
    return text.replace("%{", "%%{")


def references(text: str) -> Iterator[Reference]:
    """The placeholders of a value, in order."""
    if "%{" in text:
        for found in _FOUND.finditer(text):
            if found[1] is not None:
                yield _parsed(found[1])


def expand(text: str, lookup: Callable[[Reference], str]) -> str:
    """The value with each placeholder replaced by what ``lookup`` says."""
    if "%{" not in text:
        return text
    return _FOUND.sub(lambda found: "%{" if found[1] is None else lookup(_parsed(found[1])), text)


def _parsed(inner: str) -> Reference:
    kind, *rest = inner.split(":")
    if kind == "port":
        return Reference(kind, label=rest[0])
    if kind == "addresses":
        return Reference(kind, role=rest[0], label=rest[1])
    if kind == "hosts":
        return Reference(kind, role=rest[0])
    return Reference(kind, rest[0], int(rest[1])) if rest else Reference(kind)
