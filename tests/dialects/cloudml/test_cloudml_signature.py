"""Signed requests: the vectors of the contract, and that nothing unsigned passes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from helpers.cloudml import SignedClient, into, signed
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from localml.config import Config
from localml.dialects.cloudml import create_app
from localml.dialects.cloudml.auth import signature
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

CONTRACT = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "cloudml.yaml").read_text())
DOUBLED = {
    "secret": "sk",
    "path": "/cloud_ml//v1/train",
    "timestamp": "1474203860",
    "body": "",
    "content_md5": "d41d8cd98f00b204e9800998ecf8427e",
    "authorization": "Galaxy V3 2RiDHGBaCYJ7nTJWkBEsqOBF2cY=",
}
WRONG = {"error": True, "message": "Unauthorized: signature is wrong"}


@pytest.mark.parametrize("vector", [*CONTRACT["x-auth"]["x-test-vectors"], DOUBLED])
def test_the_published_vectors_are_reproduced(vector: dict[str, str]) -> None:
    assert hashlib.md5(vector["body"].encode()).hexdigest() == vector["content_md5"]
    made = signature(vector["secret"], vector["path"], vector["timestamp"], vector["content_md5"])
    assert made == vector["authorization"]


@pytest.mark.parametrize(
    "path",
    ["/cloud_ml/v1/train", "/cloud_ml//v1/train", "/cloud_ml/v1//train?org_id=default", "/cloud_ml/v1/tr%61in"],
)
def test_the_path_is_signed_as_it_was_sent(client: SignedClient, path: str) -> None:
    assert client.get(path).status == 200


def test_another_spelling_of_the_signed_path_is_refused(client: SignedClient) -> None:
    headers = signed(client.access, client.secret, "/cloud_ml/v1/train")
    assert client.send("GET", "/cloud_ml//v1/train", headers, b"").json == WRONG


def test_the_query_is_not_signed(client: SignedClient) -> None:
    headers = signed(client.access, client.secret, "/cloud_ml/v1/train")
    assert client.send("GET", "/cloud_ml/v1/train?org_id=default", headers, b"").status == 200


def test_the_time_is_not_held_against_a_clock(client: SignedClient) -> None:
    headers = signed(client.access, client.secret, "/cloud_ml/v1/train", timestamp="1474203860")
    assert client.send("GET", "/cloud_ml/v1/train", headers, b"").status == 200


@pytest.mark.parametrize(
    "header", ["X-Xiaomi-Timestamp", "X-Xiaomi-Content-MD5", "X-Xiaomi-Secret-Key-Id", "Authorization"]
)
def test_each_header_is_needed(client: SignedClient, header: str) -> None:
    headers = signed(client.access, client.secret, "/cloud_ml/v1/train")
    del headers[header]
    answer = client.send("GET", "/cloud_ml/v1/train", headers, b"")
    assert (answer.status, answer.json) == (401, WRONG)


def test_an_unknown_key_is_refused_like_a_wrong_signature(client: SignedClient) -> None:
    headers = signed("AKUNKNOWN", client.secret, "/cloud_ml/v1/train")
    answer = client.send("GET", "/cloud_ml/v1/train", headers, b"")
    assert (answer.status, answer.json) == (401, WRONG)


def test_frameworks_need_no_signature_and_bear_a_wrong_one(client: SignedClient) -> None:
    assert client.send("GET", "/cloud_ml/v1/framework", {}, b"").status == 200
    assert client.send("GET", "/cloud_ml/v1/framework", {"Authorization": "Galaxy V3 x"}, b"").status == 200


CHANGES = st.sampled_from(["path", "timestamp", "md5", "body", "secret", "authorization"])
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(change=CHANGES, word=WORDS, body=st.binary(max_size=50))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_changed_after_signing_is_refused(
    client: SignedClient, change: str, word: str, body: bytes
) -> None:
    path, sent = "/cloud_ml/v1/train", body
    secret = word if change == "secret" else client.secret
    headers = signed(client.access, secret, path if change != "path" else f"/{word}", body, timestamp="1474203860")
    if change == "timestamp":
        headers["X-Xiaomi-Timestamp"] = word
        assume(word != "1474203860")
    elif change == "md5":
        headers["X-Xiaomi-Content-MD5"] = hashlib.md5(word.encode() + b"?").hexdigest()
    elif change == "body":
        sent = body + word.encode()
    elif change == "authorization":
        assume(word != headers["Authorization"])
        headers["Authorization"] = word
    assume(not (change == "path" and f"/{word}" == path))
    answer = client.send("POST", path, headers, sent)
    assert (answer.status, answer.json) == (401, WRONG)


@given(body=st.binary(min_size=1, max_size=50), other=st.binary(max_size=50))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_body_other_than_the_signed_one_is_refused(client: SignedClient, body: bytes, other: bytes) -> None:
    assume(body != other)
    headers = signed(client.access, client.secret, "/cloud_ml/v1/train", body)
    assert client.send("POST", "/cloud_ml/v1/train", headers, other).status == 401


@given(values=st.fixed_dictionaries({name: st.text(max_size=30) for name in ("key", "time", "md5", "auth")}))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_header_makes_the_server_fail(app: Flask, values: dict[str, str]) -> None:
    names = ("X-Xiaomi-Secret-Key-Id", "X-Xiaomi-Timestamp", "X-Xiaomi-Content-MD5", "Authorization")
    sent = {name: text.encode("utf-8").decode("latin-1") for name, text in zip(names, values.values(), strict=True)}
    assume(not any(char in text for text in sent.values() for char in "\r\n"))
    assert into(app)("GET", "/cloud_ml/v1/train", sent, b"").status == 401


def test_without_authentication_everybody_is_the_administrator(tmp_path: Path) -> None:
    platform = Platform(Config(tmp_path, engine="fake", gpus="none", auth=False), engine=FakeEngine())
    try:
        answer: Any = into(create_app(platform))("GET", "/cloud_ml/v1/train?org_id=-1", {}, b"")
        assert (answer.status, answer.json) == (200, {"data": []})
    finally:
        platform.close()
