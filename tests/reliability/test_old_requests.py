"""What was made before there were limits goes on under them: they are for what a user asks anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import wait_until

from localml.config import Config
from localml.core import limits
from localml.core.errors import LocalmlError
from localml.core.subjects import Parent, Subject
from localml.core.work.specs import single
from localml.core.work.states import Kind, State
from localml.core.work.workloads import Submission
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    one = Platform(Config(tmp_path, engine="fake", gpus="none", port=0, gateway_port=0), engine=FakeEngine())
    one.start()
    yield one
    one.close()


def asked(platform: Platform, name: str, kind: Kind) -> Submission:
    admin = platform.identity.by_token(platform.credentials.token)
    return Submission(name=name, spec=single(["true"], env={"FAKE_SECONDS": "1000"}), caller=admin, kind=kind)


def test_a_notebook_runs_again_and_a_replica_is_made_anew(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = asked(platform, "lab", Kind.NOTEBOOK)
    number = platform.instances.create(lab).row.id or 0
    monkeypatch.setattr(limits, "MOST_ARGUMENTS", 0)
    platform.instances.stop(number, lab.caller)
    platform.instances.start(number, lab.caller)

    def again() -> bool:
        now = platform.instances.get(number)
        assert not now.row.message
        return now.row.run == 2 and now.state is State.RUNNING

    wait_until(again)
    replica = Submission(
        name="replica",
        spec=lab.spec,
        caller=lab.caller,
        kind=Kind.ENDPOINT,
        parent=Parent(Subject.workload(number), 1),
    )
    assert platform.workloads.submit(replica)
    with pytest.raises(LocalmlError, match="at most 0 bytes of command"):
        platform.instances.create(asked(platform, "new", Kind.NOTEBOOK))
