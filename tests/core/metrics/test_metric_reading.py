"""What a job prints becomes its metrics: each line once, at the time at which it was written, whoever is killed."""

from __future__ import annotations

import base64
import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.outputs import append
from helpers.rig import ME, Rig, job, wait_until

from localml.control.watch.metrics import MetricsWatch
from localml.core.limits import MOST_METRICS
from localml.core.logs.sources import ALL, Source
from localml.core.metrics.folders import Entry, Folders
from localml.core.metrics.intake import BURST, step_of
from localml.core.metrics.reading import BLOCK, Metrics
from localml.core.metrics.tfevents import MOST_RECORD, records, scalars
from localml.core.series.samples import Line, Point, Samples
from localml.core.subjects import Subject
from localml.core.work.specs import WorkloadSpec

FOREVER = 60.0


class Tree:
    """Output folders in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.changed = time.time()

    def list(self, owner: int, uri: str) -> list[Entry]:
        below = [one.removeprefix(uri.rstrip("/") + "/") for one in self.files if one.startswith(uri.rstrip("/") + "/")]
        folders = {one.partition("/")[0] for one in below if "/" in one}
        files = [one for one in below if "/" not in one]
        sizes = {one: len(self.files[f"{uri.rstrip('/')}/{one}"]) for one in files}
        return [Entry(one, 0, self.changed, True) for one in sorted(folders)] + [
            Entry(one, sizes[one], self.changed, False) for one in sorted(files)
        ]

    def read(self, owner: int, uri: str, offset: int, size: int) -> bytes:
        return self.files[uri][offset : offset + size]


class Bench:
    """A rig whose output is read; :meth:`again` reads as a server does that was killed and started anew."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.tree = rig, Tree()
        self.again()

    def again(self) -> None:
        self.samples = Samples(self.rig.db)
        self.metrics = Metrics(self.rig.db, self.rig.logs, self.samples, Folders(self.rig.db, self.tree))

    def started(self, spec: WorkloadSpec | None = None) -> tuple[int, list[Source]]:
        number = self.rig.submit("a", spec or job(None))
        self.rig.settle()
        return number, ALL.sources(self.rig.get(number).attempts)

    def read(self, number: int, seconds: float = FOREVER) -> dict[str, list[Point]]:
        self.metrics.catch_up(number, seconds=seconds)
        return {line.name: line.points for line in self.lines(number)}

    def lines(self, number: int) -> list[Line]:
        return [line for line in self.samples.lines(Subject.workload(number)) if line.points]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    rig = Rig(tmp_path)
    yield Bench(rig)
    rig.close()


def values(points: list[Point]) -> list[float]:
    return [point.value for point in points]


def test_each_line_is_a_point_at_the_time_at_which_it_was_written(bench: Bench) -> None:
    number, (out, err) = bench.started()
    append(bench.rig.logs, out, 100, b"epoch=1 loss=0.5\nnothing\n")
    append(bench.rig.logs, out, 200, b"epoch=2 loss=0.25\n")
    append(bench.rig.logs, err, 300, b"Epoch 2: val_loss: 0.3, lr: 0.1\n")
    found = bench.read(number)
    assert [(point.at, point.value, step_of(point.note)) for point in found["loss"]] == [(100, 0.5, 1), (200, 0.25, 2)]
    assert [(round(point.at), step_of(point.note)) for point in found["val_loss"]] == [(300, 2)]
    assert {line.replica for line in bench.lines(number)} == {"main-0"}


def test_half_a_line_waits_for_the_rest_and_the_last_one_for_the_end(bench: Bench) -> None:
    number, (out, _) = bench.started()
    append(bench.rig.logs, out, 1, b"loss=1\nloss=2")
    assert values(bench.read(number)["loss"]) == [1]
    append(bench.rig.logs, out, 2, b"5\nloss=3")
    assert values(bench.read(number)["loss"]) == [1, 25]
    bench.rig.workloads.stop(number, ME)
    bench.rig.settle()
    assert values(bench.read(number)["loss"]) == [1, 25, 3]


def test_what_is_over_and_was_read_is_looked_at_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    number, (out, _) = bench.started(writes("fds://b/out"))
    append(bench.rig.logs, out, 1, b"loss=1\n")
    bench.read(number)
    bench.rig.workloads.stop(number, ME)
    bench.rig.settle()
    bench.read(number)
    monkeypatch.setattr(bench.tree, "list", None)
    monkeypatch.setattr(bench.rig.logs, "size", None)
    assert values(bench.read(number)["loss"]) == [1]
    bench.again()
    assert values(bench.read(number)["loss"]) == [1]


