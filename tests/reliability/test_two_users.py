"""Two users, two workspaces, all dialects: every operation there is, tried by somebody whose business it is not.

The operations are those of the apps' URL maps; how each is asked, and what is to be found, is in
:mod:`helpers.two_users_recipes`. One without a recipe fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
from helpers.two_users import MARK, READS, SECRET, Answer, Operation, Try, World
from helpers.two_users_recipes import recipes

from localml.core.people.scopes import Scope
from localml.dialects.kit.open import ASKED_FOR, TABLE

RECIPES = recipes()
OPEN = {(one.api, one.operation) for one in TABLE if one.group not in ASKED_FOR}

Things = Mapping[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    opened = World(tmp_path_factory.mktemp("data"))
    opened.furnish()
    yield opened
    opened.close()


@pytest.fixture(params=["ids", "names"])
def things(world: World, request: pytest.FixtureRequest) -> Things:
    """label -> what stands for it, by id or by name."""
    return {
        "bobs": world.bobs,
        **(world.ids if request.param == "ids" else world.names),
        "new": f"bobs-{request.param}",
    }


def tried(world: World) -> Iterator[tuple[Operation, Try]]:
    """Every operation with all that is tried with it."""
    for op in world.operations():
        for one in RECIPES.get(str(op), ()):
            yield op, one


def faults(found: Callable[[World, Operation, Try, Things], Iterator[str]], world: World, things: Things) -> str:
    """What is wrong with all answers, a line each."""
    before = world.kept = world.state()
    words = [one for op, attempt in tried(world) for one in found(world, op, attempt, things)]
    lost = {table: gone for table, rows in before.items() if (gone := rows - world.state()[table])}
    return "\n".join([*words, *(f"{table} lost {rows}" for table, rows in lost.items())])


def refuses(answer: Answer) -> bool:
    """Whether it is a refusal; OpenPAI's server says so with a 500 when there is no job to start or stop,
    and with a 400 when there is no object; WMLA's with a 400, where its document lists no 404."""
    words = (b"could not find", b"does not exist")
    without_words = answer.status == 400 and answer.asked.startswith("HEAD ")
    return answer.status in (401, 403, 404) or without_words or any(one in answer.data for one in words)


def told(answer: Answer, words: str) -> str:
    return f"{answer.asked[:160]}: {answer.status} {words}\n    {answer.data[:600]!r}"


def changed(world: World, before: Mapping[str, set[str]], answer: Answer, *, only_lost: bool = False) -> Iterator[str]:
    """What an operation has changed; nothing is looked at after one that reads."""
    if not before:
        return
    after = world.kept = world.state()
    for table, rows in before.items():
        if lost := rows - after[table]:
            yield told(answer, f"changed {table}: {lost}")
        if not only_lost and (new := after[table] - rows):
            yield told(answer, f"made {table}: {new}")


def snapshot(world: World, op: Operation) -> Mapping[str, set[str]]:
    return {} if op.method in READS else world.kept


def test_every_operation_has_a_recipe(world: World) -> None:
    there = {str(one) for one in world.operations()}
    assert there - RECIPES.keys() == set(), "say in helpers/two_users_recipes.py what somebody else finds there"
    assert RECIPES.keys() - there == set()


def test_the_wrong_user_finds_what_there_is_where_nothing_is(world: World, things: Things) -> None:
    assert not (found := faults(by_bob, world, things)), found


def by_bob(world: World, op: Operation, one: Try, things: Things) -> Iterator[str]:
    """Whoever has no right to a thing neither reads, changes nor learns of it."""
    before = snapshot(world, op)
    answer = world.send(world.bob, op, one, things)
    if one.verdict in ("hidden", "used", "granted"):
        yield from differs(world, op, one, things, answer)
    if one.verdict == "refused" and not refuses(answer):
        yield told(answer, "is no refusal")
    if one.verdict == "taken" and (answer.status not in (400, 403, 409) or b"exists" not in answer.data):
        yield told(answer, "does not say that the name is taken, or more than that")
    if one.verdict in ("own", "seen") and answer.status >= 300:
        yield told(answer, "should be answered")
    if one.verdict in ("own", "busy") and MARK in answer.shown:
        yield told(answer, "names what is alice's")
    if SECRET in answer.data.decode(errors="replace"):
        yield told(answer, "tells a secret")
    yield from changed(world, before, answer, only_lost=one.verdict in ("own", "busy"))


def differs(world: World, op: Operation, one: Try, things: Things, answer: Answer) -> Iterator[str]:
    """Whether the answer is another one than for what nobody has."""
    other = world.unknown(things)
    unknown = world.send(world.bob, op, one, other)
    if answer.asked_for({text: other[label] for label, text in things.items()}) != unknown.asked_for({}):
        yield told(answer, f"is not {unknown.status} {unknown.data[:300]!r}")
    if not refuses(answer):
        yield told(answer, "is no refusal")


