"""Endpoints from the wish to the route table, over the fake engine."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import ME
from helpers.serving_rig import PROMPT, ServingRig
from sqlalchemy import update

from localml.control.serving.load import EndpointRecord
from localml.control.serving.routes import Keys
from localml.control.serving.views import EndpointView
from localml.core.errors import Code, LocalmlError
from localml.core.prune import PruneRules, prune
from localml.core.serving.endpoints import NewEndpoint
from localml.core.serving.routes_table import wake_folder
from localml.core.serving.specs import EndpointSpec, Scaling, VariantSpec
from localml.core.serving.tables import Endpoint
from localml.core.serving.variants import NewVariant
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.specs import Resources
from localml.core.work.states import Kind
from localml.core.work.workloads import Query


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ServingRig]:
    found = ServingRig(tmp_path)
    yield found
    found.close()


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[ServingRig]:
    """With a gateway, for which the test speaks."""
    found = ServingRig(tmp_path, gateway=True)
    yield found
    found.close()


def children(rig: ServingRig) -> list[str]:
    """Names of the replicas' workloads that are not hidden."""
    return sorted(one.name for one in rig.workloads.page(Query(kinds=(Kind.ENDPOINT,))).items)


def test_serving_a_model_starts_a_replica_and_tells_the_gateway(rig: ServingRig) -> None:
    number = rig.create()
    assert rig.at(number) == "starting"
    rig.run()
    assert rig.at(number) == "ready"
    assert rig.shares() == {"v1": (100, ["ready"])}
    assert children(rig) == ["net-v1-1"]
    (route,) = rig.table().endpoints
    assert route.token_hashes is None
    assert {"Created", "ReplicaReady", "VariantServes", "Ready"} <= set(rig.told(number))


def test_the_gateway_checks_each_version_at_the_page_that_it_has(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    other = VariantSpec(image="my/server:1", command=("serve",), health_path="/healthz")
    new = NewVariant(other, rig.register(), weight=50)
    rig.endpoints.rollout(number, ME, new, keep_settings=False)
    rig.run()
    (route,) = rig.table().endpoints
    pages = [(one.name, one.health.path) for one in route.variants if one.health is not None]
    assert pages == [("v1", "/v2/health/ready"), ("v2", "/healthz")]


def test_the_replica_runs_the_server_with_the_model_mounted_read_only(rig: ServingRig) -> None:
    rig.create(spec=PROMPT, name="digits")
    rig.run()
    full = rig.workloads.named("digits-v1-1")
    (role,), (mount,) = full.spec.roles, full.spec.mounts
    assert role.image == "localml/onnx-server:latest"
    assert "--model-dir /model --frozen --name digits --host 0.0.0.0 --run-timeout-ms 60000 " in role.command[2]
    assert mount.target == "/model"
    assert mount.read_only
    assert (Path(mount.source) / "1" / "model.onnx").is_file()
    assert full.spec.retries.limit == 1000


def test_requests_need_a_token_unless_the_endpoint_is_public(rig: ServingRig) -> None:
    rig.create(spec=EndpointSpec(bake=0.0))
    rig.run()
    assert rig.table().endpoints[0].token_hashes == ("a" * 64,)


def test_an_endpoint_is_ready_only_when_the_gateway_has_its_route(routed: ServingRig) -> None:
    number = routed.create()
    routed.run()
    assert routed.shares() == {"v1": (100, ["ready"])}
    assert routed.at(number) == "starting"
    routed.say()
    routed.run()
    assert routed.at(number) == "ready"


def test_a_rollout_replaces_the_version_without_a_gap(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    rig.prober.trouble = {2: "is loading"}
    rig.rollout(number)
    assert rig.at(number) == "updating"
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 1), "v2": ("rolling", 0)}
    assert rig.shares() == {"v1": (100, ["ready"])}
    rig.prober.trouble = {}
    rig.run()
    assert rig.shape(number) == {"v2": ("serving", 1)}
    assert rig.shares() == {"v2": (100, ["ready"])}
    assert children(rig) == ["net-v2-1"]


