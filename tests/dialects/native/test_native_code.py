"""Folders of code over the wire: what is kept, whose it is, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from helpers.native import Http, sh

from localml.core.prune import DAY
from localml.testing import Localml


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                archive.addfile(one)
                continue
            member = tarfile.TarInfo(one[0])
            member.size = len(one[1])
            archive.addfile(member, io.BytesIO(one[1]))
    return file.getvalue()


def link(name: str, target: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = tarfile.SYMTYPE, target
    return made


def name_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def put(who: Http, body: bytes, query: str = "") -> Any:
    return who("PUT", f"/code/{name_of(body)}{query}", body, {"Content-Type": "application/x-tar"})


def test_code_is_kept_by_its_content(admin: Http) -> None:
    body = tar(("a", b"kept"))
    path = f"/code/{name_of(body)}"
    assert admin("GET", path).status == 404
    made = put(admin, body)
    assert (made.status, made.json["code"], made.json["size"]) == (201, name_of(body), len(body))
    assert put(admin, body).status == 201
    assert admin("GET", path).json["size"] == len(body)
    done = admin("POST", "/workloads", {"name": "coded", "spec": {**sh("cat a"), "code": name_of(body)}})
    assert done.status == 201
    assert admin("GET", "/workloads/coded/wait?timeout=60").json["state"] == "succeeded"
    assert admin("GET", "/workloads/coded/logs").data == b"kept"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"no archive at all", "code: is no tar"),
        (tar(("../a", b"")), "has '..' in its name"),
        (tar(("/a", b"")), "has an absolute name"),
        (tar(link("a", "/etc")), "is a link to an absolute path"),
        (tar(link("a", "../b")), "leads out of the archive"),
        (tar(("a", b"x" * 5000))[:1024], "truncated or corrupt"),
    ],
)
def test_what_could_not_be_unpacked_safely_is_not_kept(admin: Http, localml: Localml, body: bytes, told: str) -> None:
    refused = put(admin, body)
    assert (refused.status, told in refused.json["error"]["message"]) == (400, True), refused.json
    assert refused.json["error"]["field"] == "code"
    assert admin("GET", f"/code/{name_of(body)}").status == 404
    assert list((localml.platform.data / "uploads").iterdir()) == []


def test_a_name_that_is_not_the_contents_is_refused(admin: Http) -> None:
    other = name_of(b"other")
    refused = admin("PUT", f"/code/{other}", tar(("a", b"")), {"Content-Type": "application/x-tar"})
    assert (refused.status, "the body is sha256:" in refused.json["error"]["message"]) == (400, True)
    assert admin("PUT", "/code/sha256:12", b"x", {"Content-Type": "application/x-tar"}).status in (400, 422)
    assert admin("GET", "/code/..%2f..%2fsecret.key").status in (400, 404, 422)


def test_a_job_gets_no_code_that_is_not_there(admin: Http) -> None:
    missing = admin("POST", "/workloads", {"name": "none", "spec": {**sh("true"), "code": name_of(b"never")}})
    assert (missing.status, "send the folder again" in missing.json["error"]["message"]) == (404, True)
    body = tar(("a", b""))
    put(admin, body)
    mounts = [{"source": "workspace:x", "target": "/code"}]
    taken = admin(
        "POST", "/workloads", {"name": "both", "spec": {**sh("true"), "code": name_of(body), "mounts": mounts}}
    )
    assert (taken.status, taken.json["error"]["field"]) == (400, "mounts")


def test_members_of_a_workspace_run_its_code_and_nobody_else_does(admin: Http, localml: Localml) -> None:
    people = localml.client.people
    for name in ("cora", "dora"):
        localml.client.create_user(name, f"{name}'s password")
    place = people.create_workspace("coders").id
    people.set_member(place, "cora", "member")
    users = {name: localml.client.create_token(name) for name in ("cora", "dora")}
    cora, dora = (Http(localml.url, {"Authorization": f"Bearer {users[name]}"}) for name in ("cora", "dora"))
    body = tar(("a", b"ours"))
    assert put(admin, body, "?workspace=coders").status == 201
    spec = {**sh("cat a"), "code": name_of(body)}
    assert cora("POST", "/workloads", {"name": "ours", "workspace": "coders", "spec": spec}).status == 201
    assert cora("GET", "/workloads/ours/wait?timeout=60").json["state"] == "succeeded"
    for path in (f"/code/{name_of(body)}", f"/code/{name_of(body)}?workspace=coders"):
        assert dora("GET", path).status == 404
    assert cora("POST", "/workloads", {"name": "mine", "spec": spec}).status == 404  # her own has none
    assert dora("POST", "/workloads", {"name": "mine", "spec": spec}).status == 404


def test_code_that_nothing_needs_goes_after_a_while(admin: Http, localml: Localml) -> None:
    used, unused = tar(("a", b"used")), tar(("a", b"unused"))
    for body in (used, unused):
        put(admin, body)
    spec = {**sh("sleep 600"), "code": name_of(used)}
    number = admin("POST", "/workloads", {"name": "needs", "spec": spec}).json["id"]
    files = {path.stem: path for path in (localml.platform.data / "code" / "archives").glob("*/*.tar")}
    one, two = (files[name_of(body).removeprefix("sha256:")] for body in (used, unused))
    rules = {"logs_days": 20, "deleted_days": None}
    admin("POST", "/prune", rules)
    assert two.exists()
    _age(one, 21 * DAY)
    _age(two, 21 * DAY)
    told = admin("POST", "/prune", {**rules, "dry_run": True}).json
    assert (told["code_archives"], told["code_bytes"]) == (1, len(unused))
    assert two.exists()
    assert admin("POST", "/prune", rules).json["code_archives"] == 1
    assert (one.exists(), two.exists()) == (True, False)
    admin("POST", f"/workloads/{number}/stop")
    admin("GET", f"/workloads/{number}/wait?timeout=30")
    assert admin("POST", "/prune", rules).json["code_archives"] == 1
    assert not one.exists()
    again = localml.client
    with pytest.raises(Exception, match="send the folder again"):
        again.rerun(number)


def _age(path: Path, seconds: float) -> None:
    was = path.stat().st_mtime - seconds
    os.utime(path, (was, was))


def _folder(localml: Localml, name: str) -> Path:
    return localml.platform.mounts.folder(localml.platform.identity.user("admin").id, name)


def test_code_is_put_into_a_notebooks_folder_and_stays(admin: Http, localml: Localml) -> None:
    first, second = tar(("a", b"1"), ("sub/b", b"2"), link("l", "a")), tar(("a", b"other"), ("c", b"3"))
    for body in (first, second):
        put(admin, body)
    path = "/folders/lab-of-code/code"
    assert admin("PUT", path, {"code": name_of(first)}).json == {"folder": "lab-of-code", "code": name_of(first)}
    folder = _folder(localml, "lab-of-code")
    assert ((folder / "a").read_text(), (folder / "sub" / "b").read_text(), os.readlink(folder / "l")) == (
        "1",
        "2",
        "a",
    )
    assert admin("PUT", path, {"code": name_of(first)}).status == 200  # again changes nothing
    (folder / "mine").write_text("kept")
    refused = admin("PUT", path, {"code": name_of(second)})
    assert (refused.status, refused.json["error"]["details"]) == (409, {"files": ["a"]})
    assert ((folder / "a").read_text(), (folder / "c").exists()) == ("1", False)
    assert admin("PUT", path, {"code": name_of(second), "replace": True}).status == 200
    assert sorted(one.name for one in folder.iterdir()) == ["a", "c", "l", "mine", "sub"]
    assert ((folder / "a").read_text(), (folder / "mine").read_text()) == ("other", "kept")


def test_what_a_notebook_put_in_the_way_leads_nowhere_else(admin: Http, localml: Localml, tmp_path: Path) -> None:
    """Links of its program's making: nothing is written through them, and what is outside stays as it is."""
    body = tar(("sub/a", b"new"), ("b", b"new"))
    put(admin, body)
    folder = _folder(localml, "trap")
    folder.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("theirs")
    (folder / "sub").symlink_to(outside)
    (folder / "b").symlink_to(outside / "a")
    for replace in (False, True):
        refused = admin("PUT", "/folders/trap/code", {"code": name_of(body), "replace": replace})
        assert refused.status == 409, refused.json
    (folder / "sub").unlink()
    assert admin("PUT", "/folders/trap/code", {"code": name_of(body), "replace": True}).status == 200
    assert ((outside / "a").read_text(), (folder / "b").is_symlink()) == ("theirs", False)
    for name in ("..", "a%2fb", ".hidden"):
        assert admin("PUT", f"/folders/{name}/code", {"code": name_of(body)}).status in (400, 404, 405)
    assert list((localml.platform.data / "code" / "runs").glob("*.making")) == []
