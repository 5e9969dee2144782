"""The tokens of what runs: derived, of one workload, and good for as long as it lives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.config import load
from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import MACHINE, Thing, may
from localml.core.people.rights import Action, ThingKind
from localml.core.people.run_tokens import run_token
from localml.core.work.specs import single
from localml.core.work.states import Kind
from localml.core.work.workloads import Submission
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    found = Platform(load({}, data=tmp_path / "data", engine="fake", gpus="none"), engine=FakeEngine())
    yield found
    found.close()


def submit(platform: Platform, user: str, name: str = "job") -> int:
    caller = platform.identity.user(user)
    return platform.workloads.submit(Submission(name=name, spec=single(["true"]), caller=caller, kind=Kind.JOB))


def refused(platform: Platform, token: str) -> str:
    with pytest.raises(LocalmlError) as refusal:
        platform.identity.by_token(token)
    assert refusal.value.code is Code.UNAUTHENTICATED
    return refusal.value.message


@pytest.mark.parametrize("user", ["admin", "ada"])
def test_it_reads_its_workload_and_reports_of_it_and_nothing_else(platform: Platform, user: str) -> None:
    if user != "admin":
        platform.identity.create_user(user, "a password")
    number, other = submit(platform, user), submit(platform, user, "other")
    token = platform.identity.run_token(number)
    caller = platform.identity.by_token(token)
    assert (caller.name, caller.admin) == (user, False)
    assert platform.identity.by_basic(user, token) == caller
    own = Thing.of(ThingKind.WORKLOAD, platform.workloads.row(number))
    assert {action for action in Action if may(caller, action, own)} == {Action.READ, Action.REPORT}
    foreign = Thing.of(ThingKind.WORKLOAD, platform.workloads.row(other))
    things = [foreign, MACHINE, Thing(ThingKind.WORKLOAD, workspace=caller.workspace), Thing(ThingKind.POOL, "mlbench")]
    things += [Thing(noun, "1", owner=user, workspace=caller.workspace) for noun in ThingKind if noun != own.noun]
    assert [(action, one) for one in things for action in Action if may(caller, action, one)] == []


def test_it_ends_with_its_workload_and_with_its_owner(platform: Platform) -> None:
    platform.identity.create_user("ada", "a password")
    admin = platform.identity.user("admin")
    ended, deleted, left = (submit(platform, "ada", name) for name in ("ended", "deleted", "left"))
    tokens = [platform.identity.run_token(number) for number in (ended, deleted, left)]
    for token in tokens:
        assert platform.identity.by_token(token).name == "ada"
    platform.workloads.stop(ended, admin)
    platform.workloads.delete(deleted, admin)
    platform.reconciler.tick()
    assert "over" in refused(platform, tokens[0])
    assert "over" in refused(platform, tokens[1])
    platform.identity.remove_user("ada")
    assert "owner" in refused(platform, tokens[2])


def test_what_was_not_derived_here_is_refused(platform: Platform) -> None:
    number = submit(platform, "admin")
    token = platform.identity.run_token(number)
    forged = [
        run_token(b"another key", number),
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        token.replace(f"_{number}_", f"_{number + 1}_"),
        re.sub("_[0-9a-f]+$", "_" + "0" * 64, token),
        platform.identity.run_token(999999),
    ]
    for one in forged:
        refused(platform, one)
    stored = [path for path in platform.data.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert stored == []
