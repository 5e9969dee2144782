"""What ``/metrics`` says, in Prometheus' text format: read from the rows when asked, so that nothing can drift."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from localml import __version__
from localml.core.capacity.pools import PoolInfo
from localml.core.tallies import count_logs
from localml.core.work.states import Kind, State
from localml.core.work.workloads import Query
from localml.platform import Platform

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(platform: Platform) -> bytes:
    """All metrics of an installation as one Prometheus exposition (:data:`CONTENT_TYPE`)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rows(platform))
    return bytes(generate_latest(registry))


class _Rows(Collector):
    """Gauges over the records as they are at this moment."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def collect(self) -> Iterable[Metric]:
        counts = self._platform.workloads.counts()
        yield self._build()
        yield self._workloads(counts)
        yield from self._queue(counts)
        yield from self._gpus()
        yield from _pools(self._platform.pools.list())
        yield self._engine()
        yield from self._storage()
        yield from _process()

    def _build(self) -> Metric:
        info = self._platform.info()
        labels = {"version": __version__, "engine": str(info["engine"]), "install": str(info["install"])}
        return InfoMetricFamily("localml_build", "What runs here.", value=labels)

    def _workloads(self, counts: dict[tuple[str, str], int]) -> Metric:
        family = GaugeMetricFamily(
            "localml_workloads", "Workloads that are not pruned, by kind and state.", labels=["kind", "state"]
        )
        for kind in Kind:
            for state in State:
                family.add_metric([kind, state], counts.get((kind, state), 0))
        return family

    def _queue(self, counts: dict[tuple[str, str], int]) -> Iterator[Metric]:
        query = Query(states=(State.QUEUED,), sort="id", descending=False, limit=1, deleted=True)
        oldest = self._platform.workloads.page(query).items
        length = sum(number for (_, state), number in counts.items() if state == State.QUEUED)
        yield GaugeMetricFamily("localml_queue_length", "Workloads that wait for resources.", value=length)
        waited = max(0.0, self._platform.clock.now() - oldest[0].queued_at) if oldest else 0.0
        yield GaugeMetricFamily(
            "localml_queue_oldest_wait_seconds", "How long the first of the queue has waited.", value=waited
        )

    def _gpus(self) -> Iterator[Metric]:
        labels = ["gpu", "index", "name", "simulated"]
        leased = GaugeMetricFamily("localml_gpu_leased", "Share of the GPU that is leased, 0 to 1.", labels=labels)
        usable = GaugeMetricFamily("localml_gpu_usable", "1 if the GPU takes new work, else 0.", labels=labels)
        memory = GaugeMetricFamily("localml_gpu_memory_bytes", "Memory of the GPU.", labels=labels)
        used = GaugeMetricFamily("localml_gpu_memory_used_bytes", "Memory in use on the GPU.", labels=labels)
        busy = GaugeMetricFamily("localml_gpu_utilisation_ratio", "Share of the time it computes.", labels=labels)
        usage = self._platform.gpus.usage()
        for view in self._platform.hardware.gpu_views():
            gpu = view.gpu
            values = [gpu.uuid, gpu.label, gpu.name, "true" if gpu.simulated else "false"]
            leased.add_metric(values, min(1.0, sum(lease.fraction for lease in view.leases)))
            usable.add_metric(values, 0 if view.mark is not None or view.trouble else 1)
            memory.add_metric(values, gpu.memory)
            now = usage.get(gpu.uuid)
            if now is not None and now.memory_used is not None:
                used.add_metric(values, now.memory_used)
            if now is not None and now.utilisation is not None:
                busy.add_metric(values, now.utilisation / 100)
        yield from (leased, usable, memory, used, busy)

    def _engine(self) -> Metric:
        up = 0 if self._platform.reconciler.engine_down else 1
        return GaugeMetricFamily("localml_engine_up", "1 if the container engine answered the last time.", value=up)

    def _storage(self) -> Iterator[Metric]:
        with self._platform.db.read() as session:
            files, size = count_logs(session)
        yield GaugeMetricFamily("localml_log_files", "Output files of ended replicas that are kept.", value=files)
        yield GaugeMetricFamily("localml_log_bytes", "Bytes of output of ended replicas that are kept.", value=size)
        database = self._platform.db.path
        total = _size(database) + _size(database.with_name(database.name + "-wal"))
        yield GaugeMetricFamily("localml_database_bytes", "Size of the database with its journal.", value=total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _pools(pools: list[PoolInfo]) -> Iterator[Metric]:
    used = GaugeMetricFamily("localml_pool_used", "What a pool's workloads ask for.", labels=["pool", "resource"])
    limit = GaugeMetricFamily("localml_pool_limit", "A pool's limits; none where missing.", labels=["pool", "resource"])
    for pool in pools:
        for resource, amount, most in (
            ("cpu", pool.used.cpu, pool.cpu),
            ("memory", pool.used.memory, pool.memory),
            ("gpu", pool.used.gpu, pool.gpu),
            ("workloads", pool.used.workloads, pool.max_workloads),
        ):
            used.add_metric([pool.name, resource], amount)
            if most is not None:
                limit.add_metric([pool.name, resource], most)
    yield from (used, limit)


def _process() -> Iterator[Metric]:
    process = psutil.Process()
    with process.oneshot():
        cpu, memory = process.cpu_times(), process.memory_info()
        seconds, started, threads = cpu.user + cpu.system, process.create_time(), process.num_threads()
    yield CounterMetricFamily("process_cpu_seconds", "User and system time of this process.", value=seconds)
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory of this process.", value=memory.rss)
    yield GaugeMetricFamily("process_start_time_seconds", "When this process started.", value=started)
    yield GaugeMetricFamily("process_threads", "Threads of this process.", value=threads)
    yield GaugeMetricFamily("process_open_fds", "Open files.", value=len(os.listdir("/proc/self/fd")))
