"""What workloads wrote: in parts, merged, and while it is written."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.native import Http, sh
from helpers.outputs import append, big, counted
from helpers.rig import wait_until

from localml.core.logs.sources import ALL
from localml.core.logs.trimming import keep_last
from localml.core.subjects import Subject
from localml.dialects.kit import held
from localml.dialects.kit.logs import log_blocks
from localml.dialects.native.translate import follow
from localml.httpd.held import Run
from localml.testing import Localml

OUT_AND_ERR = "printf 'one\\ntwo\\n'; echo oops >&2; printf three"


def submit(http: Http, script: str, **members: object) -> int:
    return int(http("POST", "/workloads", {"spec": sh(script, **members)}).json["id"])


def ended(http: Http, script: str, **members: object) -> int:
    number = submit(http, script, **members)
    http("GET", f"/workloads/{number}/wait?timeout=60")
    return number


def test_one_stream_in_parts_by_byte_offset(admin: Http) -> None:
    number = ended(admin, OUT_AND_ERR)
    whole, offset = b"", "0"
    while True:
        part = admin("GET", f"/workloads/{number}/logs?stream=stdout&limit=5&offset={offset}")
        whole += part.data
        offset = part.headers["Localml-Offset"]
        assert offset == str(len(whole))
        if part.headers["Localml-Complete"] == "true":
            break
    assert whole == b"one\ntwo\nthree"


def test_both_streams_are_merged_and_go_on_where_they_were(admin: Http) -> None:
    number = ended(admin, OUT_AND_ERR)
    merged = admin("GET", f"/workloads/{number}/logs")
    assert sorted(merged.data) == sorted(b"one\ntwo\nthreeoops\n")
    assert merged.headers["Localml-Offset"] == merged.headers["Localml-End"] == "13,5"
    assert admin("GET", f"/workloads/{number}/logs?limit=3").headers["Localml-End"] == "13,5"
    rest = admin("GET", f"/workloads/{number}/logs?offset=8,5")
    assert rest.data == b"three"


def test_what_a_service_wrote_long_ago_is_gone_and_everybody_is_told(admin: Http, localml: Localml) -> None:
    number = ended(admin, OUT_AND_ERR)
    out, _ = ALL.sources(localml.platform.workloads.attempts(number))
    append(localml.platform.logs, out, 1.0, b"\n" + b"a line that is old\n" * 1000 + b"new\n")
    keep_last(localml.platform.logs.path(number, out.name, "stdout"), 5)
    gone = 13 + 1 + 19 * 1000
    notice = b"[localml] %d bytes of older output are kept no more\n" % gone
    part = admin("GET", f"/workloads/{number}/logs?stream=stdout&offset=0")
    assert part.data == b"new\n"
    assert part.headers["Localml-Start"] == str(gone)
    assert part.headers["Localml-Offset"] == part.headers["Localml-End"] == str(gone + 4)
    assert part.headers["Localml-Complete"] == "true"
    followed = admin("GET", f"/workloads/{number}/logs?stream=stdout&follow=true")
    assert (followed.data, followed.headers["Localml-Start"]) == (notice + b"new\n", str(gone))
    assert admin("GET", f"/workloads/{number}/logs?stream=stdout&follow=true&tail=1").data == b"new\n"
    shown = log_blocks(localml.platform.logs, localml.platform.workloads.get(number))
    assert notice + b"new\n" in b"".join(shown)
    events = admin("GET", f"/workloads/{number}/logs?stream=stdout", headers={"Accept": "text/event-stream"}).data
    assert b'event: gone\nid: 0\ndata: {"bytes": %d, "stream": "stdout"' % gone in events
    assert localml.client.output(number, stream="stdout").gone == gone
    told = "".join(piece.text for piece in localml.client.follow(number, stream="stdout"))
    assert told == notice.decode() + "new\n"


def test_bytes_that_are_no_text_come_back_as_they_were(admin: Http) -> None:
    number = ended(admin, "printf '\\377\\000\\n\\200'")
    assert admin("GET", f"/workloads/{number}/logs").data == b"\xff\x00\n\x80"


def test_lines_of_several_replicas_say_whose_they_are(admin: Http) -> None:
    number = ended(admin, "echo a; printf b", count=2)
    lines = admin("GET", f"/workloads/{number}/logs").data.decode().splitlines()
    assert sorted(lines) == ["[main-0] a", "[main-0] b", "[main-1] a", "[main-1] b"]
    assert admin("GET", f"/workloads/{number}/logs?index=1").data == b"a\nb"
    assert sorted(admin("GET", f"/workloads/{number}/logs?prefix=false").data) == sorted(b"a\nba\nb")


@pytest.mark.parametrize(("lines", "wanted"), [(0, b""), (1, b"300"), (2, b"299\n300"), (9999, None)])
def test_the_last_lines(admin: Http, lines: int, wanted: bytes | None) -> None:
    number = ended(admin, "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; done | head -c -1")
    found = admin("GET", f"/workloads/{number}/logs?tail={lines}").data
    assert found == (wanted if wanted is not None else "\n".join(map(str, range(1, 301))).encode())


@pytest.mark.parametrize("count", [1, 2])
def test_the_last_lines_of_a_long_log_read_its_end_alone(admin: Http, localml: Localml, count: int) -> None:
    number = ended(admin, "true", count=count)
    for source in ALL.sources(localml.platform.workloads.get(number).attempts):
        big(localml.platform.logs, source, b"0123456789" * 20 + b"\n", 1 << 30, marks=200_000)
    with counted() as reads:
        found = admin("GET", f"/workloads/{number}/logs?tail=10").data
    assert found.count(b"0123456789" * 20 + b"\n") == 10 == found.count(b"\n")
    assert reads.bytes < 1 << 20
    with counted() as reads:
        assert admin("GET", f"/workloads/{number}/logs?tail=10&follow=true").data == found
    assert reads.bytes < 1 << 20


def test_each_try_has_its_output(admin: Http, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"if [ -e {mark} ]; then echo second; else touch {mark}; echo first; exit 1; fi"
    body = {"spec": {**sh(script), "retries": {"limit": 1, "backoff": 0}}}
    number = admin("POST", "/workloads", body).json["id"]
    followed = admin("GET", f"/workloads/{number}/logs?follow=true").data
    admin("GET", f"/workloads/{number}/wait?timeout=60")
    assert followed.endswith(b"second\n")
    assert admin("GET", f"/workloads/{number}/logs").data == b"second\n"
    assert admin("GET", f"/workloads/{number}/logs?attempt=1").data == b"first\n"
    assert admin("GET", f"/workloads/{number}/logs?attempt=all").data == b"first\nsecond\n"
    assert admin("GET", f"/workloads/{number}/logs?attempt=7").json["error"]["field"] == "attempt"


def test_following_starts_before_the_job_writes_and_ends_with_it(
    admin: Http, localml: Localml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job waits on a pipe for the test, so every step is caused and none is slept for."""
    monkeypatch.setattr(follow, "HEARTBEAT_S", 3600.0)  # nobody may be woken by the clock
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    number = submit(admin, f"exec 3<{gate}; read word <&3; echo got $word; read word <&3; printf 'and %s' $word")
    connection = http.client.HTTPConnection(urlsplit(localml.url).netloc, timeout=60)
    connection.request("GET", f"/localml/v1/workloads/{number}/logs?follow=true", headers=admin.headers)
    answer = connection.getresponse()
    assert answer.status == 200
    with gate.open("w", buffering=1) as writer:
        writer.write("one\n")
        assert answer.readline() == b"got one\n"
        writer.write("two\n")
        assert answer.read() == b"and two"
    connection.close()
    assert admin("GET", f"/workloads/{number}").json["state"] == "succeeded"


