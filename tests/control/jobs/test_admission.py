"""The queue's rules, by table and by property."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.control.jobs.admission import Admission, Pass, admit
from localml.control.jobs.demands import Amount, Demand, GpuSlot, Holder, Node, PoolState, Shape, Waiting
from localml.control.jobs.placing import place
from localml.control.jobs.queue import Queue

GIB = 1 << 30


def node(cpu: float = 8, memory: int = 16 * GIB, gpus: int = 4, **rest: object) -> Node:
    slots = tuple(GpuSlot(f"GPU-{n}", "Type A") for n in range(gpus))
    return Node("local", Amount(cpu, memory, float(gpus)), slots, **rest)


def wait(number: int, pool: str = "default", priority: int = 0, limit: float | None = None, **need: object) -> Waiting:
    return Waiting(number, f"j{number}", pool, priority, Shape.of(Demand("main", **need)), limit)


def run(*jobs: Waiting, on: Node | None = None, pools: list[PoolState] | None = None, **rest: object) -> Admission:
    tree = {pool.name: pool for pool in (pools or [PoolState("default")])}
    return admit(jobs, [on or node()], tree, rest.pop("holders", ()), rest.pop("now", 0.0))


def test_higher_priority_goes_first_then_order_of_arrival() -> None:
    found = run(wait(1, gpu=4), wait(2, gpu=4, priority=1), wait(3, gpu=4))
    assert list(found.placements) == [2]
    assert (found.reasons[1].code, found.reasons[1].holders) == ("resources", (2,))


def test_a_later_job_overtakes_only_where_it_cannot_delay_the_head() -> None:
    found = run(wait(1, gpu=3), wait(2, gpu=2), wait(3, gpu=1), wait(4, cpu=1))
    assert set(found.placements) == {1, 4}
    assert found.reasons[3].message == "waits behind 'j2', which waits for 2 GPUs (1 GPU free)"


def test_a_later_job_leaves_the_head_what_it_is_not_short_of() -> None:
    # the head waits for GPUs and needs 6 cores too; a job that leaves it less than 6 must wait
    found = run(wait(1, gpu=4), wait(2, gpu=1, cpu=6), wait(3, cpu=3), wait(4, cpu=2))
    assert set(found.placements) == {1, 4}


def test_a_short_job_overtakes_when_its_limit_ends_before_the_head_could_start() -> None:
    busy = dataclasses.replace(node(gpus=4), gpus=(GpuSlot("GPU-0", "Type A"),), free=Amount(8, 16 * GIB, 1))
    holders = [Holder(90, "hog", "default", Amount(0, 0, 3), ends_by=100.0)]
    found = run(wait(1, gpu=4), wait(2, gpu=1, limit=100), wait(3, gpu=1, limit=101), on=busy, holders=holders)
    assert set(found.placements) == {2}
    assert found.reasons[1].expected_start == 100.0
    assert found.reasons[1].holders == (90,)


def test_a_pool_at_its_limit_holds_its_own_and_nobody_else() -> None:
    pools = [PoolState("root"), PoolState("a", "root", gpu=1, used=Amount(gpu=1)), PoolState("b", "root")]
    found = run(wait(1, "a", gpu=1), wait(2, "b", gpu=1), wait(3, "a", cpu=1), pools=pools)
    assert set(found.placements) == {2, 3}
    assert found.reasons[1].message == "pool 'a' is at its limit: 1 GPU of 1 GPU used, 1 GPU more asked for"


def test_the_limit_of_an_ancestor_counts_all_below_it() -> None:
    pools = [PoolState("root", gpu=2), PoolState("a", "root"), PoolState("b", "root")]
    found = run(wait(1, "a", gpu=1), wait(2, "b", gpu=1), wait(3, "b", gpu=1), pools=pools)
    assert set(found.placements) == {1, 2}
    assert found.reasons[3].code == "pool"


def test_within_a_pool_the_first_that_waits_is_not_overtaken() -> None:
    pools = [PoolState("a", gpu=2)]
    found = run(wait(1, "a", gpu=1), wait(2, "a", gpu=2), wait(3, "a", gpu=1), pools=pools)
    assert set(found.placements) == {1}
    assert found.reasons[3].message == "waits behind 'j2' in pool 'a'"


def test_a_crowded_machine_takes_no_more_but_a_large_gang_gets_it_for_itself() -> None:
    crowded = node(replicas=8, max_replicas=8)
    assert run(wait(1), on=crowded).reasons[1].message.startswith("waits for room: 8 replicas run")
    gang = Waiting(1, "gang", "default", 0, Shape.of(Demand("main", count=20)))
    assert set(run(gang, on=node(max_replicas=8)).placements) == {1}
    assert not run(gang, wait(2), on=node(replicas=1, max_replicas=8)).placements


def cores(number: float, **rest: object) -> Node:
    """An empty machine without GPUs."""
    return node(cpu=number, gpus=0, cores=number, **rest)


def busy(number: float, held: float, light: float = 0) -> Node:
    """A machine of so many cores, with so many held by others and by light services."""
    free = Amount(number - held - light, 16 * GIB, 0)
    return dataclasses.replace(cores(number), free=free, busy=held, light=light, replicas=1)


def test_what_asks_for_more_cores_than_there_are_starts_when_it_has_the_machine_to_itself() -> None:
    for large in (Demand("main", cpu=3), Demand("worker", 3, cpu=1), Demand("main", cpu=4000)):
        job = Waiting(1, "large", "default", 0, Shape.of(large))
        hog = Holder(90, "hog", "default", Amount(cpu=1), ends_by=50.0)
        waits = run(job, wait(2, cpu=1), on=busy(2, 1), holders=[hog])
        assert not waits.placements
        asked = job.shape.need.cpu
        assert waits.reasons[1].message == (
            f"waits until it has the machine to itself: it asks for {asked:g} CPU cores, there are 2, and others hold 1"
        )
        assert (waits.reasons[1].holders, waits.reasons[1].expected_start) == ((90,), 50.0)
        assert waits.reasons[2].ahead == "large"
        found = run(job, wait(2, cpu=1), wait(3), on=cores(2))
        assert set(found.placements) == {1, 3}
        assert found.placements[1].note == f"asks for {asked:g} CPU cores of 2 and has the machine to itself"
        assert found.reasons[2].message == "waits for 1 CPU core (0 of 2 free)"


def test_services_that_named_no_cores_are_not_waited_for() -> None:
    # two notebooks hold half a core of two: what asks for more than they leave runs beside them, one at a time
    assert set(run(wait(1, cpu=2), wait(2, cpu=1), on=busy(2, 0, light=0.5)).placements) == {1}
    assert set(run(wait(1, cpu=1), wait(2, cpu=1), on=busy(2, 0, light=2)).placements) == {1}
    assert not run(wait(1, cpu=2), on=busy(2, 0.5)).placements  # those were named
    notebook = Waiting(2, "nb", "default", 0, Shape.of(Demand("main", cpu=0.25, light=True)))
    found = run(wait(1, cpu=3), notebook, on=busy(2, 1))
    assert set(found.placements) == {2}  # a service delays nobody who will run beside it
    full = run(*(dataclasses.replace(notebook, id=number) for number in range(9)), on=cores(2))
    assert len(full.placements) == 8
    assert full.reasons[8].message == "waits for 0.25 CPU cores (0 of 2 free)"


def held(number: int, cpu: float, gpu: float = 0) -> Holder:
    """One replica of a job that runs."""
    return Holder(number, f"h{number}", "default", Amount(cpu=cpu, gpu=gpu), parts=(cpu,))


SERVICE = Demand("main", cpu=0.25, light=True)


@pytest.mark.parametrize(
    ("head", "on", "holders", "starts"),
    [
        (Demand("main", cpu=2), busy(2, 1), [held(90, 1)], True),  # it waits for all others whatever starts
        (Demand("main", cpu=1), busy(2, 1, light=0.25), [held(90, 1)], True),
        (Demand("main", cpu=2), busy(8, 7), [held(90 + n, 1) for n in range(7)], False),  # one end, else two
        (Demand("main", cpu=2), busy(8, 6.5, light=0.25), [held(90 + n, 1) for n in range(6)], True),  # one end anyway
        (Demand("main", cpu=1), busy(4, 3.5), [held(90, 0.5), held(91, 3)], False),  # the half would be enough
        (Demand("main", 2, cpu=0.5), busy(2, 1.5), [held(90, 1), held(91, 0.5)], False),
        (SERVICE, busy(2, 1.75, light=0.25), [held(90, 1.75)], False),  # services wait for each other
    ],
)
def test_a_service_starts_past_a_head_that_waits_no_longer_for_it(
    head: Demand, on: Node, holders: list[Holder], starts: bool
) -> None:
    job = Waiting(1, "head", "default", 0, Shape.of(head))
    notebook = Waiting(2, "nb", "default", 0, Shape.of(SERVICE))
    found = run(job, notebook, on=on, holders=holders)
    assert set(found.placements) == ({2} if starts else set())


def test_a_service_starts_beside_a_head_that_waits_for_a_gpu_and_leaves_it_the_rest() -> None:
    on = dataclasses.replace(busy(2, 1), gpus=(GpuSlot("A", "T", 0.0),))
    holders = [held(90, 1, gpu=1)]
    notebook = Waiting(2, "nb", "default", 0, Shape.of(SERVICE))
    assert set(run(wait(1, cpu=2, gpu=1), notebook, on=on, holders=holders).placements) == {2}
    assert not run(wait(1, cpu=1, gpu=1), notebook, on=on, holders=[*holders, held(91, 0)]).placements
    greedy = Waiting(2, "nb", "default", 0, Shape.of(dataclasses.replace(SERVICE, memory=9 * GIB)))
    assert not run(wait(1, cpu=3, memory=8 * GIB), greedy, on=on, holders=holders).placements


@given(
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 4),
    st.lists(st.sampled_from([0.1, 0.25, 0.3, 0.5, 1, 1.5]), max_size=6),
    st.sampled_from([0.25, 0.5, 0.75, 1, 1.5, 2, 5]),
)
def test_whoever_ends_the_head_starts_with_services_as_without(
    size: float, quarters: int, parts: list[float], asked: float
) -> None:
    light = quarters / 4
    if sum(parts) + light > size:
        return
    head = wait(1, cpu=asked)
    holders = [held(90 + n, cpu) for n, cpu in enumerate(parts)]
    notebook = Waiting(2, "nb", "default", 0, Shape.of(SERVICE))
    found = run(head, notebook, on=busy(size, sum(parts), light), holders=holders)
    if 1 in found.placements or 2 not in found.placements:
        return
    for left in range(1 << len(parts)):
        stay = [one for n, one in enumerate(holders) if left >> n & 1]
        cpu = sum(one.amount.cpu for one in stay)
        without, beside = (run(head, on=busy(size, cpu, more), holders=stay) for more in (light, light + 0.25))
        assert without.placements.keys() == beside.placements.keys()


@given(
    st.lists(
        st.tuples(st.integers(-1, 1), st.integers(1, 5), st.sampled_from([0.25, 0.5, 1, 3, 70]), st.booleans()),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from([0.5, 1, 2, 4]),
    st.integers(0, 8),
)
def test_everything_starts_at_last_and_cores_are_reserved_once(
    wanted: list[tuple[int, int, float, bool]], size: float, quarters: int
) -> None:
    """Whatever cores are asked for, and however many services stay: once all others ended, the first one starts."""
    light = min(size, quarters / 4)
    left = {
        number: Waiting(number, f"j{number}", "default", priority, Shape.of(Demand("w", count, cpu)))
        for number, (priority, count, cpu, _) in enumerate(wanted)
    }
    while left:
        found = run(*left.values(), on=busy(size, 0, light))
        assert found.placements
        first = min(left.values(), key=lambda job: job.rank)
        assert first.id in found.placements
        needs = [left[number].shape.need.cpu for number in found.placements]
        assert len(needs) == 1 or sum(needs) <= size - light + 1e-6
        for number in found.placements:
            del left[number]


def test_a_drained_machine_says_so() -> None:
    assert run(wait(1), on=node(closed="this machine is drained: cleaning")).reasons[1].code == "closed"


def test_fractions_share_a_device_and_whole_ones_get_empty_ones() -> None:
    slots = (GpuSlot("A", "T", 1.0), GpuSlot("B", "T", 0.5))
    here = [Node("n", Amount(gpu=1.5), slots)]
    half = place(Shape.of(Demand("main", gpu=0.5)), here)
    assert half is not None
    assert half.grants[0].gpus == (("B", 0.5),)
    whole = place(Shape.of(Demand("main", gpu=1)), here)
    assert whole is not None
    assert whole.grants[0].gpus == (("A", 1.0),)
    assert place(Shape.of(Demand("main", gpu=2)), [Node("n", Amount(gpu=2), slots)]) is None


def test_a_type_is_asked_for_by_a_part_of_its_name() -> None:
    slots = (GpuSlot("A", "NVIDIA A100-SXM4"), GpuSlot("B", "NVIDIA H200"))
    found = place(Shape.of(Demand("main", gpu=1, gpu_type="h200")), [Node("n", Amount(gpu=2), slots)])
    assert found is not None
    assert found.grants[0].gpus == (("B", 1.0),)


def machines(*gpus: int, **rest: object) -> list[Node]:
    return [dataclasses.replace(node(gpus=count, **rest), name=f"n{at}") for at, count in enumerate(gpus)]


def test_a_workload_goes_to_the_machine_that_it_fills_best() -> None:
    found = place(Shape.of(Demand("main", gpu=1)), machines(4, 1, 2))
    assert found is not None
    assert found.nodes == ("n1",)


def test_a_gang_is_divided_only_where_its_members_find_each_other() -> None:
    gang = Shape.of(Demand("worker", 3, gpu=2))
    assert place(gang, machines(4, 2)) is None
    found = place(gang, machines(4, 2), spread=True)
    assert found is not None
    assert [(grant.node, len(grant.gpus)) for grant in found.grants] == [("n0", 2), ("n0", 2), ("n1", 2)]
    assert place(Shape.of(Demand("worker", 1, gpu=5)), machines(4, 2), spread=True) is None


def test_a_drained_machine_leaves_the_work_to_the_others() -> None:
    nodes = machines(4, 4)
    nodes[0] = dataclasses.replace(nodes[0], closed="n0 is drained")
    found = admit([wait(1, gpu=4), wait(2, gpu=1)], nodes, {"default": PoolState("default")}, (), 0.0)
    assert found.placements[1].nodes == ("n1",)
    assert found.reasons[2].code == "resources"


def test_nothing_overtakes_a_head_that_fits_on_no_single_machine() -> None:
    nodes = machines(2, 2)
    found = admit([wait(1, gpu=3), wait(2, gpu=1), wait(3, cpu=1)], nodes, {"default": PoolState("default")}, (), 0.0)
    assert set(found.placements) == {3}
    assert found.reasons[2].message.startswith("waits behind 'j1'")


jobs = st.builds(
    lambda number, priority, roles, limit: (priority, roles, limit),
    st.integers(),
    st.integers(-2, 2),
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.sampled_from([0, 0.5, 1, 2, 4]),
            st.sampled_from([0, GIB, 8 * GIB]),
            st.sampled_from([0, 0.25, 0.5, 1, 2, 4]),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([None, 10.0, 1000.0]),
)


@given(st.lists(jobs, max_size=12), st.integers(0, 6), st.sampled_from(["default", "small"]))
def test_nothing_is_given_twice_and_everybody_gets_an_answer(
    wanted: list[tuple[int, list[tuple[int, float, int, float]], float | None]], gpus: int, pool: str
) -> None:
    queue = [
        Waiting(
            number,
            f"j{number}",
            pool,
            priority,
            Shape.of(*(Demand(f"r{i}", count, cpu, mem, gpu) for i, (count, cpu, mem, gpu) in enumerate(roles))),
            limit,
        )
        for number, (priority, roles, limit) in enumerate(wanted)
    ]
    pools = [PoolState("default"), PoolState("small", "default", cpu=2, gpu=1)]
    machine = node(gpus=gpus)
    found = run(*queue, on=machine, pools=pools)
    assert found.placements.keys() | found.reasons.keys() == {job.id for job in queue}
    assert not found.placements.keys() & found.reasons.keys()
    used: dict[str, float] = {}
    for number, placement in found.placements.items():
        demands = queue[number].shape.demands
        assert len(placement.grants) == sum(one.count for one in demands)
        for grant in placement.grants:
            need = next(one for one in demands if one.role == grant.role).gpu
            assert sum(share for _, share in grant.gpus) == pytest.approx(need)
            assert len({gpu for gpu, _ in grant.gpus}) == len(grant.gpus)
            for gpu, share in grant.gpus:
                used[gpu] = used.get(gpu, 0) + share
    assert all(share <= 1 + 1e-6 for share in used.values())
    needs = [queue[number].shape.need for number in found.placements]
    assert sum(need.cpu for need in needs) <= machine.free.cpu + 1e-6
    assert sum(need.memory for need in needs) <= machine.free.memory
    if pool == "small":
        assert sum(need.cpu for need in needs) <= 2 + 1e-6
        assert sum(need.gpu for need in needs) <= 1 + 1e-6


SHAPES = [
    Shape.of(Demand("main", 1, cpu, memory, gpu))
    for cpu, memory, gpu in ((0, 0, 0), (1, 0, 0), (0, 0, 1), (4, GIB, 1), (0, 8 * GIB, 2), (6, 0, 0.5), (0, 0, 4))
] + [Shape.of(Demand("ps", 1, 1), Demand("worker", 3, 1, 0, 1))]
standing = st.tuples(
    st.integers(-1, 1),
    st.sampled_from(SHAPES),
    st.sampled_from(["default", "small"]),
    st.sampled_from([None, 10.0, 99.0]),
)


@given(st.lists(standing, max_size=30), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.booleans())
def test_lines_give_what_one_by_one_gives(
    wanted: list[tuple[int, Shape, str, float | None]], gpus: list[int], spread: bool
) -> None:
    waiting = [
        Waiting(number, f"j{number}", pool, priority, shape, limit)
        for number, (priority, shape, pool, limit) in enumerate(wanted)
    ]
    pools = {
        one.name: one for one in (PoolState("default"), PoolState("small", "default", cpu=2, gpu=1, max_workloads=3))
    }
    holders = [Holder(90, "hog", "default", Amount(0, 0, 1), ends_by=50.0)]
    expected = admit(waiting, machines(*gpus), pools, holders, 0.0, spread=spread)
    queue = Queue()
    for job in reversed(waiting):
        queue.add(job)

    def turn() -> Pass:
        return Pass(machines(*gpus), pools, holders, 0.0, spread=spread)

    assert turn().run(queue) == expected.placements
    for job in waiting:
        assert turn().reason(queue, job) == expected.reasons.get(job.id)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_gangs_that_fit_half_never_deadlock(sizes: list[int]) -> None:
    """Whatever is queued, running it to the end and asking again starts everything at last."""
    left = {n: Waiting(n, f"g{n}", "default", 0, Shape.of(Demand("w", size, gpu=1))) for n, size in enumerate(sizes)}
    for _ in range(len(sizes)):
        started = run(*left.values()).placements
        assert started or not left
        for number in started:
            del left[number]
    assert not left
