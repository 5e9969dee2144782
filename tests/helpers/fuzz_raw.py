"""Requests that no client's library makes: bytes that are no text, paths that are no names, headers that are none."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from helpers.counts import count
from helpers.fuzz import Fuzzer, Trouble
from helpers.fuzz_apis import UNFIT
from helpers.fuzz_world import PATIENCE_S, Asked

T = TypeVar("T")
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
BODIES: tuple[tuple[str, bytes], ...] = (
    *(
        (JSON, one)
        for one in (b"", b" ", b"\0", b"\xff\xfe", b"{", b"[]", b"null", b"1", b'"x"', b"NaN", b"\xef\xbb\xbf{}")
    ),
    *(
        (JSON, one)
        for one in (b"9" * 6000, b"-", b"1e999", b"[" * 100_000, b'{"a":' * 50_000, b"{}{}", b"{}\0", b"{'a': 1}")
    ),
    *(
        (JSON, one)
        for one in (b'{"name": "\xff"}', b'{"name": "\\ud800"}', b'{"name": 1, "name": 2}', b'{"\\u0000": 1}')
    ),
    (JSON, b'{"name": ' + b"9" * 6000 + b"}"),
    (JSON, b'{"limit": 1e400, "name": -Infinity}'),
    (JSON, b'{"' + b"a" * 20_000 + b'": 1}'),
    (JSON, json.dumps({f"m{n}": n for n in range(3000)}).encode()),
    (JSON, '{"name": "x"}'.encode("utf-16")),
    (f"{JSON}; charset=utf-16", b"{}"),
    (f"{JSON}; charset=nothing", b"{}"),
    ("application/vnd.api+json", b"{}"),
    ("text/plain", b"{}"),
    ("", b"{}"),
    ("/", b"{}"),
    ("a" * 5000, b"{}"),
    (FORM, b"%ff=%00&=&&a[=1&a]=2&a[b][c]=3&a[b]=4&a=5"),
    (FORM, b"a[999999999]=1&a[-1]=2&a[" + b"[" * 3000 + b"=1"),
    (FORM, b"taskRoles=[&jobEnvs=1&jobName[0]=a"),
    (FORM, b"a" + b"[b]" * 5000 + b"=1"),
    (FORM, b"&".join(b"a%d=1" % n for n in range(3000))),
    ("multipart/form-data", b"x"),
    ("multipart/form-data; boundary=", b"--\r\n\r\n"),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=\xff\r\n\r\n\0\r\n--x--"),
    ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"; filename="../b"\r\n\r\nb'),
    ("multipart/form-data; boundary=" + "x" * 200, b"--x"),
)
"""Content-Type, body."""

NAMES = (
    *(
        "%00",
        "%ff",
        "%ed%a0%80",
        "..",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "%2f",
        "a%2fb",
        "%5c",
        "%",
        "%zz",
        "%25",
        "%0a",
        "%0d%0a",
    ),
    *(
        "%D9%A3",
        "%C2%B2",
        "%EF%BC%91",
        "-1",
        "0",
        "+1",
        "1e3",
        "1_0",
        "0x1",
        "%201",
        "9" * 19,
        "9" * 30,
        "1" * 5000,
        "a" * 5000,
    ),
    *(
        "~",
        "'",
        "%22",
        "%3Cx%3E",
        "%F0%9F%98%80",
        ":",
        "a:1",
        "model:",
        ":1",
        "model:9" + "9" * 30,
        "model:%C2%B2",
        "*",
        "%7B0%7D",
    ),
    *("null", "None", "true", "%E2%80%AE", "a;b", "a,b", "a%3Fb", "a%23b", "%EF%BF%BF"),
)
"""What may stand in a path in place of a name."""

QUERIES = (
    *(
        "%ff",
        "%00",
        "a=%ed%a0%80",
        "&&==&",
        ";",
        "%",
        "%zz=%zz",
        "=" * 2000,
        "a" * 7000,
        "a=1&a=2&a=3",
        "a[b]=c",
        "?" * 50,
    ),
    "&".join(f"p{n}={n}" for n in range(1500)),
)

TEXTS = tuple(quote(str(one), safe="", errors="surrogatepass")[:6000] for one in UNFIT if isinstance(one, str | int))
"""What a parameter of a query may be."""

AUTHORIZATIONS = (
    *(
        "",
        " ",
        "x",
        "Bearer",
        "Bearer ",
        "Bearer \xff\xfe",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer " + "a" * 7000,
        "bearer x y z",
    ),
    *(
        "Basic",
        "Basic x",
        "Basic ====",
        "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        "Basic Og==",
        "Digest username",
    ),
    *("Basic " + base64.b64encode(one).decode() for one in (b"a", b"a:\0", b"\0:\0", b"admin:" + b"x" * 3000)),
    *(
        "Galaxy V3 x",
        "Galaxy V3 ",
        "Galaxy-V2 a:b",
        "Galaxy V3 \xe9",
        "Bearer eyJhbGciOiJub25lIn0.eyJ1c2VybmFtZSI6ImFkbWluIn0.",
    ),
    *("Bearer eyJhbGciOiJIUzI1NiJ9.W10.x", "Bearer " + "." * 2),
    *("Negotiate x", 'Digest username="\xff"', "Basic \xff"),
)

HEADERS: tuple[tuple[str, str], ...] = (
    *(("Accept", one) for one in ("", "*", "text/event-stream;q=x", "a/b;q=9e999", "\xff", "text/html," * 800)),
    *(("Last-Event-ID", one) for one in ("", "x", "1,2,3,4,5,6,7", "-1", "9" * 400, "\xb2", "1,,2", "\xff")),
    *(("Range", one) for one in ("bytes=0-", "bytes=9-1", "bytes=-0", "bytes=" + "9" * 400 + "-", "x", "bytes=\xb2-")),
    *(("If-None-Match", one) for one in ("*", '"x"', "\xff")),
    *(("If-Modified-Since", one) for one in ("x", "Thu, 01 Jan 0000 00:00:00 GMT", "Fri, 31 Dec 99999 00:00:00 GMT")),
    *(("Content-Encoding", one) for one in ("gzip", "x")),
    *(("X-Forwarded-For", one) for one in ("x", "\xff", "1.2.3.4, 5.6.7.8")),
    *(("X-Xiaomi-Timestamp", one) for one in ("", "x", "\xff", "9" * 400)),
    *(("Cookie", one) for one in ("=", "a=\xff", ";" * 500)),
    *(("Origin", one) for one in ("null", "x", "http://[", "http://\xff")),
    *(("Host", one) for one in ("[", "\xff", "localhost:x", "a" * 3000)),
    *(("Accept-Language", one) for one in ("\xff", "*;q=x")),
)

METHODS = ("HEAD", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "QUERY")


class RawFuzzer:
    """Sends all of them, to all operations of an API.

    Args:
        each: so many of each kind to an operation, another choice for each; all of them when None.
    """

    def __init__(self, fuzzer: Fuzzer, each: int | None) -> None:
        self.fuzzer, self.world, self.each = fuzzer, fuzzer.world, each
        self._turn = 0

    def run(self) -> int:
        """Returns how many requests were sent."""
        sent = 0
        for operation, said in self.fuzzer.documents[0].operations.items():
            if operation in self.fuzzer.api.left_out:
                continue
            for asked, changed in self._requests(operation, said):
                sent += 1
                self._send(operation, asked, changed)
                if sent % 50 == 0:
                    self.world.revive()
        count("requests tried", sent)
        count("requests tried that no library makes", sent)
        assert self.world.healthy()
        return sent

    def _send(self, operation: str, asked: Asked, changed: bool) -> None:
        try:
            said = self.world.exchange(asked)
        except TimeoutError:
            self.fuzzer.found.append(Trouble(asked, "raw", f"no answer in {PATIENCE_S} s"))
            return
        for what in self.fuzzer.complaints(operation, said, changed, headless=asked.method == "HEAD"):
            self.fuzzer.found.append(Trouble(asked, "raw", what))

    def _some(self, things: tuple[T, ...]) -> tuple[T, ...]:
        if self.each is None or len(things) <= self.each:
            return things
        self._turn += 1
        return tuple(things[(self._turn * self.each + n) % len(things)] for n in range(self.each))

    def _requests(self, operation: str, said: dict[str, Any]) -> Iterator[tuple[Asked, bool]]:
        method, _, rule = operation.partition(" ")
        usual = rule.replace("{}", "1")
        if f"{rule}/" in self.fuzzer.slashed:
            usual += "/"
        for name in self._some(NAMES) if "{}" in rule else ():
            yield self._asked(method, rule.replace("{}", name)), True
        for query in self._some(QUERIES):
            yield self._asked(method, f"{usual}?{query}"), False
        for parameter in self._parameters(said):
            for text in self._some(TEXTS):
                yield self._asked(method, f"{usual}?{parameter}={text}"), False
        for kind, body in self._some(BODIES) if method != "GET" else ():
            yield self._asked(method, usual, body, {"Content-Type": kind}), False
        for value in self._some(AUTHORIZATIONS):
            yield Asked(method, usual, {"Authorization": value}), False
        for name, value in self._some(HEADERS):
            yield self._asked(method, usual, b"", {name: value}), name == "Host"
        for other in self._some(METHODS):
            yield self._asked(other, usual), True

    def _parameters(self, said: dict[str, Any]) -> list[str]:
        return [one["name"] for one in said.get("parameters", ()) if one["in"] == "query"]

    def _asked(self, method: str, target: str, body: bytes = b"", more: dict[str, str] | None = None) -> Asked:
        if "/wait" in target:
            target += ("&" if "?" in target else "?") + "timeout=0"
        headers = self.world.headers_of(self.world.admin, self.fuzzer.api.name, target, body) | (more or {})
        endless = bool(re.search("follow|event-stream", target + str(headers)))
        return Asked(method, target, headers, body, endless)