def test_one_more_line_of_a_long_log_reads_that_line_alone(
    admin: Http, localml: Localml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "HEARTBEAT_S", 3600.0)
    number = submit(admin, "sleep 600")
    wait_until(lambda: admin("GET", f"/workloads/{number}").json["state"] == "running")
    source = ALL.sources(localml.platform.workloads.get(number).attempts)[0]
    big(localml.platform.logs, source, b"a line\n", 1 << 28, marks=1_000_000)
    connection = http.client.HTTPConnection(urlsplit(localml.url).netloc, timeout=60)
    connection.request("GET", f"/localml/v1/workloads/{number}/logs?follow=true&tail=1", headers=admin.headers)
    answer = connection.getresponse()
    assert answer.readline() == b"a line\n"
    with counted() as reads:
        append(localml.platform.logs, source, 1e9, b"one more\n")
        localml.platform.feed.changed(Subject.workload(number))
        assert answer.readline() == b"one more\n"
    assert reads.bytes == len(b"one more\n")
    answer.close()
    connection.close()
    admin("DELETE", f"/workloads/{number}")


def events_of(data: bytes) -> list[dict[str, str]]:
    blocks = [block for block in data.decode().split("\n\n") if "data: " in block]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


def test_server_sent_events_resume_by_their_id(admin: Http) -> None:
    number = ended(admin, "printf 'caf\\303'; sleep 0.05; printf '\\251\\nend'")
    accept = {"Accept": "text/event-stream"}
    whole = admin("GET", f"/workloads/{number}/logs?stream=stdout", headers=accept)
    assert whole.headers["Content-Type"].startswith("text/event-stream")
    found = events_of(whole.data)
    logs = [one for one in found if one["event"] == "log"]
    assert "".join(json.loads(one["data"])["text"] for one in logs) == "café\nend"
    assert (found[-1]["event"], json.loads(found[-1]["data"])) == ("end", {"state": "succeeded"})
    for position in range(len(logs)):
        seen = "".join(json.loads(one["data"])["text"] for one in logs[: position + 1])
        resumed = {**accept, "Last-Event-ID": logs[position]["id"]}
        again = events_of(admin("GET", f"/workloads/{number}/logs?stream=stdout", headers=resumed).data)
        rest = "".join(json.loads(one["data"])["text"] for one in again if one["event"] == "log")
        assert seen + rest == "café\nend"