def test_a_set_of_versions_takes_over_at_once(routed: ServingRig) -> None:
    """The gateway's table goes from one version to all three shares; nobody sees part of them."""
    number = routed.create()
    routed.run()
    first, a, b = 1, routed.register(), routed.register()
    routed.prober.trouble = {3: "is loading"}
    wanted = [NewVariant(model_version_id=first, weight=20), NewVariant(model_version_id=a, weight=30, name="red")]
    routed.endpoints.put_variants(number, ME, [*wanted, NewVariant(model_version_id=b, weight=50, name="blue")])
    routed.run()
    assert routed.shape(number) == {"v1": ("serving", 1), "red": ("rolling", 1), "blue": ("rolling", 0)}
    assert routed.shares() == {"v1": (100, ["ready"])}
    routed.restart()  # what was asked for is in the records
    routed.prober.trouble = {}
    routed.run()
    shares = {"v1": (20, ["ready"]), "red": (30, ["ready"]), "blue": (50, ["ready"])}
    assert routed.shares() == shares
    full = routed.endpoint(number)
    assert {one.row.name: one.row.weight for one in full.live()} == {"v1": 20, "red": 30, "blue": 50}

    # the same again changes nothing but the shares, at once
    wanted = [NewVariant(model_version_id=a, weight=70, name="red"), NewVariant(model_version_id=b, weight=30)]
    routed.endpoints.put_variants(number, ME, wanted)
    routed.run()
    routed.say()
    routed.run()
    assert routed.shape(number)["red"][0] == routed.shape(number)["blue"][0] == "serving"
    assert {name: share for name, (share, _) in routed.shares().items() if share} == {"red": 70, "blue": 30}


def test_a_set_of_which_one_fails_leaves_what_was_there(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    a, b = rig.register(), rig.register()
    rig.prober.trouble = {3: "is loading"}
    wanted = [NewVariant(model_version_id=a, weight=50), NewVariant(model_version_id=b, weight=50)]
    rig.endpoints.put_variants(number, ME, wanted)
    rig.run()
    rig.clock.advance(PROMPT.ready_timeout + 1)
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 1)}
    assert rig.shares() == {"v1": (100, ["ready"])}
    messages = {one.row.name: one.row.message for one in rig.endpoint(number).variants}
    assert messages["v3"] == "not ready within 120 s: net-v3-1 is loading"
    assert messages["v2"] == f"it came with v3, which was given up: {messages['v3']}"
    assert rig.endpoint(number).row.message == f"v3 was rolled back: {messages['v3']}"


def test_an_endpoint_of_several_versions_that_all_failed_is_tried_again_as_it_was(rig: ServingRig) -> None:
    variants = tuple(NewVariant(model_version_id=rig.register(), weight=share) for share in (75, 25))
    rig.prober.all_ready = False
    number = rig.endpoints.create(NewEndpoint("net", variants, ME, PROMPT)).row.id or 0
    rig.run()
    rig.clock.advance(PROMPT.ready_timeout + 1)
    rig.run()
    assert rig.at(number) == "failed"
    rig.prober.all_ready = True
    rig.endpoints.start(number, ME)
    rig.run()
    assert (rig.at(number), rig.shares()) == ("ready", {"v1-2": (75, ["ready"]), "v2-2": (25, ["ready"])})


SAME = VariantSpec(env={"A": "1"})


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "variants: at least one is needed"),
        ([{"weight": 60}, {"weight": 39}], r"variants: the weights must add up to 100, not 99"),
        ([{"weight": 100}, {"weight": 0}], r"variants.1.weight: must be more than 0 and at most 100, not 0"),
        ([{"weight": 50, "spec": SAME}, {"weight": 50, "spec": SAME}], "variants.1: is the same as variants.0"),
        ([{"weight": 50, "name": "a"}, {"weight": 50, "name": "a"}], "variants.1.name: 'a' is the name of variants.0"),
        ([{"weight": 100, "name": "-"}], "variants.0.name: '-' must start with"),
        ([{"weight": 100, "model_version_id": 99}], "model version '99' does not exist"),
        ([{"weight": 100, "recreate": True}], "recreate: leaves no other version, and one of these serves already"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused_and_changes_nothing(
    rig: ServingRig, members: list[dict[str, Any]], words: str
) -> None:
    number = rig.create()
    rig.run()
    before = rig.told(number)
    same = [{"model_version_id": 1} | one for one in members]
    for place, one in enumerate(same):
        if "spec" not in one and "model_version_id" not in members[place] and place:
            one["model_version_id"] = rig.register()
    with pytest.raises(LocalmlError, match=words):
        rig.endpoints.put_variants(number, ME, [NewVariant(**one) for one in same])
    assert rig.told(number) == before


def test_the_old_replica_ends_only_when_the_gateway_has_no_request_there(routed: ServingRig) -> None:
    number = routed.create()
    routed.run()
    routed.say()
    routed.run()
    routed.rollout(number)
    routed.run()
    assert routed.shares() == {"v1": (0, ["draining"]), "v2": (100, ["ready"])}
    before = routed.table().generation - 1
    for generation, inflight in ((before, 0), (None, 3)):
        routed.say(generation, inflight=inflight)
        routed.run()
        assert routed.shares()["v1"] == (0, ["draining"])
    routed.say()
    routed.run()
    assert routed.shares() == {"v2": (100, ["ready"])}


def test_a_version_that_never_becomes_ready_is_rolled_back_with_the_reason(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    rig.prober.all_ready = False
    rig.prober.trouble = {1: ""}
    rig.rollout(number)
    rig.run()
    rig.clock.advance(PROMPT.ready_timeout + 1)
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 1)}
    assert rig.at(number) == "ready"
    assert "v2 was rolled back: not ready within 120 s: net-v2-1 is loading" in rig.endpoint(number).row.message
    assert "RolledBack" in rig.told(number)


