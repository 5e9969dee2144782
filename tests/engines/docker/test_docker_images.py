"""What a person reads while an image is fetched, and when that fails. The events are a daemon's own."""

from __future__ import annotations

import pytest

from localml.engines.base import ImageMissing
from localml.engines.docker.images import report_pull


def downloading(layer: str, current: int, total: int) -> dict[str, object]:
    return {"status": "Downloading", "id": layer, "progressDetail": {"current": current, "total": total}}


def test_progress_counts_all_layers_and_says_each_percent_once() -> None:
    said: list[str] = []
    events = [
        {"status": "Pulling from library/python", "id": "3.11"},
        {"status": "Already exists", "id": "a", "progressDetail": {}},
        downloading("b", 10, 100),
        downloading("b", 10, 100),
        downloading("c", 50, 100),
        {"status": "Download complete", "id": "b", "progressDetail": {}},
        {"status": "Pull complete", "id": "c", "progressDetail": {}},
        {"status": "Status: Downloaded newer image for python:3.11"},
    ]
    report_pull("python:3.11", events, said.append)
    assert said == [f"pulling python:3.11: {percent} %" for percent in (0, 10, 30, 75, 100)]


def test_a_pull_that_breaks_off_names_the_image_and_the_reason() -> None:
    events = [downloading("b", 10, 100), {"error": "unexpected EOF", "errorDetail": {"message": "unexpected EOF"}}]
    with pytest.raises(
        ImageMissing, match=r"python:3\.11 is not on this machine and pulling it failed: unexpected EOF"
    ):
        report_pull("python:3.11", events, None)