def test_a_follower_who_leaves_is_noticed(admin: Http, localml: Localml, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, while nothing is written and no heartbeat is due."""
    left = threading.Event()
    pieces = held._Stream.pieces

    async def watched(self: held._Stream, run: Run) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(pieces(self, run)) as found:
                async for piece in found:
                    yield piece
        finally:
            left.set()

    monkeypatch.setattr(held._Stream, "pieces", watched)
    number = submit(admin, "sleep 600")
    connection = http.client.HTTPConnection(urlsplit(localml.url).netloc, timeout=60)
    connection.request("GET", f"/localml/v1/workloads/{number}/logs?follow=true", headers=admin.headers)
    answer = connection.getresponse()  # comes before there is any output
    assert not left.is_set()
    answer.close()
    connection.close()
    assert left.wait(5.0)
    admin("DELETE", f"/workloads/{number}")


@pytest.mark.parametrize("count", [1, 2])
def test_of_more_last_lines_than_an_answer_holds_it_has_the_newest(admin: Http, localml: Localml, count: int) -> None:
    """And says where they begin, so that who wants all of them gets them: so does the client."""
    number = ended(admin, "true", count=count)
    for source in ALL.sources(localml.platform.workloads.get(number).attempts):
        if source.stream == "stdout":
            lines = b"".join(b"%s line %7d\n" % (source.replica.encode(), one) for one in range(100_000))
            append(localml.platform.logs, source, 1.0, lines)
    found = admin("GET", f"/workloads/{number}/logs?tail={count * 90_000}&prefix=false")
    assert (1 << 20) - 200 < len(found.data) <= 1 << 20
    for index in range(count):
        assert b"main-%d line   99999\n" % index in found.data
    assert found.headers["Localml-Tail"] != "0"
    assert found.data.startswith(b"main-")  # a whole line
    whole = localml.client.text(number, tail=count * 90_000, prefix=False)
    assert whole.count("\n") == count * 90_000
    assert "Localml-Tail" not in admin("GET", f"/workloads/{number}/logs?tail=10").headers
