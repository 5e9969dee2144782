"""Several machines: each replica is started on the one that it was placed on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import Rig, job

from localml.core.work.specs import Resources, Role, WorkloadSpec


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path, gpus=4, nodes=("left", "right"))
    yield one
    one.close()


def _where(rig: Rig) -> dict[str, str]:
    """Container -> the machine that the engine was told."""
    return {name: one.plan.node for name, one in rig.engine._world.replicas.items()}


def test_a_gang_that_no_machine_has_room_for_is_divided(rig: Rig) -> None:
    role = Role(name="worker", command=("x",), count=2, resources=Resources(gpu=3))
    number = rig.submit("a", WorkloadSpec(roles=(role,)))
    rig.settle()
    assert rig.state(number) == "running"
    recorded = {one.name: one.node for one in rig.get(number).attempts}
    assert recorded == _where(rig)
    assert sorted(recorded.values()) == ["left", "right"]


def test_a_restarted_server_finds_each_where_it_is(rig: Rig) -> None:
    numbers = [rig.submit(name, job(None, gpu=4)) for name in ("a", "b")]
    rig.settle()
    before = _where(rig)
    rig.restart()
    rig.settle()
    assert [rig.state(number) for number in numbers] == ["running", "running"]
    assert _where(rig) == before
    assert sorted(before.values()) == ["left", "right"]
