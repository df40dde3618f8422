"""The public face of the package, and what of the client needs no broker."""

import ast
import asyncio
import inspect
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

import fluffle
from broker.amqp.envelope import Outgoing
from broker.errors import ConnectionClosed, TaskCancelled, TaskFailed, TaskRejected
from broker.protocol import task_requests
from broker.protocol.status import Status
from broker.protocol.task_requests import Submission
from broker.protocol.views import TaskView
from broker.protocol.worker_reports import Failure
from fluffle.client.client import Client
from fluffle.client.handle import TaskHandle, outcome
from fluffle.client.kwargs import Management, RetryChanges, TaskChanges, TaskFields
from fluffle.client.sync import SyncClient
from tests.support.processes import ROOT

NOW = datetime(2026, 12, 1, tzinfo=UTC)


def view(status: Status, **fields: Any) -> TaskView:
    return TaskView(id="t-1", status=status, description="x", priority=4, submitted_at=NOW, **fields)


def test_a_star_gives_all_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from fluffle import *", names)
    assert set(dir(fluffle)) <= names.keys()
    assert names["Client"] is Client


def test_every_public_name_is_there_for_programs_and_for_type_checkers() -> None:
    module = ast.parse(inspect.getsource(fluffle))
    typed = {
        (node.module, alias.name)
        for statement in module.body
        if isinstance(statement, ast.If)
        for node in statement.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for _, name in typed} == set(dir(fluffle))
    for module_name, name in typed:
        found = getattr(fluffle, name)
        assert (found.__module__, found.__name__) == (module_name, name)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = fluffle.Nothing


def test_importing_the_package_imports_none_of_its_parts() -> None:
    program = "import sys, fluffle; print([name for name in sys.modules if name.startswith(('fluffle.', 'broker'))])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT) == "[]\n"


def test_the_arguments_of_the_client_are_the_fields_of_the_messages() -> None:
    assert TaskFields.__annotations__.keys() | {"description", "answers"} == Submission.model_fields.keys()
    assert TaskChanges.__annotations__.keys() | {"id"} == task_requests.Update.model_fields.keys()
    assert RetryChanges.__annotations__.keys() == task_requests.RetryPatch.model_fields.keys()
    assert Management.__annotations__.keys() | {"llm"} == task_requests.ManageLLM.model_fields.keys()


def test_the_synchronous_client_has_every_method_of_the_client() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert methods(SyncClient) == methods(Client)


def test_the_outcome_of_a_task_is_its_result_or_why_it_has_none() -> None:
    assert outcome(view(Status.COMPLETED, result=[1])) == [1]
    failure = Failure(type="broken", message="no ink")
    with pytest.raises(TaskFailed, match=r"^task t-1 failed: broken: no ink$"):
        outcome(view(Status.FAILED, error=failure))
    with pytest.raises(TaskCancelled, match=r"^task t-1 was cancelled$"):
        outcome(view(Status.CANCELLED))
    with pytest.raises(ValueError, match="not over"):
        outcome(view(Status.PENDING))


async def test_a_handle_that_is_accepted_waits_for_the_end() -> None:
    handle = TaskHandle(Outgoing("x", "y", b"", message_id="t-1"))
    waiting = asyncio.create_task(handle.result())
    handle.update(view(Status.PENDING))
    await handle.accepted()
    assert (handle.view.status, handle.unanswered, handle.is_over) == (Status.PENDING, None, False)
    handle.update(view(Status.COMPLETED, result="done"))
    assert await waiting == "done"


async def test_an_end_that_is_told_twice_is_one_end() -> None:
    handle = TaskHandle(Outgoing("x", "y", b"", message_id="t-1"))
    handle.update(view(Status.COMPLETED, result="first"))
    handle.update(view(Status.COMPLETED, result="second"))
    assert await handle.result() == "first"


async def test_giving_up_the_wait_leaves_the_handle_as_it_was() -> None:
    handle = TaskHandle(Outgoing("x", "y", b"", message_id="t-1"))
    handle.update(view(Status.PENDING))
    with pytest.raises(TimeoutError, match=r"task t-1 is pending after 0\.001 s"):
        await handle.end(0.001)
    handle.update(view(Status.COMPLETED, result="done"))
    assert await handle.result() == "done"


@pytest.mark.parametrize("error", [TaskRejected([]), ConnectionClosed()])
async def test_a_handle_that_failed_raises_why_wherever_it_is_waited_for(error: Any) -> None:
    handle = TaskHandle(Outgoing("x", "y", b"", message_id="t-1"))
    handle.fail(error)
    for waiting in (handle.accepted(), handle.end()):
        with pytest.raises(type(error)):
            await waiting
