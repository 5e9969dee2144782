"""Where an image is a choice among this machine's environments: what is told of one that is made, and of one that is
another name's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import Rig

from localml.core.catalog import HOST
from localml.core.work.specs import Role, WorkloadSpec
from localml.engines.base import CONTAINERS, Progress


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An engine without images."""
    one = Rig(tmp_path)
    one.engine.capabilities = replace(CONTAINERS, images=False)
    one.restart()
    yield one
    one.close()


def roles(*images: str) -> WorkloadSpec:
    return WorkloadSpec(roles=tuple(Role(name=f"r{n}", command=("x",), image=one) for n, one in enumerate(images)))


def told(rig: Rig, number: int) -> list[tuple[str, str]]:
    return [(one.reason, one.message) for one in rig.workloads.events(number) if one.reason.startswith(("Im", "Bu"))]


def test_what_is_built_is_an_event_and_why_it_waits(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def resolve(image: str, progress: Progress, **rest: Any) -> str:
        progress("building tiny, 40 s")
        seen.append(rig.loop.why(number))
        return image

    monkeypatch.setattr(rig.engine, "resolve_image", resolve)
    number = rig.submit("j", roles("localml/tiny"))
    rig.settle()
    assert told(rig, number) == [("Building", "building tiny, 40 s")]
    assert [(one.code, one.message) for one in seen] == [("image", "building tiny, 40 s")]
    assert rig.state(number) == "running"


@pytest.mark.parametrize(
    ("image", "stands_for", "words"),
    [
        ("vendor/tiny:2", "localml/tiny", "vendor/tiny:2 is the runtime tiny here"),
        ("hosted/tiny", HOST, "hosted/tiny is the Python of this machine here"),
        ("localml/tiny:latest", "localml/tiny", ""),
        (HOST, HOST, ""),
    ],
)
def test_an_image_that_is_a_runtime_here_is_told_so_and_nothing_is_called_built(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, image: str, stands_for: str, words: str
) -> None:
    monkeypatch.setattr(rig.engine, "resolve_image", lambda image, progress, **rest: stands_for)
    number = rig.submit("j", roles(image, image))
    rig.settle()
    assert told(rig, number) == ([("ImageMapped", words)] if words else [])
