"""What a token is good for: some of what its owner may, never more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from localml.core.errors import invalid
from localml.core.people.rights import Action, ThingKind

_ALL = "*"
_OUTSIDE: Mapping[ThingKind, frozenset[Action]] = {
    ThingKind.MACHINE: frozenset({Action.READ}),
    ThingKind.POOL: frozenset({Action.READ, Action.USE}),
}
"""What is in no workspace, and is needed to put something into one."""
_KEYS = {ThingKind.USER, ThingKind.TOKEN}


@dataclass(frozen=True, slots=True)
class Scope:
    """A restriction. Empty members do not restrict.

    Attributes:
        rights: pairs of a noun and an action, as ``workload:read``; ``*`` stands for all of them.
        workspace: only what is in this one.
        thing: one thing alone: its noun and id, as ``workload:12``.
    """

    rights: frozenset[tuple[str, str]] = frozenset()
    workspace: str | None = None
    thing: tuple[ThingKind, str] | None = None

    @classmethod
    def of(cls, rights: Iterable[str] = (), *, workspace: str | None = None, thing: str | None = None) -> Scope:
        """A scope from texts: ``read`` and ``*:read`` are the same, ``workload`` and ``workload:*`` too.

        Raises:
            LocalmlError: ``INVALID`` naming ``scope`` or ``thing``.
        """
        return cls(frozenset(map(_right, rights)), workspace, None if thing is None else _thing(thing))

    @classmethod
    def stored(cls, value: Any) -> Scope:
        """What :meth:`as_json` gave; None is no restriction."""
        return (
            EVERYTHING if value is None else cls.of(value["rights"], workspace=value["workspace"], thing=value["thing"])
        )

    def as_json(self) -> dict[str, Any] | None:
        """As it is stored and shown; None when nothing is restricted."""
        if self == EVERYTHING:
            return None
        thing = None if self.thing is None else ":".join(self.thing)
        return {"rights": sorted(map(":".join, self.rights)), "workspace": self.workspace, "thing": thing}

    @property
    def restricts(self) -> bool:
        """Whether anything is left out."""
        return self != EVERYTHING

    def covers(self, action: Action, noun: ThingKind, thing_id: str | None, workspace: str | None) -> bool:
        """Whether it leaves in what is asked for.

        A scope that restricts anything never makes or changes users and tokens, whatever its rights say: those would
        have none.
        """
        if not self.restricts:
            return True
        if noun in _KEYS and action not in (Action.READ, Action.DELETE):
            return False
        return self.has_right(action, noun) and self._reaches(action, noun, thing_id, workspace)

    def has_right(self, action: Action, noun: ThingKind) -> bool:
        """Whether the rights leave in the action, for such things at all; who may change one may report of it."""
        covering = {_ALL, action} | ({Action.CHANGE} if action is Action.REPORT else set())
        wanted = {(one, two) for one in (noun.value, _ALL) for two in covering}
        return not self.rights or not self.rights.isdisjoint(wanted)

    def _reaches(self, action: Action, noun: ThingKind, thing_id: str | None, workspace: str | None) -> bool:
        if self.thing is not None and self.thing != (noun, thing_id):
            return False
        if self.workspace is None:
            return True
        return workspace == self.workspace or action in _OUTSIDE.get(noun, frozenset())


EVERYTHING = Scope()
"""No restriction."""


def _right(text: str) -> tuple[str, str]:
    noun, colon, action = text.strip().partition(":")
    if not colon and noun in set(Action):
        noun, action = _ALL, noun
    action = action or _ALL
    if noun not in {_ALL, *ThingKind} or action not in {_ALL, *Action} or text.endswith(":"):
        words = f"{text!r} is none of NOUN, ACTION and NOUN:ACTION, with nouns {', '.join(ThingKind)} and "
        raise invalid("scope", f"{words}actions {', '.join(Action)}")
    return noun, action


def _thing(text: str) -> tuple[ThingKind, str]:
    noun, _, number = text.partition(":")
    if noun not in set(ThingKind) or not number:
        raise invalid("thing", f"{text!r} is no noun and id such as workload:12")
    return ThingKind(noun), number