@pytest.mark.parametrize("at", [5.0, 1795848387.1234567, 4102444799.9999995])
def test_many_lines_of_one_moment_are_as_many_points(bench: Bench, at: float) -> None:
    number, (out, _) = bench.started()
    append(bench.rig.logs, out, at, b"".join(b"loss=%d\n" % n for n in range(BURST)))
    found = bench.read(number)["loss"]
    assert values(found) == [float(n) for n in range(BURST)]
    assert found[-1].at == pytest.approx(at, abs=0.1)


def test_what_comes_too_fast_is_thinned_and_the_last_one_is_always_there(bench: Bench) -> None:
    number, (out, _) = bench.started()
    append(bench.rig.logs, out, 5, b"".join(b"loss=%d\n" % n for n in range(20 * BURST)))
    found = values(bench.read(number)["loss"])
    assert BURST <= len(found) <= BURST + 10
    assert found[-1] == 20 * BURST - 1


def test_a_server_that_is_killed_before_it_noted_its_place_reads_the_same_points_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, (out, err) = bench.started()
    append(bench.rig.logs, out, 10, b"".join(b"epoch=%d loss=%d\n" % (n, n) for n in range(50)))
    append(bench.rig.logs, err, 11, b"acc=0.5\n")
    with monkeypatch.context() as patched:
        patched.setattr("localml.core.metrics.reading._remember", lambda *_: None)
        before = bench.read(number)
    bench.again()
    assert bench.read(number) == before
    append(bench.rig.logs, out, 12, b"loss=99\n")
    bench.again()
    after = bench.read(number)
    assert values(after["loss"]) == [*values(before["loss"]), 99.0]
    assert after["acc"] == before["acc"]


def test_a_line_of_any_length_is_passed_over_and_the_next_one_is_read(bench: Bench) -> None:
    number, (out, _) = bench.started()
    append(bench.rig.logs, out, 1, b"x" * (3 * BLOCK) + b"\nloss=1\n")
    assert values(bench.read(number)["loss"]) == [1]


