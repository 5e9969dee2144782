"""The table of rights: total, monotone in roles, and never widened by a token's scope."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.errors import Code, LocalmlError
from localml.core.people import rights
from localml.core.people.allow import MACHINE, Thing, allow, may, need_priority, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import NEEDS, OWNERS, ROLE_OF, Action, MemberRole, Need, ThingKind
from localml.core.people.scopes import EVERYTHING, Scope

PLACES = ("own", "team", "public", "foreign")
IN_WORKSPACES = (ThingKind.WORKLOAD, ThingKind.ENDPOINT, ThingKind.MODEL, ThingKind.WORKSPACE)
CHANGES = frozenset(Action) - {Action.READ, Action.USE}

roles = st.dictionaries(st.sampled_from(PLACES), st.sampled_from(MemberRole))
callers = st.builds(
    Caller,
    id=st.sampled_from([1, 2]),
    name=st.sampled_from(["me", "you"]),
    admin=st.booleans(),
    workspace=st.just("own"),
    org=st.just(""),
    roles=roles,
)
things = st.builds(
    Thing,
    noun=st.sampled_from(ThingKind),
    id=st.sampled_from([None, "1", "2", "team"]),
    owner=st.sampled_from([None, 1, 2]),
    workspace=st.sampled_from([None, *PLACES]),
    granted=st.booleans(),
)
kinds = st.sampled_from(["*", *ThingKind])
words = kinds.flatmap(lambda kind: st.sampled_from([f"{kind}:{one}" for one in ("*", *Action)]))
scopes = st.builds(
    Scope.of,
    st.lists(words, max_size=4),
    workspace=st.sampled_from([None, "own", "team"]),
    thing=st.sampled_from([None, "workload:1", "endpoint:2", "workspace:team"]),
)
actions = st.sampled_from(Action)


def told(caller: Caller, action: Action, thing: Thing) -> Code | None:
    try:
        allow(caller, action, thing)
    except LocalmlError as error:
        return error.code
    return None


def test_the_table_says_something_for_every_noun_and_action() -> None:
    assert set(NEEDS) == set(ThingKind)
    for needs in NEEDS.values():
        assert set(needs) == set(Action)
        for need in needs.values():
            assert need in ROLE_OF or need in OWNERS or need in (Need.ANYBODY, Need.GRANTED, Need.SELF, Need.ADMIN)


WORDS = {
    Need.ANYBODY: "any user",
    Need.GRANTED: "who was granted it",
    Need.SELF: "self",
    Need.VIEWER: "viewer",
    Need.MEMBER: "member",
    Need.EDITOR: "editor",
    Need.OWNER: "owner",
    Need.OWN: "own",
    Need.OWN_OR_EDITOR: "own, editor",
    Need.OWN_OR_OWNER: "own, owner",
    Need.ADMIN: "-",
}


def test_the_document_shows_the_table_as_it_is() -> None:
    rows = [["", *Action], ["---"] * (len(Action) + 1)]
    rows += [[noun, *(WORDS[NEEDS[noun][action]] for action in Action)] for noun in ThingKind]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    assert table in Path(rights.__file__).with_name("README.md").read_text()


@given(callers, actions, things, scopes)
def test_whatever_is_asked_is_answered_and_the_same_twice(
    caller: Caller, action: Action, thing: Thing, scope: Scope
) -> None:
    caller = replace(caller, scope=scope)
    code = told(caller, action, thing)
    assert code in (None, Code.FORBIDDEN, Code.NOT_FOUND)
    assert (code is None) == may(caller, action, thing)
    assert told(caller, action, thing) == code


@given(callers, actions, things)
def test_administrators_may_everything(caller: Caller, action: Action, thing: Thing) -> None:
    assert told(replace(caller, admin=True), action, thing) is None


@given(callers, actions, things, st.sampled_from(MemberRole), st.sampled_from(MemberRole))
def test_a_higher_role_may_all_that_a_lower_one_may(
    caller: Caller, action: Action, thing: Thing, one: MemberRole, other: MemberRole
) -> None:
    lower, higher = sorted((one, other), key=lambda role: role.rank)
    place = thing.workspace or ""
    if may(replace(caller, roles={**caller.roles, place: lower}), action, thing):
        assert may(replace(caller, roles={**caller.roles, place: higher}), action, thing)


@given(callers, st.sampled_from(sorted(CHANGES)), things)
def test_a_viewer_never_changes_what_is_in_a_workspace(caller: Caller, action: Action, thing: Thing) -> None:
    thing = replace(thing, noun=ThingKind.WORKLOAD, workspace=thing.workspace or "team")
    viewer = replace(caller, admin=False, roles={thing.workspace or "": MemberRole.VIEWER})
    for noun in IN_WORKSPACES:
        one = replace(thing, noun=noun)
        making_a_workspace = noun is ThingKind.WORKSPACE and action is Action.CREATE
        assert may(viewer, action, one) == making_a_workspace


@given(callers, actions, things, scopes)
def test_a_scope_only_ever_narrows(caller: Caller, action: Action, thing: Thing, scope: Scope) -> None:
    if may(replace(caller, scope=scope), action, thing):
        assert may(caller, action, thing)


@given(callers, actions, things, scopes)
def test_no_scoped_token_makes_or_changes_users_and_tokens(
    caller: Caller, action: Action, thing: Thing, scope: Scope
) -> None:
    thing = replace(thing, noun=ThingKind.TOKEN if thing.granted else ThingKind.USER)
    if scope != EVERYTHING and action in CHANGES - {Action.DELETE}:
        assert not may(replace(caller, admin=True, scope=scope), action, thing)


@given(callers, things, actions)
def test_who_may_not_see_is_told_the_same_as_for_what_does_not_exist(
    caller: Caller, thing: Thing, action: Action
) -> None:
    thing = replace(thing, id="1", called="it")
    stranger = replace(caller, admin=False, id=3, name="stranger", roles={})
    if thing.noun in IN_WORKSPACES and action is not Action.CREATE:
        with pytest.raises(LocalmlError, match=rf"^{thing.noun} 'it' does not exist$"):
            allow(stranger, action, thing)


@given(callers, things)
def test_lists_show_what_can_be_read(caller: Caller, thing: Thing) -> None:
    if thing.noun in IN_WORKSPACES and thing.workspace is not None:
        reached = reach(caller, thing.noun)
        assert (reached is None or thing.workspace in reached) == may(caller, Action.READ, thing)


ME = Caller(1, "me", False, "own", "", {"own": MemberRole.OWNER, "team": MemberRole.MEMBER})
MINE = Thing(ThingKind.WORKLOAD, "1", "mine", 1, "team", owner_name="me")
YOURS = Thing(ThingKind.WORKLOAD, "2", "yours", 2, "team", owner_name="you")


@pytest.mark.parametrize(
    ("role", "mine", "yours"),
    [
        (MemberRole.VIEWER, "read use", "read use"),
        (MemberRole.MEMBER, "read use create change report stop delete enter share", "read use create"),
        (
            MemberRole.EDITOR,
            "read use create change report stop delete enter share",
            "read use create change report stop delete",
        ),
        (
            MemberRole.OWNER,
            "read use create change report stop delete enter share",
            "read use create change report stop delete share",
        ),
    ],
)
def test_what_each_role_may_with_a_workload(role: MemberRole, mine: str, yours: str) -> None:
    caller = replace(ME, roles={"team": role})
    for thing, wanted in ((MINE, mine), (YOURS, yours)):
        assert {action for action in Action if may(caller, action, thing)} == {Action(one) for one in wanted.split()}


def test_who_has_the_name_of_an_owner_does_not_own() -> None:
    another = replace(ME, id=3)
    assert told(another, Action.STOP, MINE) is Code.FORBIDDEN
    assert told(another, Action.ENTER, MINE) is Code.FORBIDDEN
    assert told(replace(ME, name="renamed"), Action.STOP, MINE) is None


@pytest.mark.parametrize(
    ("who", "most"),
    [(ME, 100), (replace(ME, admin=True), 1000), (replace(ME, admin=True, scope=Scope.of(["workload"])), 100)],
)
def test_priorities_have_a_range_for_each_role(who: Caller, most: int) -> None:
    for wanted in (-1000, 0, most):
        need_priority(who, wanted)
    for wanted in (-1001, most + 1):
        with pytest.raises(LocalmlError, match=f"^priority: must be between -1000 and {most}, not {wanted}"):
            need_priority(who, wanted)
    need_priority(who, 900, before=900)  # somebody who might has given it


def test_a_refusal_says_who_may() -> None:
    with pytest.raises(LocalmlError, match="only you, editors of its workspace and administrators may") as caught:
        allow(ME, Action.STOP, YOURS)
    assert caught.value.code is Code.FORBIDDEN
    with pytest.raises(LocalmlError, match="me may not administer this machine: only administrators may"):
        allow(ME, Action.ADMINISTER, MACHINE)
    reader = replace(ME, scope=Scope.of(["read"]))
    with pytest.raises(LocalmlError, match="with this token: its scope leaves that out"):
        allow(reader, Action.STOP, MINE)


def test_a_token_for_one_workload_knows_no_other() -> None:
    token = replace(ME, scope=Scope.of(["workload:read", "workload:change"], thing="workload:1"))
    assert told(token, Action.CHANGE, MINE) is None
    assert told(token, Action.STOP, MINE) is Code.FORBIDDEN
    assert told(token, Action.READ, YOURS) is Code.NOT_FOUND
    with pytest.raises(LocalmlError, match="leaves out lists of workloads"):
        reach(token, ThingKind.WORKLOAD)


def test_a_token_for_one_workspace_stays_in_it() -> None:
    token = replace(ME, scope=Scope.of(workspace="team"))
    assert told(token, Action.CREATE, Thing(ThingKind.WORKLOAD, owner=1, workspace="team")) is None
    assert told(token, Action.CREATE, Thing(ThingKind.WORKLOAD, owner=1, workspace="own")) is Code.NOT_FOUND
    assert told(token, Action.READ, MACHINE) is None
    assert told(token, Action.USE, Thing(ThingKind.POOL, "default")) is None
    assert told(token, Action.READ, Thing(ThingKind.OBJECT, "s3://b/k")) is Code.NOT_FOUND
    assert reach(token, ThingKind.WORKLOAD) == {"team"}
    assert reach(replace(token, admin=True), ThingKind.WORKLOAD) == {"team"}


def test_making_something_in_a_workspace_that_one_does_not_see() -> None:
    for place, code in (("foreign", Code.NOT_FOUND), ("team", None)):
        assert told(ME, Action.CREATE, Thing(ThingKind.MODEL, workspace=place)) is code
    viewer = replace(ME, roles={"team": MemberRole.VIEWER})
    assert told(viewer, Action.CREATE, Thing(ThingKind.MODEL, workspace="team")) is Code.FORBIDDEN


@pytest.mark.parametrize("text", ["", "fly", "workload:fly", "house:read", "workload:", "a:b:c"])
def test_rights_that_are_none(text: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        Scope.of([text])
    assert caught.value.field == "scope"


@pytest.mark.parametrize("text", ["", "12", "workload", "workload:", "house:1"])
def test_things_that_are_none(text: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        Scope.of(thing=text)
    assert caught.value.field == "thing"


@given(scopes)
def test_a_scope_comes_back_as_it_was_stored(scope: Scope) -> None:
    assert Scope.stored(scope.as_json()) == scope
    assert (scope.as_json() is None) == (not scope.restricts)
