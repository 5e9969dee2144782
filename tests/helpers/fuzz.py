"""Requests made up from the documents of an API, and what every answer to them must be.

An API is a row of :data:`helpers.fuzz_apis.APIS`: the document that the server serves, and the vendor's contract file.
Operations of both are fuzzed, with data that fits them and data that does not, and every answer is held against both.
"""

from __future__ import annotations

import json
import random
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator

from helpers.counts import count
from helpers.fuzz_apis import PLACES, UNFIT, Api
from helpers.fuzz_world import PATIENCE_S, Asked, FuzzWorld, Said
from helpers.two_users import filled

CONTRACTS = Path(__file__).parents[1] / "contracts"
_ANYWHERE = {401, 403, 404, 405, 413, 415, 429}
"""What is answered before an operation is reached, or by what stands before all of them; with the dialect's words."""
_ONLY_FAILURE = "500 is the only failure listed for this operation"
_KEPT = {"accept", "content-type", "last-event-id", "if-match", "if-none-match", "range"}
_SLOT = re.compile(r"{[^}]*}")
_WAYS = (False, True, True)
"""How often a case is sent, and whether with changes; to make one up takes longer than to send it."""
_RUNS = 25  # examples between two looks at what was made


def _same(path: str) -> str:
    return _SLOT.sub("{}", path).rstrip("/")


class Document:
    """An OpenAPI document, which says what answers may be."""

    def __init__(self, name: str, said: dict[str, Any]) -> None:
        self.name = name
        self.said = said
        self.operations: dict[str, dict[str, Any]] = {
            f"{method.upper()} {_same(path)}": operation
            for path, methods in said["paths"].items()
            for method, operation in methods.items()
            if method in ("get", "post", "put", "patch", "delete")
        }
        self._validators: dict[tuple[str, str], Draft202012Validator] = {}

    @cached_property
    def schema(self) -> Any:
        """As Schemathesis reads it."""
        return schemathesis.openapi.from_dict(self.said)

    def names_as_failure(self, operation: str, status: int) -> bool:
        """Whether this is the vendor's status of a failure that is the client's doing."""
        said = self.operations.get(operation, {})
        notes = " ".join(said.get("x-seed-note", ()))
        return str(status) in said.get("responses", {}) and _ONLY_FAILURE in notes

    def refusals(self, operation: str) -> set[int]:
        """The refusals that are listed, all of 400 to 499."""
        answers = self.operations.get(operation, {}).get("responses", {})
        return {int(status) for status in answers if status.startswith("4")}

    def complaint(self, operation: str, said: Said, elsewhere: frozenset[int]) -> str | None:
        """What of an answer is not as this document says. Vendors' are not complete where it comes to refusals.

        Args:
            elsewhere: other refusals that the operation may answer.
        """
        described = self.operations.get(operation)
        if described is None:
            return None
        answers = described["responses"]
        if str(said.status) not in answers:
            silent = not any(status.startswith("2") for status in answers) and said.status < 300
            fits = silent or said.status in _ANYWHERE | elsewhere
            return None if fits else f"{self.name} has no {said.status} for this, only {', '.join(answers)}"
        content = self._resolved(answers[str(said.status)]).get("content")
        if content is None or not said.whole:
            return None
        if said.kind not in content:
            return f"{self.name} has no {said.kind!r} for a {said.status}, only {', '.join(content)}"
        if "json" not in said.kind and said.kind != "text/javascript":
            return None
        found = next(
            self._validator(operation, said.status, content[said.kind]).iter_errors(json.loads(said.data)), None
        )
        return None if found is None else f"{self.name}: {list(found.absolute_path)}: {found.message[:300]}"

    def _validator(self, operation: str, status: int, media: dict[str, Any]) -> Draft202012Validator:
        key = (operation, str(status))
        if key not in self._validators:
            schema = {"components": self.said.get("components", {}), **media.get("schema", {})}
            checker = Draft202012Validator.FORMAT_CHECKER
            self._validators[key] = Draft202012Validator(schema, format_checker=checker)
        return self._validators[key]

    def _resolved(self, part: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in part:
            found: Any = self.said
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            part = found
        return part


def _order(method: str, path: str) -> int:
    """What makes things comes first, then what shows them, what changes them, and what takes them away."""
    return {"GET": 1, "DELETE": 3}.get(method, 2 if path.count("{") else 0)


@dataclass(frozen=True)
class Trouble:
    """A request whose answer is none that it may have."""

    asked: Asked
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.what}\n    {self.who}: {self.asked}"


