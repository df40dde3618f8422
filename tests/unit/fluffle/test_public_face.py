"""The public names of the package, and the parts of the client that need no broker."""

import ast
import asyncio
import builtins
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import fluffle
from broker.amqp.envelope import Outgoing
from broker.errors import ConnectionClosed, TaskCancelled, TaskFailed, TaskRejected
from broker.protocol import spending, task_requests
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.views import TaskView
from broker.protocol.worker_reports import Failure
from fluffle import reference
from fluffle.client.client import Client
from fluffle.client.handle import Submitted, outcome
from fluffle.client.kwargs import BudgetChanges, LimitChanges, LLMChanges, RetryChanges, TaskChanges, TaskFields
from fluffle.client.sync import SyncClient
from tests.support.processes import ROOT

NOW = datetime(2026, 12, 1, tzinfo=UTC)
NAMES_OF_OTHERS = {"AbstractAsyncContextManager", "AsyncIterator", "AwareDatetime", "CloudEvent", "JsonValue"}
"""Words of docs/python.md that look like the name of an error and are not from Fluffle."""


def view(status: Status, **fields: Any) -> TaskView:
    return TaskView(id="t-1", status=status, description="x", priority=4, submitted_at=NOW, **fields)


def test_a_star_import_gives_all_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from fluffle import *", names)
    assert set(dir(fluffle)) <= names.keys()
    assert names["Client"] is Client


def test_every_line_of_the_stub_gives_a_public_name_from_the_module_that_defines_it() -> None:
    stub = ast.parse(Path(fluffle.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    listed = []
    for statement in stub.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            found = getattr(fluffle, alias.name)
            assert alias.asname == alias.name == found.__name__
            assert statement.module == found.__module__
            listed.append(alias.name)
    assert sorted(listed) == dir(fluffle)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = fluffle.Nothing  # type: ignore[attr-defined] # there is none


def test_the_packages_that_define_public_names_are_typed() -> None:
    packages = {getattr(fluffle, name).__module__.partition(".")[0] for name in dir(fluffle)}
    assert [package for package in sorted(packages) if not (ROOT / package / "py.typed").exists()] == []


def test_every_error_that_a_public_docstring_names_is_public() -> None:
    page = reference.page()
    named = set(re.findall(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b", page))
    unknown = {name for name in named if name not in dir(fluffle) and not hasattr(builtins, name)}
    assert unknown <= NAMES_OF_OTHERS


def test_the_page_about_python_is_made_from_the_docstrings() -> None:
    written = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert written == reference.page(), "make it again: python -m fluffle.reference > docs/python.md"


def test_importing_the_package_imports_none_of_its_parts() -> None:
    program = "import sys, fluffle; print([name for name in sys.modules if name.startswith(('fluffle.', 'broker'))])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT) == "[]\n"


def test_the_arguments_of_the_client_are_the_fields_of_the_messages() -> None:
    assert TaskFields.__annotations__.keys() | {"description", "answers"} == Submission.model_fields.keys()
    assert TaskChanges.__annotations__.keys() | {"id"} == task_requests.Update.model_fields.keys()
    assert RetryChanges.__annotations__.keys() == task_requests.RetryPatch.model_fields.keys()
    assert LLMChanges.__annotations__.keys() | {"llm"} == task_requests.ManageLLM.model_fields.keys()
    assert LimitChanges.__annotations__.keys() | {"limit"} == spending.ManageLimit.model_fields.keys()
    assert BudgetChanges.__annotations__.keys() | {"budget"} == spending.ManageBudget.model_fields.keys()


def test_the_synchronous_client_has_every_method_of_the_client() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert methods(SyncClient) == methods(Client)


def test_the_outcome_of_a_task_is_its_result_or_an_error() -> None:
    assert outcome(view(Status.COMPLETED, result=[1])) == [1]
    failure = Failure(type="broken", message="no ink")
    with pytest.raises(TaskFailed, match=r"^task t-1 failed: broken: no ink$"):
        outcome(view(Status.FAILED, error=failure))
    with pytest.raises(TaskCancelled, match=r"^task t-1 was cancelled$"):
        outcome(view(Status.CANCELLED))
    with pytest.raises(ValueError, match="not finished"):
        outcome(view(Status.PENDING))


async def test_an_accepted_handle_waits_for_the_end() -> None:
    handle = Submitted(Outgoing("x", "y", b"", message_id="t-1"))
    waiting = asyncio.create_task(handle.result())
    handle.update(view(Status.PENDING))
    await handle.accepted()
    assert (handle.view.status, handle.unanswered, handle.is_over) == (Status.PENDING, None, False)
    handle.update(view(Status.COMPLETED, result="done"))
    assert await waiting == "done"


async def test_a_second_end_of_a_task_is_ignored() -> None:
    handle = Submitted(Outgoing("x", "y", b"", message_id="t-1"))
    handle.update(view(Status.COMPLETED, result="first"))
    handle.update(view(Status.COMPLETED, result="second"))
    assert await handle.result() == "first"


async def test_a_wait_that_times_out_does_not_change_the_handle() -> None:
    handle = Submitted(Outgoing("x", "y", b"", message_id="t-1"))
    handle.update(view(Status.PENDING))
    with pytest.raises(TimeoutError, match=r"task t-1 is pending after 0\.001 s"):
        await handle.end(0.001)
    handle.update(view(Status.COMPLETED, result="done"))
    assert await handle.result() == "done"


@pytest.mark.parametrize("error", [TaskRejected([]), ConnectionClosed()])
async def test_a_failed_handle_raises_its_error_in_every_wait(error: Any) -> None:
    handle = Submitted(Outgoing("x", "y", b"", message_id="t-1"))
    handle.fail(error)
    for waiting in (handle.accepted(), handle.end()):
        with pytest.raises(type(error)):
            await waiting


@pytest.mark.parametrize("use", [lambda client: client.llms(), lambda client: client.connected])
def test_a_client_that_is_not_entered_says_how_to_use_it(use: Any) -> None:
    with pytest.raises(AssertionError, match=r"use the client inside `(async )?with`"):
        use(SyncClient("amqp://127.0.0.1:9"))
