"""What the core does without HTTP, in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

from bench.floor import bare_commits
from bench.rows import Row, folder, from_threads, ms, percentile, timed
from bench.server import platform, submission


def durable_submit(quick: bool) -> Iterator[Row]:
    """A submission beside a bare commit."""
    count = 300 if quick else 1500
    with folder() as path:
        floor = bare_commits(path / "floor.db", count)
        with platform(path / "data", "fake", start=False) as one:
            plain = submission(one, "x")

            def submit(name: str) -> float:
                named = replace(plain, name=name)
                return timed(lambda: one.workloads.submit(named))

            alone = [submit(f"a{n}") for n in range(count)]
            shared, rate = from_threads(8, count // 4, lambda k, n: submit(f"b{k}-{n}"))
    p50, p99 = statistics.median(alone), percentile(shared, 0.99)
    yield Row("durable submit, one client: p50", ms(p50), "<= 1 ms", f"{ms(floor)} bare commit of 3 rows", p50 <= 0.001)
    beside = f"p50 {ms(statistics.median(shared))}"
    yield Row("durable submit, 8 clients: p99", ms(p99), "<= 15 ms", beside, p99 <= 0.015)
    bare = f"{1 / floor:.0f}/s bare commits"
    yield Row("durable submit, 8 clients: rate", f"{rate:.0f}/s", ">= 1,500/s", bare, rate >= 1500)


def scheduler(quick: bool) -> Iterator[Row]:
    """One pass over a long queue."""
    from localml.control.jobs.admission import admit
    from localml.control.jobs.demands import Amount, Demand, GpuSlot, Holder, Node, PoolState, Shape, Waiting

    del quick
    shapes = [Shape.of(Demand("main", 1, float(n % 4 + 1), n % 3 << 30, float(n % 5))) for n in range(20)]
    queue = [
        Waiting(n, f"j{n}", f"pool-{n % 4}", n % 3, shapes[n % 20], 60.0 if n % 7 == 0 else None) for n in range(1000)
    ]
    pools = {f"pool-{n}": PoolState(f"pool-{n}", gpu=2, used=Amount(gpu=1)) for n in range(4)}
    node = Node("local", Amount(1, 4 << 30, 0), tuple(GpuSlot(f"g{n}", "A", 0.0) for n in range(8)), "", 8, 64)
    holders = [Holder(9000 + n, f"h{n}", "pool-0", Amount(1, 1 << 30, 1), 1e9 + n) for n in range(8)]
    times = [timed(lambda: admit(queue, [node], pools, holders, 0.0)) for _ in range(30)]
    floor = statistics.median(timed(lambda: sorted(queue, key=lambda one: (-one.priority, one.id))) for _ in range(30))
    median = statistics.median(times)
    yield Row("scheduler pass over 1,000 waiting", ms(median), "<= 5 ms", f"{ms(floor)} sorting them", median <= 0.005)


def samples(quick: bool) -> Iterator[Row]:
    """Points of series, one by one."""
    from localml.core.subjects import Subject

    count = 5_000 if quick else 50_000
    with folder() as path, platform(path / "data", "fake", start=False) as one:
        job = Subject.workload(one.workloads.submit(submission(one, "s")))
        begin = time.perf_counter()
        for n in range(count):
            one.samples.add(job, f"series-{n % 10}", float(n), 1000.0 + n)
        one.samples.flush()
        rate = count / (time.perf_counter() - begin)
    yield Row("samples taken in, one by one", f"{rate:,.0f}/s", ">= 5,000/s", "", rate >= 5000)