class Fuzzer:
    """Sends what an API's documents make up, to a world that has what they speak of."""

    def __init__(self, api: Api, world: FuzzWorld) -> None:
        self.api, self.world = api, world
        served = world.do(world.admin, "GET", api.document, dialect=api.name)
        self.documents = [Document(f"{api.name}'s document", served)]
        if api.contract is not None:
            self.documents.append(Document(api.contract, contract(api.contract)))
        self.slashed = {_SLOT.sub("{}", path) for path in served["paths"] if path.endswith("/")}
        self.found: list[Trouble] = []
        self._labels = {"default": "default"} | world.ids | world.things
        self._made, self._fresh = 0, deque[str](maxlen=20)

    def operations(self) -> Iterator[tuple[Document, Any]]:
        """All that is tried."""
        for document in self.documents:
            for result in document.schema.get_all_operations():
                one = result.ok()
                name = f"{one.method.upper()} {one.path}"
                if _same(name) in self.documents[0].operations and name not in self.api.left_out:
                    yield document, one

    def run(self, examples: int, seed: int | None) -> int:
        """Try all operations, sharing ``examples`` among them; with a seed other requests than always.

        Returns:
            how many requests were sent.
        """
        chosen = sorted(self.operations(), key=lambda one: _order(one[1].method.upper(), one[1].path))
        modes = list(schemathesis.GenerationMode)
        each = max(1, round(examples / len(chosen) / len(modes) / len(_WAYS)))
        sent = sum(self._operation(document, one, mode, each, seed) for document, one in chosen for mode in modes)
        assert self.world.healthy()
        return sent

    def _operation(self, document: Document, operation: Any, mode: Any, examples: int, seed: int | None) -> int:
        sent = 0

        @given(case=operation.as_strategy(generation_mode=mode), luck=st.integers(0, 1 << 32))
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            derandomize=seed is None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def run(case: schemathesis.Case, luck: int) -> None:
            nonlocal sent
            dice = random.Random(luck)  # what it decides depends on what is there, which Hypothesis must not see
            for changes in _WAYS:
                if sent % _RUNS == 0:
                    self.world.revive()
                sent += 1
                self.attempt(case, dice, changes)

        trial: Callable[[], None] = run if seed is None else seeded(seed)(run)
        try:
            trial()
        except (schemathesis.errors.SchemathesisError, Unsatisfiable):
            pass  # nothing that is sent there can be wrong
        count("requests tried", sent)
        count(f"requests tried from {document.name}", sent)
        return sent

    def attempt(self, case: schemathesis.Case, dice: random.Random, changes: bool) -> None:
        """Send one, as somebody, and keep what is wrong with the answer."""
        who = dice.choice(("admin", "alice"))
        operation = f"{case.operation.method.upper()} {_same(case.operation.path)}"
        changed = case.method.upper() != case.operation.method.upper()
        asked = self.asked(case, who, dice if changes else None)
        try:
            said = self.world.exchange(asked)
        except TimeoutError:
            self.found.append(Trouble(asked, who, f"no answer in {PATIENCE_S} s"))
            return
        if said.status < 300 and operation in self.api.good:
            self._fresh.append(f"fuzz-{self._made}")
        for what in self.complaints(operation, said, changed):
            self.found.append(Trouble(asked, who, what))

    def complaints(self, operation: str, said: Said, changed: bool = False, *, headless: bool = False) -> Iterator[str]:
        """All that is wrong with an answer.

        Args:
            changed: it is to a method or an address that the operation does not have.
            headless: it has no body whatever it says.
        """
        yield from (f"the log has: {one}" for one in self.world.log.take())
        if said.seconds > PATIENCE_S / 2:
            yield f"took {said.seconds:.1f} s"
        if said.status >= 500 and not any(one.names_as_failure(operation, said.status) for one in self.documents):
            yield f"{said.status}: {said.data[:400]!r}"
        if b"Traceback" in said.data or b"server's log" in said.data:
            yield f"tells of its inside: {said.data[:400]!r}"
        if said.status >= 400 and not headless and not self._worded(said):
            yield f"{said.status} in other words than the dialect's: {said.data[:400]!r}"
        if not changed:
            refusals = self.api.refuses.union(*(one.refusals(operation) for one in self.documents))
            for document in self.documents:
                if (complaint := document.complaint(operation, said, refusals)) is not None:
                    yield f"{complaint}: {said.status} {said.data[:400]!r}"

    def _worded(self, said: Said) -> bool:
        try:
            return self.api.error(json.loads(said.data))
        except (ValueError, KeyError, TypeError):
            return False

    # -- requests --------------------------------------------------------------------------------

    def asked(self, case: schemathesis.Case, who: str, dice: random.Random | None) -> Asked:
        """The request of a case, signed; with dice about things that there are, and spoiled."""
        named = case.as_transport_kwargs(base_url=self.world.server.url)
        named.pop("auth", None)
        if dice is not None:
            self._change(named, case, dice)
        if case.path.endswith("/wait"):
            given = str((named["params"] or {}).get("timeout", "30"))
            if re.match(r"[ +]*[0-9.]", given):  # it would be waited for
                named["params"] = {**(named["params"] or {}), "timeout": "0.01"}
        return self._signed(requests.Request(**named).prepare(), who)

    def _change(self, named: dict[str, Any], case: schemathesis.Case, dice: random.Random) -> None:
        collection = next((one for one in case.path.split("/") if one in PLACES), "")
        names = self._pointed(dict(case.path_parameters or {}), PLACES.get(collection, ()), dice)
        path = re.sub(r"{([^}]*)}", lambda one: escaped(names.get(one[1], "")), case.path)
        named["url"] = self.world.server.url + path
        if isinstance(named.get("params"), dict):
            named["params"] = self._pointed(named["params"], (), dice)
        body = self._improved(case, dice)
        if body is not case.body:
            for other in ("json", "files", "data"):
                named.pop(other, None)
            kind = case.media_type or "" if isinstance(body, dict) else ""
            if kind == "multipart/form-data":
                named["headers"].pop("Content-Type", None)  # it names the line between the parts
                named["files"] = [(name, (None, _part(value))) for name, value in body.items()]
            elif "form" in kind:
                named["data"] = urlencode(body, errors="surrogatepass").encode()
            else:
                named["data"] = json.dumps(body).encode()

    def _signed(self, prepared: requests.PreparedRequest, who: str) -> Asked:
        target, body = prepared.path_url, prepared.body or b""
        data = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else b"".join(body)
        headers = {name: value for name, value in prepared.headers.items() if name.lower() in _KEPT}
        headers |= self.world.headers_of(getattr(self.world, who), self.api.name, target, data)
        endless = "follow" in target or "event-stream" in str(headers)
        return Asked(str(prepared.method), target, headers, data, endless)

    def _pointed(self, members: dict[str, Any], own: tuple[str, ...], dice: random.Random) -> dict[str, Any]:
        """What there is in place of what was made up."""
        found = dict(members)
        for name in members:
            labels = own if name in ("ref", "name") and own else self.api.things.get(name, ())
            if labels and self._fresh and dice.random() < 0.2:
                found[name] = dice.choice(self._fresh)
            elif labels and dice.random() < 0.5:
                found[name] = self._thing(dice.choice(labels), dice)
        return found

    def _improved(self, case: schemathesis.Case, dice: random.Random) -> Any:
        """Half the time a body that does something; often spoiled, with members that were made up, or with a value
        that does not fit somewhere in it."""
        body = case.body
        good = self.api.good.get(f"{case.operation.method.upper()} {_same(case.operation.path)}")
        if isinstance(body, dict) and dice.random() < 0.5:
            body = self._pointed(body, (), dice)
        if good is not None and dice.random() < 0.6:
            self._made += 1
            other = body.items() if isinstance(body, dict) else ()
            body = filled(good, self._labels | {"new": f"fuzz-{self._made}"})
            body |= {name: value for name, value in other if dice.random() < 0.1}
        if isinstance(body, dict | list) and dice.random() < 0.4:
            body = spoiled(body, dice)
        return body

    def _thing(self, label: str, dice: random.Random) -> str:
        return dice.choice((self._labels.get(label, label), self.world.names.get(label, label)))


def contract(name: str) -> dict[str, Any]:
    """A vendor's document, with all of each path in its paths."""
    said: dict[str, Any] = yaml.safe_load((CONTRACTS / name).read_text())
    base = urlsplit(said.get("servers", [{}])[0].get("url", "")).path.rstrip("/")
    if base and not any(path.startswith(base) for path in said["paths"]):
        said["paths"] = {base + path: one for path, one in said["paths"].items()}
        del said["servers"]
    return said


def _part(value: Any) -> bytes:
    """A value as a part of a form: what is no text is JSON."""
    if isinstance(value, bytes):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="surrogatepass")


def escaped(text: Any) -> str:
    """A variable of a path as it stands in a URL."""
    return quote(str(text), safe="", errors="surrogatepass")


def spoiled(body: Any, dice: random.Random) -> Any:
    """The same with one value, at any depth, in whose place is one that does not fit."""
    if isinstance(body, dict) and body and dice.random() < 0.8:
        name = dice.choice(list(body))
        return {**body, name: spoiled(body[name], dice)}
    if isinstance(body, list) and body and dice.random() < 0.8:
        at = dice.randrange(len(body))
        return [*body[:at], spoiled(body[at], dice), *body[at + 1 :]]
    return dice.choice(UNFIT)