def test_a_version_that_crashes_is_rolled_back(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    env = {"FAKE_SECONDS": "0.1", "FAKE_EXIT": "3"}
    rig.endpoints.rollout(
        number, ME, NewVariant(VariantSpec(env=env), model_version_id=rig.register()), keep_settings=False
    )
    rig.prober.trouble = {2: "does not answer"}
    for _ in range(6):
        rig.run(2)
        rig.clock.advance(10)
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 1)}
    assert "ended 3 times" in rig.endpoint(number).row.message


def test_errors_of_a_new_version_bring_the_old_one_back(routed: ServingRig) -> None:
    number = routed.create(spec=EndpointSpec(public=True, bake=60.0, drain=0.0))
    routed.run()
    routed.say()
    routed.run()
    routed.rollout(number)
    routed.run()
    assert routed.shares() == {"v1": (0, ["ready"]), "v2": (100, ["ready"])}
    routed.say(only="v2", requests=10, statuses={"500": 8, "200": 2})
    routed.run()
    assert routed.shares()["v1"] == (100, ["ready"])
    samples = routed.endpoints.samples(number)
    assert [(one.requests, one.errors) for one in samples["v2"]] == [(10, 8)], "what it did in its short life is kept"
    routed.say()
    routed.run()
    assert "8 of its first 10 answers were errors" in routed.endpoint(number).row.message


@pytest.mark.parametrize(
    "place", ["localml.control.serving.controller.plan_endpoint", "localml.control.serving.routes.route"]
)
def test_an_endpoint_that_cannot_be_looked_after_leaves_the_others_alone(
    rig: ServingRig, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    bad = rig.create("bad")
    module, _, name = place.rpartition(".")
    right = getattr(importlib.import_module(module), name)

    def breaks(subject: Any, *rest: Any) -> Any:
        number = subject.id if isinstance(subject, EndpointView | EndpointRecord) else None
        if number == bad:
            raise ValueError("of no use")
        return right(subject, *rest)

    monkeypatch.setattr(place, breaks)
    good = rig.create("good")
    rig.run()
    assert rig.at(good) == "ready"
    assert [one.name for one in rig.table().endpoints if one.variants] == ["good"]


def test_what_cannot_be_read_of_a_stored_setting_is_its_default_and_leaves_the_others_alone(rig: ServingRig) -> None:
    number = rig.create()
    spoiled = '{"scaling": {"target": null, "maximum": 3}, "bake": null, "unknown": 1}'
    rig.db.write(lambda session: session.execute(update(Endpoint).values(spec=spoiled)))
    other = rig.create(name="other")
    rig.run()
    assert (rig.at(number), rig.at(other)) == ("ready", "ready")
    assert rig.endpoints.get(number).spec == EndpointSpec(scaling=Scaling(maximum=3))


def test_a_canary_and_then_all(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    rig.rollout(number, weight=10.0)
    rig.run()
    assert {name: share for name, (share, _) in rig.shares().items()} == {"v1": 90, "v2": 10}
    second = rig.registry.find("net:2").version.id
    rig.endpoints.rollout(number, ME, NewVariant(model_version_id=second, weight=60.0))
    rig.run()
    assert {name: share for name, (share, _) in rig.shares().items()} == {"v1": 40, "v2": 60}
    rig.endpoints.rollout(number, ME, NewVariant(model_version_id=second))
    rig.run()
    assert rig.shares() == {"v2": (100, ["ready"])}


def test_a_replica_that_dies_is_tried_again_and_comes_back_at_its_new_address(rig: ServingRig) -> None:
    number = rig.create(spec=PROMPT)
    rig.run()
    (route,) = rig.table().endpoints
    before = route.variants[0].replicas[0]
    rig.engine.finish(rig.workloads.named("net-v1-1").attempts[-1].name, exit_code=1)
    rig.run(2)
    assert rig.shares() == {"v1": (100, [])}
    assert rig.at(number) in ("starting", "degraded")
    rig.clock.advance(5)
    rig.run()
    after = rig.table().endpoints[0].variants[0].replicas[0]
    assert rig.at(number) == "ready"
    assert (after.id, after.url) != (before.id, before.url)


def test_a_replica_stopped_by_hand_is_replaced(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    rig.workloads.stop(rig.workloads.named("net-v1-1").row.id or 0, ME)
    rig.run()
    rig.clock.advance(5)
    rig.run()
    assert rig.at(number) == "ready"
    assert "net-v1-2" in children(rig)


def test_scale_up_and_down(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    rig.endpoints.set_scaling(number, ME, minimum=3, maximum=3)
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 3)}
    rig.endpoints.set_scaling(number, ME, minimum=1, maximum=1)
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 1)}
    assert children(rig) == ["net-v1-1"]


