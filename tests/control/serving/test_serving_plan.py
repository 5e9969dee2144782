"""Plans for endpoints: what a user gets while versions are rolled, replicas die and the load changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localml.control.serving.plan import (
    AddReplica,
    Close,
    EndReplica,
    Healed,
    MarkReplica,
    MoveVariant,
    SetState,
    StopReplica,
    making_room,
    plan_endpoint,
    target,
    weights,
)
from localml.control.serving.scaling import Load, scaled
from localml.control.serving.views import EndpointView, ReplicaView, VariantView
from localml.core.serving.specs import EndpointSpec, EndpointState, ReplicaState, Scaling, VariantState
from localml.core.work.states import Desired

READY = ReplicaView(1, ReplicaState.READY, ready=True, started_at=0.0)


@dataclass
class World:
    """An endpoint whose plans are carried out in memory; the engine's and the probes' side is set by the test."""

    scale: int = 1
    spec: EndpointSpec = field(default_factory=lambda: EndpointSpec(bake=5.0))
    now: float = 1000.0
    state: EndpointState = EndpointState.STARTING
    desired: Desired = Desired.RUN
    deleted: bool = False
    closed: bool = False
    variants: dict[int, VariantView] = field(default_factory=dict)
    ended: dict[int, VariantView] = field(default_factory=dict)
    next_id: int = 1

    def add(self, weight: float = 100.0, name: str = "", *, recreate: bool = False) -> int:
        number, self.next_id = self.next_id, self.next_id + 1
        self.variants[number] = VariantView(
            number,
            name or f"v{len(self.variants) + len(self.ended) + 1}",
            VariantState.ROLLING,
            weight,
            created_at=self.now,
            recreate=recreate,
        )
        return number

    def add_set(self, *shares: float, leaves: dict[int, float] | None = None) -> list[int]:
        """Versions that come together; ``leaves`` is what those before them keep."""
        made = [self.add(share) for share in shares]
        for one in made:
            self.variants[one] = replace(self.variants[one], batch=made[0], leaves=leaves or {})
        return made

    def view(self) -> EndpointView:
        return EndpointView(
            1,
            self.desired,
            self.spec,
            self.scale,
            deleted=self.deleted,
            state=self.state,
            variants=tuple(self.variants.values()),
        )

    def settle(self) -> None:
        """Carry out plans until there is none."""
        for _ in range(30):
            steps = plan_endpoint(self.view(), self.now)
            if self.closed or all(isinstance(step, SetState) and step.state is self.state for step in steps):
                return
            for step in steps:
                self.apply(step)
            self.check()
        raise AssertionError(f"plans never end: {steps}")

    def apply(self, step: object) -> None:
        if isinstance(step, AddReplica):
            number, self.next_id = self.next_id, self.next_id + 1
            self._replicas(step.variant.id, add=ReplicaView(number, ReplicaState.STARTING))
        elif isinstance(step, MarkReplica):
            self.change(step.replica.id, state=step.state, told=step.state is ReplicaState.DRAINING)
        elif isinstance(step, StopReplica):
            self.change(step.replica.id, stopping=True, live=False, ready=False)
        elif isinstance(step, EndReplica):
            self._replicas(step.variant.id, drop=step.replica.id)
            if step.not_before is not None:
                one = self.variants[step.variant.id]
                self.variants[one.id] = replace(one, failures=one.failures + 1, not_before=step.not_before)
        elif isinstance(step, Healed):
            self.variants[step.variant.id] = replace(self.variants[step.variant.id], failures=0, not_before=None)
        elif isinstance(step, MoveVariant):
            self._move(step)
        elif isinstance(step, SetState):
            self.state = step.state
        elif isinstance(step, Close):
            self.closed = True

    def _move(self, step: MoveVariant) -> None:
        one = self.variants[step.variant.id]
        weight = one.weight if step.weight is None else step.weight
        promoted = one.promoted_at
        if step.to in (VariantState.BAKING, VariantState.SERVING) and promoted is None:
            promoted = self.now
        self.variants[one.id] = replace(one, state=step.to, weight=weight, promoted_at=promoted)
        if step.end:
            self.ended[one.id] = self.variants.pop(one.id)

    def _replicas(self, variant: int, *, add: ReplicaView | None = None, drop: int | None = None) -> None:
        one = self.variants[variant]
        kept = tuple(replica for replica in one.replicas if replica.id != drop)
        self.variants[variant] = replace(one, replicas=kept + ((add,) if add else ()))

    def change(self, replica: int, **members: object) -> None:
        for key, one in self.variants.items():
            found = tuple(replace(each, **members) if each.id == replica else each for each in one.replicas)
            self.variants[key] = replace(one, replicas=found)

    def replicas(self, variant: int) -> list[ReplicaView]:
        return list(self.variants[variant].replicas) if variant in self.variants else []

    def start_all(self, variant: int) -> None:
        """All its replicas come up."""
        for one in self.replicas(variant):
            if one.live and one.state is not ReplicaState.DRAINING:
                self.change(one.id, started_at=one.started_at or self.now, ready=True)
        self.settle()

    def check(self) -> None:
        """What must hold after every single step."""
        assert sum(weights(self.view()).values()) < 100.01
        for one in self.variants.values():
            assert len(one.active) <= max(self.scale, 1) * 2

    def serving(self) -> list[str]:
        return [one.name for one in self.variants.values() if one.state is VariantState.SERVING]


def served(scale: int = 1, **rest: object) -> World:
    """An endpoint with one version that serves."""
    world = World(scale=scale, **rest)  # type: ignore[arg-type]
    first = world.add()
    world.settle()
    world.start_all(first)
    assert world.serving() == ["v1"]
    assert world.state is EndpointState.READY
    return world


def test_a_new_endpoint_starts_its_replicas_and_is_ready_when_all_are() -> None:
    world = World(scale=2)
    first = world.add()
    world.settle()
    one, two = world.replicas(first)
    world.change(one.id, ready=True, started_at=world.now)
    world.settle()
    assert world.state is EndpointState.STARTING
    assert weights(world.view()) == {}
    world.change(two.id, ready=True, started_at=world.now)
    world.settle()
    assert world.state is EndpointState.READY
    assert weights(world.view()) == {first: 100.0}


def test_the_old_version_keeps_its_replicas_until_the_new_one_has_proved_itself() -> None:
    world = served(scale=2)
    second = world.add()
    world.settle()
    assert world.state is EndpointState.UPDATING
    assert len(world.replicas(1)) == len(world.replicas(second)) == 2
    assert weights(world.view()) == {1: 100.0}
    world.start_all(second)
    assert weights(world.view()) == {1: 0.0, second: 100.0}  # on trial
    assert [one.state for one in world.replicas(1)] == [ReplicaState.READY] * 2
    world.now += world.spec.bake
    world.settle()
    assert world.serving() == ["v2"]
    assert world.ended[1].state is VariantState.GONE
    assert world.state is EndpointState.READY


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ({"started_at": 0.0}, "not ready within"),
        ({"crashes": 3, "started_at": 1000.0}, "ended 3 times"),
        ({"live": False, "failed": True, "message": "no image"}, "cannot run: no image"),
    ],
)
def test_a_version_that_does_not_come_up_is_rolled_back(trouble: dict[str, object], words: str) -> None:
    world = served()
    second = world.add()
    world.settle()
    (one,) = world.replicas(second)
    world.change(one.id, **trouble)
    steps = plan_endpoint(world.view(), world.now)
    (move,) = [step for step in steps if isinstance(step, MoveVariant)]
    assert move.to is VariantState.FAILED
    assert words in move.message
    world.settle()
    assert world.ended[second].state is VariantState.FAILED
    assert world.serving() == ["v1"]
    assert [one.state for one in world.replicas(1)] == [ReplicaState.READY]
    assert world.state is EndpointState.READY


def test_a_version_that_finds_no_room_is_given_up_only_while_another_serves() -> None:
    world = World()
    first = world.add()
    world.settle()
    world.now += 10 * world.spec.queue_timeout
    world.settle()
    assert world.state is EndpointState.STARTING  # it waits for its place like any other workload
    world.start_all(first)
    second = world.add()
    world.settle()
    world.now += world.spec.queue_timeout + 1
    world.settle()
    assert world.ended[second].state is VariantState.FAILED


def test_a_version_in_place_of_another_starts_when_that_has_ended_and_is_tried_as_well() -> None:
    world = served(scale=2)
    second = world.add(recreate=True)
    world.settle()
    assert world.replicas(1) == []
    assert world.serving() == ["v1"]  # it may come back
    assert len(world.replicas(second)) == 2
    assert making_room(world.view())
    world.start_all(second)
    assert weights(world.view()) == {1: 0.0, second: 100.0}  # on trial
    world.now += world.spec.bake
    world.settle()
    assert world.serving() == ["v2"]
    assert world.state is EndpointState.READY
    assert not making_room(world.view())


def test_versions_that_come_together_take_over_together() -> None:
    world = served(scale=2)
    a, b = world.add_set(60.0, 10.0, leaves={1: 30.0})
    world.settle()
    assert (len(world.replicas(a)), len(world.replicas(b))) == (2, 1)
    world.start_all(a)
    assert weights(world.view()) == {1: 100.0}  # one alone takes nothing
    assert world.state is EndpointState.UPDATING
    world.start_all(b)
    assert weights(world.view()) == {1: 30.0, a: 60.0, b: 10.0}  # on trial
    assert len(world.replicas(1)) == 2
    world.now += world.spec.bake
    world.settle()
    assert world.serving() == ["v1", "v2", "v3"]
    assert weights(world.view()) == {1: 30.0, a: 60.0, b: 10.0}
    assert len(world.replicas(1)) == 1  # as many as its share needs
    assert world.state is EndpointState.READY


def test_a_set_without_the_version_before_ends_it() -> None:
    world = served(spec=EndpointSpec(bake=0.0))
    a, b = world.add_set(90.0, 10.0)
    world.settle()
    world.start_all(a)
    world.start_all(b)
    assert world.serving() == ["v2", "v3"]
    assert weights(world.view()) == {a: 90.0, b: 10.0}
    assert world.ended[1].state is VariantState.GONE


@pytest.mark.parametrize("at", ["rolling", "errors", "unready"])
def test_a_set_is_rolled_back_as_a_whole_and_says_which_one_failed(at: str) -> None:
    world = served()
    a, b = world.add_set(60.0, 30.0, leaves={1: 10.0})
    world.settle()
    world.start_all(a)
    if at == "rolling":
        world.change(world.replicas(b)[0].id, live=False, failed=True, message="no image")
    else:
        world.start_all(b)
        assert weights(world.view())[b] == 30.0
        if at == "errors":
            world.variants[b] = replace(world.variants[b], requests=10, errors=6)
        else:
            world.change(world.replicas(b)[0].id, ready=False)
    moves = [step for step in plan_endpoint(world.view(), world.now) if isinstance(step, MoveVariant)]
    assert [one.to for one in moves] == [VariantState.FAILED] * 2
    assert moves[0].message == f"it came with v3, which was given up: {moves[1].message}"
    world.settle()
    assert weights(world.view()) == {1: 100.0}  # as if nothing had been asked for
    assert (world.serving(), world.state) == (["v1"], EndpointState.READY)


def test_a_new_endpoint_may_begin_with_several_versions() -> None:
    world = World()
    a, b = world.add_set(50.0, 50.0)
    world.settle()
    world.start_all(a)
    assert (weights(world.view()), world.state) == ({}, EndpointState.STARTING)
    world.start_all(b)
    assert (weights(world.view()), world.state) == ({a: 50.0, b: 50.0}, EndpointState.READY)


def test_what_was_to_stay_and_ended_meanwhile_leaves_its_share_to_the_others() -> None:
    world = served(spec=EndpointSpec(bake=0.0))
    a, b = world.add_set(30.0, 20.0, leaves={99: 50.0})
    world.settle()
    world.start_all(a)
    world.start_all(b)
    assert weights(world.view()) == {a: 60.0, b: 40.0}


@pytest.mark.parametrize("ready", [False, True])
def test_a_version_that_made_room_comes_back_when_the_new_one_fails(ready: bool) -> None:
    world = served()
    second = world.add(recreate=True)
    world.settle()
    if ready:
        world.start_all(second)
        world.variants[second] = replace(world.variants[second], requests=10, errors=6)
    else:
        world.change(world.replicas(second)[0].id, live=False, failed=True)
    world.settle()
    assert world.ended[second].state is VariantState.FAILED
    assert len(world.replicas(1)) == 1
    world.start_all(1)
    assert (world.serving(), world.state) == (["v1"], EndpointState.READY)


def test_errors_on_trial_bring_the_old_version_back_at_once() -> None:
    world = served()
    second = world.add()
    world.settle()
    world.start_all(second)
    world.variants[second] = replace(world.variants[second], requests=10, errors=6)
    world.settle()
    assert weights(world.view()) == {1: 100.0}
    assert world.ended[second].state is VariantState.FAILED


def test_few_errors_on_trial_are_no_reason() -> None:
    world, _ = on_trial(requests=100, errors=8)
    world.now += world.spec.bake
    world.settle()
    assert world.serving() == ["v2"]


def test_errors_that_the_old_version_has_as_well_are_no_reason() -> None:
    world, _ = on_trial(requests=100, errors=40)
    assert world.serving() == ["v1"]
    world, _ = on_trial(requests=100, errors=40, before=(1000, 350))
    world.now += world.spec.bake
    world.settle()
    assert world.serving() == ["v2"]


def test_nothing_but_errors_is_enough_from_two_answers_on() -> None:
    world, second = on_trial(requests=2, errors=2)
    assert world.ended[second].state is VariantState.FAILED


def test_doubt_gets_more_time_for_more_answers_but_not_for_ever() -> None:
    world, second = on_trial(requests=1, errors=1)
    world.now += 2 * world.spec.bake
    world.settle()
    assert world.variants[second].state is VariantState.BAKING
    world.variants[second] = replace(world.variants[second], requests=3, errors=3)
    world.settle()
    assert world.ended[second].state is VariantState.FAILED
    world, _ = on_trial(requests=1, errors=1)
    world.now += 6 * world.spec.bake
    world.settle()
    assert world.serving() == ["v2"]


def test_a_version_takes_over_from_one_that_is_asleep_and_sleeps_in_its_place() -> None:
    world = served()
    world.scale = 0
    world.settle()
    assert world.variants[1].replicas == ()
    second = world.add()
    world.settle()
    world.start_all(second)
    assert world.serving() == ["v2"]
    assert world.ended[1].state is VariantState.GONE


def on_trial(*, requests: int, errors: int, before: tuple[int, int] = (0, 0)) -> tuple[World, int]:
    """A second version on trial, with what it and the first one answered."""
    world = served()
    second = world.add()
    world.settle()
    world.start_all(second)
    world.variants[1] = replace(world.variants[1], requests=before[0], errors=before[1])
    world.variants[second] = replace(world.variants[second], requests=requests, errors=errors)
    world.settle()
    return world, second


def test_a_canary_takes_its_share_and_leaves_the_rest() -> None:
    world = served(scale=4)
    second = world.add(weight=25.0)
    world.settle()
    assert len(world.replicas(second)) == 1
    world.start_all(second)
    world.now += world.spec.bake
    world.settle()
    assert weights(world.view()) == {1: 75.0, second: 25.0}
    assert len(world.replicas(1)) == 3
    assert world.state is EndpointState.READY


def test_versions_that_start_together_keep_their_shares() -> None:
    world = World(spec=EndpointSpec(bake=0.0))
    numbers = [world.add(weight=share) for share in (20.0, 30.0, 50.0)]
    world.settle()
    for number in numbers:
        world.start_all(number)
    assert weights(world.view()) == dict(zip(numbers, (20.0, 30.0, 50.0), strict=True))


def test_a_dead_replica_is_replaced_after_growing_pauses() -> None:
    world = served()
    pauses = []
    for _ in range(4):
        (one,) = world.replicas(1)
        world.change(one.id, live=False, ready=False)
        world.settle()
        assert world.replicas(1) == []
        not_before = world.variants[1].not_before
        assert not_before is not None
        pauses.append(not_before - world.now)
        world.now = not_before
        world.settle()
        world.start_all(1)
    assert pauses == [1.0, 2.0, 4.0, 8.0]
    world.now += 120
    world.settle()
    assert world.variants[1].failures == 0


def test_a_replica_that_is_not_ready_any_more_gets_no_requests() -> None:
    world = served(scale=2)
    one, _ = world.replicas(1)
    world.change(one.id, ready=False)
    world.settle()
    assert [each.state for each in world.replicas(1)] == [ReplicaState.STARTING, ReplicaState.READY]
    assert world.state is EndpointState.DEGRADED


def test_fewer_replicas_drain_before_they_end_and_those_not_ready_go_first() -> None:
    world = served(scale=3)
    worst = world.replicas(1)[0]
    world.change(worst.id, ready=False)
    world.settle()
    world.scale = 2
    steps = plan_endpoint(world.view(), world.now)
    assert [step.replica.id for step in steps if isinstance(step, MarkReplica)] == [worst.id]
    assert not [step for step in steps if isinstance(step, StopReplica)]
    world.settle()
    assert len(world.replicas(1)) == 2


def test_a_draining_replica_is_stopped_only_when_the_gateway_let_go_of_it() -> None:
    draining = replace(READY, state=ReplicaState.DRAINING)
    view = EndpointView(1, Desired.STOP, EndpointSpec(), 1, variants=(_serving(draining),))
    assert not [step for step in plan_endpoint(view, 0.0) if isinstance(step, StopReplica)]
    told = replace(view, variants=(_serving(replace(draining, told=True)),))
    assert [step for step in plan_endpoint(told, 0.0) if isinstance(step, StopReplica)]


def _serving(*replicas: ReplicaView) -> VariantView:
    return VariantView(1, "v1", VariantState.SERVING, replicas=replicas)


def test_stop_and_start() -> None:
    world = served(scale=2)
    world.desired = Desired.STOP
    world.settle()
    assert world.replicas(1) == []
    assert world.state is EndpointState.STOPPED
    world.desired = Desired.RUN
    world.settle()
    world.start_all(1)
    assert world.state is EndpointState.READY


def test_delete_leaves_nothing() -> None:
    world = served(scale=2)
    world.add()
    world.settle()
    world.deleted = True
    world.settle()
    world.settle()
    assert world.variants == {}
    assert world.closed


def test_asleep_keeps_the_version_and_no_replica() -> None:
    world = served()
    world.scale = 0
    world.settle()
    assert world.replicas(1) == []
    assert world.state is EndpointState.ASLEEP
    world.scale = 1
    world.settle()
    world.start_all(1)
    assert world.state is EndpointState.READY


def test_a_replica_that_moved_is_ready_again_only_with_its_new_address() -> None:
    unready = replace(READY, ready=False)
    view = EndpointView(1, Desired.RUN, EndpointSpec(), 1, variants=(_serving(unready),))
    (mark,) = [step for step in plan_endpoint(view, 0.0) if isinstance(step, MarkReplica)]
    assert mark.state is ReplicaState.STARTING


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["roll", "canary", "set", "recreate", "up", "crash", "wait", "scale"]), st.integers(0, 7)
        )
    )
)
def test_while_versions_roll_there_are_never_fewer_ready_replicas_than_before(events: list[tuple[str, int]]) -> None:
    """Only a crash and versions in place of others take capacity away, and in the end all is as wanted."""
    world = served(scale=2)
    for what, number in events:
        before = _capacity(world)
        if what in ("roll", "canary", "set", "recreate"):
            for key, one in list(world.variants.items()):
                if one.state is VariantState.ROLLING:
                    world.variants[key] = replace(one, state=VariantState.FAILED)
            if what == "set":
                stays = [one.id for one in world.view().in_state(VariantState.SERVING)][: number % 2]
                world.add_set(*((30.0, 30.0) if stays else (30.0, 70.0)), leaves=dict.fromkeys(stays, 40.0))
            else:
                world.add(weight=10.0 + number if what == "canary" else 100.0, recreate=what == "recreate")
        elif what == "wait":
            world.now += 1 + number
        elif what == "scale":
            world.scale = 1 + number % 3
        else:
            live = [one for each in world.variants.values() for one in each.active]
            if live:
                one = live[number % len(live)]
                world.change(one.id, **({"ready": True, "started_at": world.now} if what == "up" else _DEAD))
        world.settle()
        if what in ("roll", "canary", "set", "up", "wait") and not making_room(world.view()):
            assert _capacity(world) >= min(before, _wanted(world))
    _finish(world)
    assert world.state is EndpointState.READY
    for one in world.variants.values():
        assert one.state is VariantState.SERVING
        assert len(one.replicas) == one.ready == target(world.view(), one)
    assert sum(weights(world.view()).values()) == pytest.approx(100.0, abs=0.01)


_DEAD = {"live": False, "ready": False}


def _capacity(world: World) -> int:
    """Ready replicas that get requests now."""
    shares = weights(world.view())
    return sum(one.ready for one in world.variants.values() if shares.get(one.id, 0) > 0)


def _wanted(world: World) -> int:
    shares = weights(world.view())
    return min((target(world.view(), one) for one in world.variants.values() if shares.get(one.id, 0) > 0), default=0)


def _finish(world: World) -> None:
    """No more accidents: everything comes up, time goes by."""
    for _ in range(12):
        world.now += 70
        world.settle()
        for number in list(world.variants):
            world.start_all(number)
        if not any(one.state is not VariantState.SERVING for one in world.variants.values()):
            world.now += 130
            world.settle()
            for number in list(world.variants):
                world.start_all(number)


LIMITS = EndpointSpec(scaling=Scaling(minimum=0, maximum=4, target=2.0, cooldown=60.0, idle=300.0))


@pytest.mark.parametrize(
    ("scale", "load", "enough_since", "wanted"),
    [
        (1, Load(busy=2.0, active_at=1000.0), None, 1),
        (1, Load(busy=3.0, active_at=1000.0), None, 2),
        (1, Load(busy=50.0, active_at=1000.0), None, 4),
        (4, Load(busy=2.0, active_at=1000.0), None, 4),  # not yet
        (4, Load(busy=2.0, active_at=1000.0), 950.0, 4),
        (4, Load(busy=2.0, active_at=1000.0), 940.0, 1),
        (1, Load(active_at=701.0), 0.0, 1),
        (1, Load(active_at=700.0), 0.0, 0),  # falls asleep
        (0, Load(active_at=0.0), None, 0),
        (0, Load(active_at=0.0, waking=True), None, 1),
        (0, Load(busy=5.0, active_at=1000.0, waking=True), None, 3),
    ],
)
def test_the_load_decides_between_the_limits(scale: int, load: Load, enough_since: float | None, wanted: int) -> None:
    assert scaled(LIMITS, scale, load, enough_since, 1000.0) == wanted
