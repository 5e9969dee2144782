"""Requests: what is taken, what is refused, and that a spec survives being stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from localml.core.errors import LocalmlError
from localml.core.quantities import format_duration, format_memory, parse_memory
from localml.core.work.specs import Completion, Mount, Port, Resources, RetryPolicy, Role, WorkloadSpec, single


@pytest.mark.parametrize(
    ("text", "amount"),
    [("512M", 512 << 20), ("1.5G", 3 << 29), ("2Gi", 2 << 30), ("2GiB", 2 << 30), ("10k", 10240), ("7", 7), (9, 9)],
)
def test_memory_amounts(text: str | int, amount: int) -> None:
    assert parse_memory(text) == amount


@pytest.mark.parametrize("text", ["", "M", "1X", "-1M", "1 2M", "0x10", "1e3"])
def test_no_memory_amounts(text: str) -> None:
    with pytest.raises(LocalmlError, match=r"^size: must be a number with a unit"):
        parse_memory(text, "size")


@given(st.integers(0, 1 << 50))
def test_memory_text_stays_close(amount: int) -> None:
    assert parse_memory(format_memory(amount)) == pytest.approx(amount, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.85, "850ms"), (12, "12s"), (185, "3m05s"), (7620, "2h07m"), (356400, "4d03h")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("cpu", 0),
        ("cpu", -1),
        ("memory", "1K"),
        ("gpu", -1),
        ("gpu", 1.5),
        ("shm", 1),
        ("pids", 0),
    ],
)
def test_amounts_just_outside_their_range(member: str, value: object) -> None:
    with pytest.raises(ValidationError, match=member):
        Resources.model_validate({member: value})


@pytest.mark.parametrize(
    "role",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x" * 65},
        {"name": "a\n"},
        {"count": 0},
        {"env": {"A B": "x"}},
        {"env": {"A": "x\0"}},
        {"command": ["a\0"]},
        {"ports": [{"label": "a"}, {"label": "a"}]},
        {"ports": [{"label": "a", "container": 65536}]},
        {"completion": {"min_failed": 0}},
        {"surprise": 1},
    ],
)
def test_roles_that_are_refused(role: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Role.model_validate(role)


@pytest.mark.parametrize("target", ["relative", "/a/../b", ""])
def test_mount_targets_are_absolute(target: str) -> None:
    with pytest.raises(ValidationError):
        Mount(source="fds://b/k", target=target)


def test_a_workload_needs_a_role_that_ends_and_names_that_differ() -> None:
    with pytest.raises(ValidationError, match="at least one must not be a service"):
        WorkloadSpec(roles=(Role(service=True),))
    with pytest.raises(ValidationError, match="names must differ"):
        WorkloadSpec(roles=(Role(), Role()))
    with pytest.raises(ValidationError):
        WorkloadSpec(roles=())


def test_a_fraction_is_no_whole_device() -> None:
    assert (Resources(gpu=0.5).whole_gpus, Resources(gpu=0.5).gpu_fraction) == (0, 0.5)
    assert (Resources(gpu=2).whole_gpus, Resources(gpu=2).gpu_fraction) == (2, 0.0)


def test_pauses_grow_up_to_their_limit() -> None:
    policy = RetryPolicy(limit=9, backoff=2, factor=3, max_backoff=50)
    assert [policy.delay(n) for n in (1, 2, 3, 4, 1000)] == [2, 6, 18, 50, 50]


words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))
roles = st.builds(
    Role,
    name=st.sampled_from(["a", "b-1", "c.2"]),
    image=st.text(max_size=5),
    command=st.lists(words, max_size=3).map(tuple),
    env=st.dictionaries(st.sampled_from(["A", "B_1"]), words),
    resources=st.builds(Resources, cpu=st.sampled_from([None, 0.5, 3]), gpu=st.sampled_from([0, 0.25, 4])),
    count=st.integers(1, 5),
    ports=st.sampled_from([(), (Port(label="x", container=80),)]),
    completion=st.builds(Completion, min_failed=st.sampled_from([None, 1, 3])),
)


@given(roles, st.integers(-5, 5), st.sampled_from([None, 1.5]))
def test_a_stored_spec_is_read_back_the_same(role: Role, priority: int, limit: float | None) -> None:
    spec = WorkloadSpec(roles=(role,), priority=priority, time_limit=limit, depends_on=(3,))
    assert WorkloadSpec.model_validate_json(spec.model_dump_json(exclude_defaults=True)) == spec


def test_the_commonest_case_is_one_call() -> None:
    spec = single(["echo", "hi"], image="i", env={"A": "b"}, priority=3)
    assert (spec.replicas, spec.role("main").command, spec.priority) == (1, ("echo", "hi"), 3)


@pytest.mark.parametrize("text", ["inf", "-Infinity", "NaN", pytest.param(10**400, id="10^400"), float("inf")])
def test_no_number_of_a_spec_is_beyond_all_numbers(text: object) -> None:
    """They are stored as JSON, which has none of them."""
    retries = ({"retries": {name: text}} for name in ("backoff", "factor", "max_backoff"))
    for more in ({"time_limit": text}, {"idle_limit": text}, {"stop_grace": text}, *retries):
        with pytest.raises((ValidationError, LocalmlError), match=r"(finite|valid) number|must be a time"):
            WorkloadSpec.model_validate({"roles": [{"command": ["x"]}], **more})