def test_more_replicas_than_there_are_cores_for_say_what_the_others_wait_for(tmp_path: Path) -> None:
    rig = ServingRig(tmp_path, cpu=2)
    number = rig.create()
    rig.run()
    rig.endpoints.set_scaling(number, ME, minimum=50, maximum=50)
    rig.run()
    message = rig.endpoint(number).row.message
    assert message == "8 of 50 replicas are ready: there is no room"  # which is what why says of the first
    rig.close()


def test_an_endpoint_whose_runtime_is_built_says_so(rig: ServingRig) -> None:
    rig.reason = "building onnx-server, 40 s"
    said: list[str] = []

    def resolve(image: str, *rest: Any, **more: Any) -> str:
        rig.controller.tick()
        said.append(rig.endpoint(number).row.message)
        return image

    number = rig.create()
    rig.controller.tick()
    rig.engine.resolve_image = resolve  # type: ignore[method-assign]
    rig.run()
    assert said[0] == "building onnx-server, 40 s"
    assert rig.at(number) == "ready"


def test_replicas_are_children_of_their_variant_and_never_share_a_name(rig: ServingRig) -> None:
    number = rig.create()
    rig.endpoints.set_scaling(number, ME, minimum=3, maximum=3)
    rig.run()
    parent = Subject(Noun.VARIANT, rig.endpoint(number).variants[0].row.id or 0)
    found = {row.name: row.parent for row in rig.workloads.page(Query(parent=parent)).items}
    assert found == {f"net-v1-{n}": Parent(parent, n) for n in (1, 2, 3)}
    rig.workloads.delete(rig.workloads.named("net-v1-1").row.id or 0, ME)
    rig.settle()
    rig.clock.advance(1)
    assert len(prune(rig.db, rig.data, PruneRules(deleted_older_than=0), now=rig.clock.now()).workloads) == 1
    rig.run()
    assert rig.shape(number) == {"v1": ("serving", 3)}
    assert children(rig) == ["net-v1-2", "net-v1-3", "net-v1-4"]


def test_replicas_hold_their_gpus_and_wait_for_them(tmp_path: Path) -> None:
    rig = ServingRig(tmp_path, gpus=1)
    number = rig.create()
    rig.run()
    second = rig.endpoints.create(
        NewEndpoint(
            "big",
            (NewVariant(VariantSpec(resources=Resources(gpu=1), replicas=2), model_version_id=rig.register()),),
            ME,
            PROMPT,
        )
    ).row.id
    rig.run()
    assert rig.at(number) == "ready"
    assert rig.at(second or 0) == "starting"
    assert rig.endpoint(second or 0).row.message == "there is no room"
    rig.close()