def test_reading_ends_when_its_time_is_over_and_goes_on_there(bench: Bench) -> None:
    number, (out, _) = bench.started()
    append(bench.rig.logs, out, 1, (b"." * 99 + b"\n") * (8 * BLOCK // 100) + b"loss=1\n")
    assert not bench.metrics.catch_up(number, seconds=0)
    assert bench.metrics.catch_up(number, seconds=FOREVER)
    assert values(bench.read(number)["loss"]) == [1]


def test_no_job_has_more_series_than_are_allowed(bench: Bench) -> None:
    number, (out, _) = bench.started()
    names = b"".join(b"a%d=1\n" % n for n in range(MOST_METRICS + 50))
    append(bench.rig.logs, out, 1, names)
    assert len(bench.read(number)) == MOST_METRICS


def test_what_is_no_number_is_kept_as_what_it_is(bench: Bench) -> None:
    number, (out, _) = bench.started()
    append(bench.rig.logs, out, 1, b"loss=nan\nloss=inf\n")
    found = bench.read(number)["loss"]
    assert all(math.isnan(point.value) for point in found)
    assert [point.text for point in found] == ["nan", "inf"]


def test_the_loop_reads_what_came_and_rests_when_nothing_does(bench: Bench) -> None:
    number, (out, _) = bench.started()
    watch = MetricsWatch(bench.rig.db, bench.metrics)

    def all_read() -> bool:
        return watch.tick() is None

    wait_until(all_read)
    append(bench.rig.logs, out, 1, b"loss=1\n")
    watch.nudge(number)
    wait_until(all_read)
    assert [line.name for line in bench.lines(number)] == ["loss"]
    watch.nudge(10**9)  # of which nothing is known
    wait_until(all_read)


def test_the_loop_rests_far_longer_than_it_reads_whoever_writes(bench: Bench) -> None:
    number, (out, _) = bench.started()
    watch = MetricsWatch(bench.rig.db, bench.metrics)
    append(bench.rig.logs, out, 1, b"loss=1\n" * (BLOCK * 4 // 7))
    watch.nudge(number)
    began = time.monotonic()
    watch.tick()
    took = time.monotonic() - began
    watch.nudge(number)
    rest = watch.tick()
    assert rest is not None
    assert rest > 10 * took


# -- files ---------------------------------------------------------------------------------------


def field(number: int, kind: int, data: bytes) -> bytes:
    return bytes([number << 3 | kind]) + (bytes([len(data)]) if kind == 2 else b"") + data


def event(tag: str, value: float, step: int, at: float, *, tensor: bool = False) -> bytes:
    """As torch's SummaryWriter writes a scalar, or with ``tensor`` as TensorFlow 2 does."""
    content = field(8, 2, b"\x08\x01" + field(4, 2, struct.pack("<f", value)))
    said = content if tensor else field(2, 5, struct.pack("<f", value))
    summary = field(1, 2, field(1, 2, tag.encode()) + said)
    return record(field(1, 1, struct.pack("<d", at)) + field(2, 0, bytes([step])) + field(5, 2, summary))


def record(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + b"\0" * 4 + data + b"\0" * 4


def writes(*uris: str) -> WorkloadSpec:
    spec = job(None)
    role = spec.roles[0]
    env = {**role.env, "LOCALML_OUTPUT_URI": uris[0]}
    return spec.model_copy(update={"roles": (role.model_copy(update={"env": env}),)})


def test_tensorboards_files_in_the_output_folder_are_read_as_they_grow(bench: Bench) -> None:
    number, _ = bench.started(writes("fds://b/out/"))
    bench.tree.changed = bench.rig.get(number).row.created_at
    path = "fds://b/out/train/events.out.tfevents.1.host"
    whole = record(b"\x1a\x0dbrain.Event:2") + event("loss", 0.9100000262, 1, 1000.5) + event("acc", 0.5, 1, 1001)
    bench.tree.files[path] = whole + event("loss", 0.25, 2, 1002)[:-3]
    found = bench.read(number)
    assert {name: [(one.at, one.value, step_of(one.note)) for one in points] for name, points in found.items()} == {
        "train/loss": [(1000.5, 0.91, 1)],
        "train/acc": [(1001, 0.5, 1)],
    }
    bench.tree.files[path] = whole + event("loss", 0.25, 2, 1002) + event("loss", 0.125, 3, 1003, tensor=True)
    bench.again()
    assert values(bench.read(number)["train/loss"]) == [0.91, 0.25, 0.125]


def test_files_of_an_earlier_job_in_the_same_folder_are_not_this_ones(bench: Bench) -> None:
    number, _ = bench.started(writes("fds://b/out"))
    bench.tree.changed = bench.rig.get(number).row.created_at - 100
    bench.tree.files["fds://b/out/events.out.tfevents.1"] = event("loss", 1, 1, 1000)
    assert bench.read(number) == {}


@pytest.mark.parametrize("junk", [b"junk" * 100, b"\xff" * 64, struct.pack("<Q", MOST_RECORD + 1) + b"x" * 40, b""])
def test_what_is_no_event_file_is_passed_over(bench: Bench, junk: bytes) -> None:
    number, _ = bench.started(writes("fds://b/out"))
    bench.tree.changed = bench.rig.get(number).row.created_at
    bench.tree.files["fds://b/out/events.out.tfevents.1"] = junk
    bench.tree.files["fds://b/out/events.out.tfevents.2"] = event("loss", 1, 1, 1000)
    assert values(bench.read(number)["loss"]) == [1]


def test_a_piece_of_anything_is_no_reason_to_fail() -> None:
    whole = event("loss", 0.5, 3, 1000.0)
    ((inside,), size) = records(whole)
    assert size == len(whole)
    for cut in range(len(inside)):
        scalars(inside[:cut])
        scalars(inside[cut:])


def test_parameters_are_read_from_a_file_in_the_output_folder(bench: Bench) -> None:
    number, _ = bench.started(writes("fds://b/out"))
    bench.tree.changed = bench.rig.get(number).row.created_at
    bench.tree.files["fds://b/out/params.json"] = json.dumps({"lr": 0.1, "model": {"depth": 3}}).encode()
    bench.tree.files["fds://b/out/lightning/version_0/hparams.yaml"] = b"batch: 32\nname: small\n"
    bench.read(number)
    with bench.rig.db.read_raw() as connection:
        rows = dict(connection.execute("select name, value from parameter where workload_id = ?", (number,)))
    assert rows == {"lr": "0.1", "model.depth": "3", "batch": "32", "name": "small"}


def test_a_folder_of_what_runs_is_looked_at_again(bench: Bench) -> None:
    number, _ = bench.started(writes("fds://b/out"))
    watch = MetricsWatch(bench.rig.db, bench.metrics)
    watch.nudge(number)
    rest = watch.tick()
    assert rest is not None
    assert rest > 0


WRITTEN = (
    "IAAAAAAAAAAp7alQCQAAUED8VNlBEAEqEwoRCgpMb3NzL3RyYWluFQAAgD9F/KsEHgAAAAAAAADZ3BIyCQAAYED8VNlBEAEqEQoP"
    "CgNhY2NCCAgBKgQAAAA/2d5W/iAAAAAAAAAAKe2pUAkAAJBA/FTZQRACKhMKEQoKTG9zcy90cmFpbhUAAAA/YchQYQ=="
)
"""Three events as TensorBoard's own writer writes them."""


def test_what_tensorboard_itself_wrote_is_read() -> None:
    found, size = records(base64.b64decode(WRITTEN))
    assert size == len(base64.b64decode(WRITTEN))
    assert [(one.tag, one.value, one.step, one.at) for event in found for one in scalars(event)] == [
        ("Loss/train", 1.0, 1, 1700000001.25),
        ("acc", 0.5, 1, 1700000001.5),
        ("Loss/train", 0.5, 2, 1700000002.25),
    ]
