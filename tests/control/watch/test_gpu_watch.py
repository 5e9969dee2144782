"""A GPU that breaks is fenced at once, by a watch that goes on whatever the driver does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.rig import Rig, wait_until

from localml.control.jobs.hardware import Hardware, Size
from localml.control.watch.gpus import GpuWatch
from localml.gpus import Gpu, SimulatedInventory


class Driver(SimulatedInventory):
    """Fails once, then tells of one broken GPU and stays silent."""

    def __init__(self, *, simulated: bool) -> None:
        super().__init__(2)
        self.simulated = simulated
        self.asked = 0

    def devices(self) -> tuple[Gpu, ...]:
        return tuple(replace(gpu, simulated=self.simulated) for gpu in super().devices())

    def watch(self, stop: threading.Event) -> Iterator[tuple[str, str]]:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError("the driver hiccups")
        yield self.devices()[1].uuid, "XID 79"
        stop.wait(60)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def test_a_broken_gpu_is_fenced_although_the_driver_failed_before(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.control.worker.FIRST_RETRY_S", 0.001)
    driver = Driver(simulated=False)
    hardware = Hardware(rig.db, driver, rig.clock, Size())
    watch = GpuWatch(driver, hardware)
    watch.start()
    try:
        wait_until(lambda: any(view.mark is not None for view in hardware.gpu_views()))
        (marked,) = [view for view in hardware.gpu_views() if view.mark is not None]
        assert marked.mark is not None
        assert (marked.gpu.uuid, marked.mark.reason, marked.mark.fenced) == (driver.devices()[1].uuid, "XID 79", True)
    finally:
        watch.close()


def test_gpus_that_do_not_exist_are_not_watched(rig: Rig) -> None:
    driver = Driver(simulated=True)
    watch = GpuWatch(driver, Hardware(rig.db, driver, rig.clock, Size()))
    watch.start()
    watch.close()
    assert driver.asked == 0