def test_the_load_scales_and_silence_puts_to_sleep_until_a_request_wakes(routed: ServingRig) -> None:
    limits = Scaling(minimum=0, maximum=3, target=2.0, cooldown=30.0, idle=100.0)
    number = routed.create(spec=EndpointSpec(public=True, bake=0.0, drain=0.0, scaling=limits))
    routed.run()
    routed.say(inflight=5)
    routed.run()
    assert routed.shape(number) == {"v1": ("serving", 3)}
    routed.say()
    routed.run()
    routed.clock.advance(31)
    routed.run()
    routed.say()
    routed.run()
    assert routed.shape(number) == {"v1": ("serving", 1)}
    routed.clock.advance(200)
    routed.run()
    routed.say()
    routed.run()
    assert routed.shape(number) == {"v1": ("serving", 0)}
    assert routed.at(number) == "asleep"
    assert routed.table().endpoints[0].scale_to_zero
    wake_folder(routed.data).mkdir(parents=True, exist_ok=True)
    (wake_folder(routed.data) / "net").touch()
    routed.run()
    routed.say()
    routed.run()
    assert routed.shape(number) == {"v1": ("serving", 1)}
    assert list(wake_folder(routed.data).iterdir()) == []


def test_stop_start_delete(rig: ServingRig) -> None:
    number = rig.create()
    rig.run()
    rig.endpoints.stop(number, ME)
    rig.run()
    assert rig.at(number) == "stopped"
    assert children(rig) == []
    assert rig.shares() == {"v1": (100, [])}
    rig.endpoints.start(number, ME)
    rig.run()
    assert rig.at(number) == "ready"
    rig.endpoints.delete(number, ME)
    rig.run()
    assert rig.endpoint(number).row.closed_at is not None
    assert rig.table().endpoints == ()
    with pytest.raises(LocalmlError):
        rig.endpoints.find("net")


def test_a_failed_endpoint_is_tried_again_by_start(rig: ServingRig) -> None:
    rig.prober.all_ready = False
    number = rig.create()
    rig.run()
    rig.clock.advance(PROMPT.ready_timeout + 1)
    rig.run()
    assert rig.at(number) == "failed"
    assert "not ready within" in rig.endpoint(number).row.message
    rig.prober.all_ready = True
    rig.endpoints.start(number, ME)
    rig.run()
    assert rig.at(number) == "ready"


def test_a_name_is_free_again_while_the_deleted_one_still_drains(routed: ServingRig) -> None:
    first = routed.create()
    routed.run()
    routed.say()
    routed.run()
    routed.endpoints.delete(first, ME)
    second = routed.create()
    routed.run()
    routed.say()
    routed.run()
    assert routed.at(second) == "ready"
    assert routed.shares() == {"v2": (100, ["ready"])}


def test_names_are_checked(rig: ServingRig) -> None:
    rig.create()
    for name, code in (("net", Code.CONFLICT), ("a/b", Code.INVALID), ("-x", Code.INVALID), ("..", Code.INVALID)):
        with pytest.raises(LocalmlError) as failure:
            rig.create(name=name)
        assert failure.value.code is code


@pytest.mark.parametrize("ticks", range(1, 9))
def test_a_crash_between_any_two_looks_loses_and_doubles_nothing(tmp_path: Path, ticks: int) -> None:
    """The server dies and comes back in the middle of a rollout; what it had begun is taken up."""
    rig = ServingRig(tmp_path)
    number = rig.create()
    rig.run()
    table = rig.table()
    rig.rollout(number)
    for one in range(ticks):
        rig.loop.tick() if one % 2 else rig.controller.tick()
        assert rig.shares()  # at every moment there is a table
    rig.restart()
    rig.controller.tick()
    assert any("ready" in states for _, states in rig.shares().values())
    rig.run()
    assert rig.shape(number) == {"v2": ("serving", 1)}
    assert children(rig) == ["net-v2-1"]
    assert rig.table().generation > table.generation
    rig.close()


def test_a_restart_changes_nothing_for_the_gateway(rig: ServingRig) -> None:
    rig.create()
    rig.run()
    before = rig.table()
    rig.restart()
    rig.run()
    assert rig.table() == before


@pytest.mark.parametrize(
    ("spec", "here", "closed", "free"),
    [
        (EndpointSpec(), True, False, False),
        (EndpointSpec(public=True), False, False, True),
        (EndpointSpec(public=True), True, True, False),
        (EndpointSpec(open_here=True), True, False, True),
        (EndpointSpec(open_here=True), False, False, False),
        (EndpointSpec(open_here=True), True, True, False),
    ],
)
def test_who_needs_no_token_at_an_endpoint(spec: EndpointSpec, here: bool, closed: bool, free: bool) -> None:
    hashes = ("a" * 64,)
    keys = Keys(lambda row: hashes, lambda: (), tuple, str, here=here, closed=closed)
    assert keys.of(Endpoint(name="net"), spec) == (None if free else hashes)
