"""Small files that a job brings in its spec, over the wire."""

from __future__ import annotations

from typing import Any

import pytest
from dialects.native.test_native_code import link, name_of, put, tar
from helpers.native import Http, sh

from localml.core.limits import MOST_FILE_BYTES, MOST_FILES


def ran(admin: Http, name: str, command: str, workdir: str | None = None, **spec: Any) -> tuple[str, str]:
    """How a job ended, and what it printed or why it failed."""
    made = sh(command)
    if workdir is not None:
        made["roles"][0]["workdir"] = workdir
    done = admin("POST", "/workloads", {"name": name, "spec": {**made, **spec}})
    assert done.status == 201, done.json
    found = admin("GET", f"/workloads/{name}/wait?timeout=60").json
    return found["state"], admin("GET", f"/workloads/{name}/logs").data.decode() or found["message"]


def test_files_are_where_the_job_starts(admin: Http) -> None:
    files = {"config.json": '{"lr": 0.1}', "sub/dir/ü": "deep"}
    shows = "cat config.json sub/dir/ü; echo own > config.json; ls; test $LOCALML_CODE -ef ."
    assert ran(admin, "files", shows, files=files) == ("succeeded", '{"lr": 0.1}deepconfig.json\nsub\n')


def test_files_are_put_into_the_copy_of_the_code_and_below_its_folder(admin: Http) -> None:
    body = tar(("a/kept", b"kept,"), ("a/config", b"old"), ("config", b"old,"))
    put(admin, body)
    code = name_of(body)
    files = {"config": "new"}
    assert ran(admin, "beside", "cat a/kept config", code=code, files=files) == ("succeeded", "kept,new")
    assert ran(admin, "below", "cat kept ../config config", "a", code=code, files=files) == (
        "succeeded",
        "kept,old,new",
    )


def test_a_link_of_the_code_leads_no_file_elsewhere(admin: Http) -> None:
    body = tar(("kept", b"kept"), link("config", "kept"))
    put(admin, body)
    shown = ran(admin, "linked", "cat kept config", code=name_of(body), files={"config": "new"})
    assert shown == ("succeeded", "keptnew")


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a/../b", "./a", "a//b", "a/", "x" * 256, "a\0b"])
def test_a_path_that_leads_elsewhere_is_refused(admin: Http, path: str) -> None:
    refused = admin("POST", "/workloads", {"name": "odd", "spec": {**sh("true"), "files": {path: "x"}}})
    assert refused.status == 400, refused.json
    assert admin("GET", "/workloads/odd").status == 404


@pytest.mark.parametrize(
    "files",
    [
        {"a": "file", "a/b": "in it"},
        {f"f{n}": "" for n in range(MOST_FILES + 1)},
        {"a": "x" * MOST_FILE_BYTES},
    ],
)
def test_too_much_or_what_cannot_be_is_refused(admin: Http, files: dict[str, str]) -> None:
    refused = admin("POST", "/workloads", {"name": "odd", "spec": {**sh("true"), "files": files}})
    assert (refused.status, "files" in refused.json["error"]["message"]) == (400, True)


def test_as_much_as_is_allowed_is_taken(admin: Http) -> None:
    files = {"a": "x" * (MOST_FILE_BYTES - 1)}
    assert ran(admin, "large", "wc -c < a", files=files)[1].strip() == str(MOST_FILE_BYTES - 1)
