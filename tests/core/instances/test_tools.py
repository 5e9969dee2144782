"""What a notebook or TensorBoard runs, who may open it, and how."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.errors import Code, LocalmlError
from localml.core.instances.tools import Notebook, Tensorboard, Tools
from localml.core.people.sealing import Sealer
from localml.core.people.secrets import Vault
from localml.core.work.specs import Resources, WorkloadSpec
from localml.core.work.states import AttemptState, Kind, State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Full

ANN, BOB = 1, 2


@pytest.fixture(scope="module")
def sealer(tmp_path_factory: pytest.TempPathFactory) -> Sealer:
    return Sealer(Vault.open(tmp_path_factory.mktemp("data") / "secret.key"))


@pytest.fixture(scope="module")
def tools(sealer: Sealer) -> Tools:
    return Tools(sealer, "127.0.0.1")


def full(spec: WorkloadSpec, kind: Kind, *attempts: Attempt, owner: int = ANN, tries: int = 1) -> Full:
    row = Workload(
        id=1, kind=kind, dialect="native", workspace="p", owner="ann", owner_id=owner, name="lab", pool="default",
        state=State.RUNNING, attempt=tries, created_at=0, updated_at=0, queued_at=0,
    )  # fmt: skip
    return Full(row, spec, None, attempts=list(attempts))


def container(state: AttemptState = AttemptState.RUNNING, number: int = 1, host: int = 40001) -> Attempt:
    return Attempt(
        id=number, workload_id=1, role="main", index=0, number=number, name=f"a{number}",
        state=state, ports={"http": [8888, host]}, created_at=0,
    )  # fmt: skip


def test_a_notebook_keeps_its_folder_and_runs_until_it_is_stopped(tools: Tools) -> None:
    wanted = Notebook("lab", idle_limit=1800, resources=Resources(gpu=1, memory=2 << 30, cpu=1.5))
    spec = tools.notebook(ANN, wanted)
    [role] = spec.roles
    assert [(mount.source, mount.target) for mount in spec.mounts] == [("workspace:lab", "/workspace")]
    assert (spec.until_stopped, spec.idle_limit) == (True, 1800)
    assert spec.retries.limit >= 100
    assert role.resources.gpu == 1
    assert (role.env["MEM_LIMIT"], role.env["CPU_LIMIT"]) == ("2147483648", "1.5")


def test_the_token_is_on_no_command_line_and_not_readable_in_what_is_stored(tools: Tools) -> None:
    spec = tools.notebook(ANN, Notebook("lab", token="open-sesame"))
    assert "open-sesame" not in spec.model_dump_json()
    again = WorkloadSpec.model_validate_json(spec.model_dump_json())
    assert tools.token(full(again, Kind.NOTEBOOK)) == "open-sesame"


def test_every_notebook_without_a_token_gets_one_of_its_own(tools: Tools) -> None:
    tokens = {tools.token(full(tools.notebook(ANN, Notebook("lab")), Kind.NOTEBOOK)) for _ in range(3)}
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32


def test_a_sealed_token_is_worth_nothing_to_another_user(tools: Tools, sealer: Sealer) -> None:
    sealed = tools.notebook(ANN, Notebook("lab", token="mine")).roles[0].sealed_env["JUPYTER_TOKEN"]
    assert sealer.open(ANN, sealed) == "mine"
    for owner, text in ((BOB, sealed), (ANN, sealed[:-8] + "AAAAAAA="), (ANN, "nonsense"), (ANN, "")):
        with pytest.raises(LocalmlError) as refused:
            sealer.open(owner, text)
        assert refused.value.code is Code.INVALID


@given(st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=256))
def test_any_printable_token_opens_the_page_through_its_url(tools: Tools, token: str) -> None:
    from urllib.parse import parse_qs, urlsplit

    spec = tools.notebook(ANN, Notebook("lab", token=token))
    url = tools.access(full(spec, Kind.NOTEBOOK, container())).url
    assert url is not None
    parts = urlsplit(url)
    assert (parts.netloc, parts.path) == ("127.0.0.1:40001", "/lab")
    assert parse_qs(parts.query, keep_blank_values=True) == {"token": [token]}


@pytest.mark.parametrize("token", ["two words", "tab\t", "umläut", "x" * 257, "new\nline"])
def test_a_token_that_no_header_can_carry_is_refused(tools: Tools, token: str) -> None:
    with pytest.raises(LocalmlError, match="printable ASCII") as refused:
        tools.notebook(ANN, Notebook("lab", token=token))
    assert refused.value.field == "token"


def test_there_is_no_address_until_a_container_runs_and_then_that_of_the_newest_try(tools: Tools) -> None:
    spec = tools.notebook(ANN, Notebook("lab"))
    before = tools.access(full(spec, Kind.NOTEBOOK, container(AttemptState.PLANNED)))
    assert (before.port, before.base, before.url) == (None, None, None)
    old, new = container(AttemptState.ENDED, 1, 40001), container(number=2, host=40002)
    assert tools.access(full(spec, Kind.NOTEBOOK, old, new, tries=2)).base == "http://127.0.0.1:40002"


def test_a_tensorboard_shows_a_folder_of_the_buckets_and_always_has_a_token(tools: Tools) -> None:
    spec = tools.tensorboard(ANN, Tensorboard("logs/%{index}", token="t"))
    assert spec.roles[0].env["LOCALML_LOGDIR"] == "logs/%%{index}"  # a name is no placeholder
    assert tools.access(full(spec, Kind.TENSORBOARD, container())).url == "http://127.0.0.1:40001/?token=t"
    older = spec.model_copy(update={"roles": (spec.roles[0].model_copy(update={"sealed_env": {}}),)})
    assert tools.access(full(older, Kind.TENSORBOARD, container())).url == "http://127.0.0.1:40001/"
    changed = tools.tensorboard(ANN, tools.tensorboard_of(ANN, older))
    assert len(tools.token(full(changed, Kind.TENSORBOARD))) >= 32


def test_a_tensorboard_of_ours_may_stop_when_idle_and_one_of_the_users_own_may_not(tools: Tools) -> None:
    assert tools.tensorboard(ANN, Tensorboard("logs", idle_limit=1800)).idle_limit == 1800
    assert tools.tensorboard(ANN, Tensorboard("logs", image="own", command=("serve",))).idle_limit is None
    for own in (Tensorboard("logs", image="own", idle_limit=60), Tensorboard("logs", command=("x",), idle_limit=60)):
        with pytest.raises(LocalmlError, match="does not tell when it was last used") as refused:
            tools.tensorboard(ANN, own)
        assert (refused.value.code, refused.value.field) == (Code.INVALID, "idle_limit")


@pytest.mark.parametrize(("bound", "shown"), [("0.0.0.0", "127.0.0.1"), ("10.0.0.5", "10.0.0.5"), ("::1", "[::1]")])
def test_the_address_is_one_that_can_be_opened(sealer: Sealer, bound: str, shown: str) -> None:
    spec = Tools(sealer, bound).notebook(ANN, Notebook("lab"))
    assert Tools(sealer, bound).access(full(spec, Kind.NOTEBOOK, container())).base == f"http://{shown}:40001"


def test_the_key_file_is_what_opens_tokens(tmp_path: Path, tools: Tools) -> None:
    sealed = tools.notebook(ANN, Notebook("lab")).roles[0].sealed_env["JUPYTER_TOKEN"]
    other = Sealer(Vault.open(tmp_path / "other.key"))
    with pytest.raises(LocalmlError, match="not sealed by this installation"):
        other.open(ANN, sealed)