def test_a_stranger_finds_what_the_table_of_open_operations_says(world: World, things: Things) -> None:
    assert not (found := faults(by_nobody, world, things)), found


def by_nobody(world: World, op: Operation, one: Try, things: Things) -> Iterator[str]:
    before = snapshot(world, op)
    answer = world.send(None, op, one, things)
    is_open = (op.dialect, op.endpoint) in OPEN
    if not is_open and (answer.status != 401 or MARK in answer.data.decode(errors="replace")):
        yield told(answer, "should be 401")
    if SECRET in answer.data.decode(errors="replace"):
        yield told(answer, "tells a secret")
    yield from changed(world, before, answer)


def test_a_token_without_the_right_is_refused_by_every_operation(world: World, things: Things) -> None:
    nothing = world.scoped(world.alice, Scope.of(["token:delete"], thing="token:none"))

    def by_token(world: World, op: Operation, one: Try, things: Things) -> Iterator[str]:
        if (
            op.dialect == "cloudml"
            or op.endpoint == "document"
            or op.endpoint.endswith(("issue_token", "get_api", "logoff"))
        ):
            return  # signed with a key, which has no scope; open to all; ends the token alone
        before = snapshot(world, op)
        answer = world.send(nothing, op, one, things)
        # a list of what the token leaves in is empty
        if not refuses(answer) and answer.data != b'{"workspaces":[]}\n' and op.method != "HEAD":
            yield told(answer, "is no refusal")
        if SECRET in answer.data.decode(errors="replace"):
            yield told(answer, "tells a secret")
        yield from changed(world, before, answer)

    assert not (found := faults(by_token, world, things)), found


def test_a_viewer_reads_and_changes_nothing(world: World, things: Things) -> None:
    assert not (found := faults(by_viewer, world, things)), found


def by_viewer(world: World, op: Operation, one: Try, things: Things) -> Iterator[str]:
    """A viewer of alice's workspace and of her organisation."""
    if one.verdict not in ("hidden", "refused") or "follow=true" in one.query:
        return
    if op.dialect == "cloudml" and "org_id" not in one.query:
        if op.method == "POST":
            return  # of the own organisation
        one = Try(one.verdict, one.params, "org_id={org}")
    before = snapshot(world, op)
    answer = world.send(world.vera, op, one, things)
    if before and not refuses(answer) and "own workspace" not in answer.data.decode(errors="replace"):
        yield told(answer, "is no refusal")
    if SECRET in answer.data.decode(errors="replace"):
        yield told(answer, "tells a secret")
    yield from changed(world, before, answer)


@pytest.mark.parametrize("who", ["alice", "admin"])
def test_its_owner_and_administrators_read_all_of_it(world: World, things: Things, who: str) -> None:
    """So the refusals are none of requests that nobody would be answered."""
    for op, one in tried(world):
        if op.method in READS and one.verdict == "hidden" and not left_out(op, one, who):
            answer = world.send(getattr(world, who), op, one, things)
            assert answer.status < 300, told(answer, "should be answered")


def left_out(op: Operation, one: Try, who: str) -> bool:
    """What does not end, what administrators alone may, what is another organisation's for them, and what a notebook
    would answer that is only said to run."""
    if op.rule.endswith("/runningkernels"):
        return True
    if who == "admin":
        return "follow=true" in one.query or (op.dialect == "cloudml" and "org_id" not in one.query)
    of_administrators = op.endpoint in ("events.of_subject", "people.list_users", "admin.env")
    return of_administrators or one.query == "org_id=-1" or "follow=true" in one.query


def test_the_machine_is_shown_busy_without_a_word_of_whose_work_it_is(world: World) -> None:
    hers, his = (
        [lease for gpu in world.do(user, "GET", "/localml/v1/gpus")["gpus"] for lease in gpu["leases"]]
        for user in (world.alice, world.bob)
    )
    assert [(one["name"], one["fraction"]) for one in hers] == [(f"{MARK}-job", 1.0)] * 2
    assert his == [{"workload_id": None, "name": "", "fraction": 1.0, "acquired_at": None}] * 2


def test_counts_are_of_what_one_sees(world: World) -> None:
    op = Operation("native", "GET", "/localml/v1/workloads", "")
    for user in (world.alice, world.bob, world.vera, world.admin):
        listed = world.send(user, op, Try("", query="deleted=true&limit=1000"), {}).json["workloads"]
        counts = world.do(user, "GET", "/localml/v1/status")["counts"]
        assert sum(counts.values()) == len(listed)


def test_why_names_the_workload_ahead_to_who_may_read_it_alone(world: World) -> None:
    path = f"/localml/v1/workloads/{world.bobs}/why"
    for user, name in ((world.bob, "another workload"), (world.admin, f"'{MARK}-next'")):
        why = world.do(user, "GET", path)["why"]
        assert why["message"] == f"waits behind {name}, which waits for 2 GPUs (0 GPUs free)"
        assert bool(why["holders"]) == (user is world.admin)
