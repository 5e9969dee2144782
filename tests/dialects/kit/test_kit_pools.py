"""Whose pools are: to put work into, and to know of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.config import Config
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.people.rights import MemberRole
from localml.core.work.specs import single
from localml.core.work.workloads import Submission
from localml.dialects.kit.pools import pools_seen, use_pool
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    data: Path = tmp_path_factory.mktemp("data")
    opened = Platform(Config(data, engine="fake", gpus="none", cpus=8, memory=16 << 30, port=0), engine=FakeEngine())
    opened.identity.create_user("ann", "secret", org="ours")
    opened.identity.create_user("ben", "secret", org="theirs")
    for path in ("openpai/default", "openpai/vc1", "openpai/vc2"):
        opened.pools.ensure(path)
    opened.pools.set_limits("teams/limited", cpu=1)
    opened.pools.set_grants(opened.identity.user("ann").id, "openpai", ["openpai/vc1"])
    ann = opened.identity.user("ann")
    for path in ("mine", "teams/limited/mine", "cloudml/train/ours"):
        opened.workloads.submit(Submission(path.replace("/", "-"), single(["true"]), ann, pool=path))
    yield opened
    opened.close()


def code(platform: Platform, caller: Caller, path: str) -> Code | None:
    try:
        use_pool(platform, caller, path)
    except LocalmlError as error:
        return error.code
    return None


@pytest.mark.parametrize("path", ["default", "mine", "new", "teams/limited", "mlbench", "openpai/default"])
def test_most_pools_are_for_everybody(platform: Platform, path: str) -> None:
    assert code(platform, platform.identity.user("ben"), path) is None


@pytest.mark.parametrize(
    ("path", "ann", "ben"),
    [
        ("openpai/vc1", True, False),
        ("openpai/vc2", False, False),
        ("openpai/nothing", False, False),
        ("openpai", False, False),
        ("openpai/vc1/below", False, False),
        ("openpai/default/below", False, False),
        ("cloudml/train/ours", True, False),
        ("cloudml/dev/theirs", False, True),
        ("cloudml/train/nobodys", False, False),
        ("cloudml/train/ours/theirs", False, False),
        ("cloudml/train", False, False),
        ("cloudml", False, False),
    ],
)
def test_a_vendors_pools_are_for_whom_the_vendor_says(platform: Platform, path: str, ann: bool, ben: bool) -> None:
    for name, granted in (("ann", ann), ("ben", ben), ("admin", True)):
        assert code(platform, platform.identity.user(name), path) is (None if granted else Code.FORBIDDEN)


def test_a_refusal_does_not_say_whether_there_is_such_a_pool(platform: Platform) -> None:
    for path in ("openpai/vc1", "openpai/nothing"):
        with pytest.raises(LocalmlError, match=r"^ben may not use this pool: it was not granted$"):
            use_pool(platform, platform.identity.user("ben"), path)


def test_who_only_looks_at_an_organisation_puts_nothing_into_its_pool(platform: Platform) -> None:
    platform.workspaces.set_member("ours", "ben", MemberRole.VIEWER)
    assert code(platform, platform.identity.user("ben"), "cloudml/train/ours") is Code.FORBIDDEN
    assert "cloudml/train/ours" in {one.name for one in pools_seen(platform, platform.identity.user("ben"))}
    platform.workspaces.remove_member("ours", "ben")


def test_pools_are_told_of_where_they_have_limits_or_hold_what_one_sees(platform: Platform) -> None:
    everybody = {"cloudml", "cloudml/train", "teams", "teams/limited"}
    everybody |= {"openpai", "openpai/default", "openpai/vc1", "openpai/vc2"}
    ann, ben, admin = (
        {one.name for one in pools_seen(platform, platform.identity.user(name))} for name in ("ann", "ben", "admin")
    )
    assert ben == everybody
    assert ann == everybody | {"mine", "teams/limited/mine", "cloudml/train/ours"}
    assert admin == ann
