"""A Python function, sync or async, found by its name, is an LLM."""

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from broker.errors import ConfigurationError
from broker.protocol.assignments import Allowance
from broker.protocol.worker_reports import Usage
from workers.models.base import Answer, Job, ModelError
from workers.models.handler import HandlerLLM

Write = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module into the current directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])

    def write(source: str) -> str:
        name = f"handlers_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


async def run(llm: HandlerLLM, **job: Any) -> Answer:
    return await llm.run(Job("t-1", 2, "do it", **job), lambda text: None)


async def test_a_function_in_the_current_directory_gets_the_job_and_gives_the_answer(module: Write) -> None:
    name = module("def answer(job):\n    return {'did': job.description, 'try': job.attempt, 'of': (1, 2)}\n")
    answer = await run(HandlerLLM(f"{name}:answer"))
    assert answer == Answer({"did": "do it", "try": 2, "of": [1, 2]}, None)


async def test_a_sync_function_runs_beside_the_event_loop(module: Write) -> None:
    name = module(
        "import threading\n"
        "gate = threading.Event()\n"
        "def answer(job):\n"
        "    gate.wait(10)\n"
        "    return threading.current_thread() is threading.main_thread()\n"
    )
    llm = HandlerLLM(f"{name}:answer")
    both = asyncio.gather(run(llm), run(llm))
    await asyncio.sleep(0)  # the loop turns while both functions wait
    sys.modules[name].gate.set()
    assert [answer.result for answer in await both] == [False, False]


async def test_an_async_function_runs_on_the_event_loop(module: Write) -> None:
    name = module("import asyncio\nasync def answer(job):\n    return id(asyncio.get_running_loop())\n")
    assert (await run(HandlerLLM(f"{name}:answer"))).result == id(asyncio.get_running_loop())


async def test_a_method_and_an_object_that_can_be_called_are_handlers_too(module: Write) -> None:
    name = module(
        "class Bot:\n"
        "    def answer(self, job):\n"
        "        return 'method'\n"
        "    async def __call__(self, job):\n"
        "        return 'called'\n"
        "bot = Bot()\n"
    )
    assert (await run(HandlerLLM(f"{name}:bot.answer"))).result == "method"
    assert (await run(HandlerLLM(f"{name}:bot"))).result == "called"


async def test_a_function_can_report_its_usage(module: Write) -> None:
    name = module(
        "from workers.models.base import Answer, Usage\n"
        "def answer(job):\n"
        "    return Answer('done', Usage(input_tokens=3, output_tokens=4))\n"
    )
    assert await run(HandlerLLM(f"{name}:answer")) == Answer("done", Usage(input_tokens=3, output_tokens=4))


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        ("raise KeyError('x')", "KeyError", "'x'"),
        ("raise ValueError", "ValueError", "ValueError"),
        ("import sys; sys.exit('no')", "SystemExit", "no"),
    ],
)
async def test_an_exception_is_a_retryable_failure_with_its_name(
    kind: str, statement: str, error: str, message: str, module: Write, caplog: pytest.LogCaptureFixture
) -> None:
    name = module(f"{kind} answer(job):\n    {statement}\n")
    with pytest.raises(ModelError) as caught:
        await run(HandlerLLM(f"{name}:answer"))
    assert (caught.value.type, caught.value.message, caught.value.retryable) == (error, message, True)
    assert type(caught.value.__cause__).__name__ == error
    assert f"the handler raised {error} on task t-1" in caplog.text
    assert f'{name}.py", line 2, in answer' in caplog.text


async def test_an_exception_that_asyncio_cannot_carry_does_not_hang_the_job(module: Write) -> None:
    name = module("def answer(job):\n    raise StopIteration('over')\n")
    with pytest.raises(ModelError, match="over") as caught:
        await asyncio.wait_for(run(HandlerLLM(f"{name}:answer")), 5)
    assert caught.value.type == "StopIteration"


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_function_can_raise_a_failure_that_is_not_retryable(kind: str, module: Write) -> None:
    name = module(
        "from workers.models.base import ModelError\n"
        f"{kind} answer(job):\n"
        "    raise ModelError('unknown_customer', 'no customer 7', retryable=False)\n"
    )
    with pytest.raises(ModelError) as caught:
        await run(HandlerLLM(f"{name}:answer"))
    assert (caught.value.type, caught.value.message, caught.value.retryable) == (
        "unknown_customer",
        "no customer 7",
        False,
    )


async def test_a_result_that_is_not_json_is_refused_with_its_type(module: Write) -> None:
    name = module("def answer(job):\n    return {'when': object()}\n")
    with pytest.raises(ModelError, match="object is not JSON serializable") as caught:
        await run(HandlerLLM(f"{name}:answer"))
    assert caught.value.type == "not_json"


async def test_the_answer_must_satisfy_the_output_schema(module: Write) -> None:
    name = module("def answer(job):\n    return job.inputs\n")
    llm = HandlerLLM(f"{name}:answer")
    assert (await run(llm, inputs=3, output_schema={"type": "integer"})).result == 3
    with pytest.raises(ModelError, match="'3' is not of type 'integer'"):
        await run(llm, inputs="3", output_schema={"type": "integer"})


async def test_an_async_function_is_cancelled_when_its_job_is_stopped(module: Write) -> None:
    name = module(
        "import asyncio\n"
        "started, ended = asyncio.Event(), asyncio.Event()\n"
        "async def answer(job):\n"
        "    started.set()\n"
        "    try:\n"
        "        await asyncio.Event().wait()\n"
        "    finally:\n"
        "        ended.set()\n"
    )
    task = asyncio.create_task(run(HandlerLLM(f"{name}:answer")))
    await sys.modules[name].started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sys.modules[name].ended.is_set()


async def test_a_function_in_a_thread_sees_the_context_of_its_job(module: Write) -> None:
    name = module(
        "from contextvars import ContextVar\ntrace = ContextVar('trace')\ndef answer(job):\n    return trace.get()\n"
    )
    llm = HandlerLLM(f"{name}:answer")
    sys.modules[name].trace.set("00-4bf9")
    assert (await run(llm)).result == "00-4bf9"


async def test_a_stopped_job_does_not_wait_for_its_sync_function_and_drops_what_it_returns(
    module: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashes: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", crashes.append)
    name = module(
        "import threading\n"
        "started, gate = threading.Event(), threading.Event()\n"
        "def answer(job):\n"
        "    started.set()\n"
        "    gate.wait(10)\n"
    )
    task = asyncio.create_task(run(HandlerLLM(f"{name}:answer")))
    await asyncio.to_thread(lambda: sys.modules[name].started.wait(10))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    thread = next(it for it in threading.enumerate() if it.name == "t-1")
    sys.modules[name].gate.set()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert crashes == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{module}", "expected package.module:function, got"),
        (":answer", "expected package.module:function, got ':answer'"),
        ("no_such_module:answer", "no module named 'no_such_module' \\(looked in .* too\\)"),
        ("json.nothing:answer", "no module named 'json.nothing'"),
        ("{module}:anwser", "has no anwser; did you mean answer?"),
        ("{module}:NUMBER", "is of type int and cannot be called"),
        ("{module}:nothing_taken", "must take one argument, the job"),
        ("{module}:two_taken", "must take one argument, the job"),
    ],
)
def test_a_handler_that_cannot_be_called_is_found_at_once(spec: str, message: str, module: Write) -> None:
    name = module("NUMBER = 3\ndef answer(job): ...\ndef nothing_taken(): ...\ndef two_taken(job, more): ...\n")
    with pytest.raises(ConfigurationError, match=message):
        HandlerLLM(spec.format(module=name))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_installed_anywhere", "importing .* failed: No module named 'not_installed_anywhere'"),
        ("1 / 0", "importing .* failed: ZeroDivisionError: division by zero"),
        ("def (", "importing .* failed: SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(source: str, message: str, module: Write) -> None:
    with pytest.raises(ConfigurationError, match=message):
        HandlerLLM(f"{module(source)}:answer")


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_function_reports_what_it_has_used_so_far(kind: str, module: Write) -> None:
    name = module(
        "from workers.models.base import Usage\n"
        f"{kind} answer(job):\n"
        "    job.report_usage(Usage(input_tokens=3))\n"
        "    job.report_usage(Usage(input_tokens=9))\n"
        "    return job.budget.tokens\n"
    )
    reported: list[Usage] = []
    job = Job("t-1", 1, "d", budget=Allowance(tokens=500), report_usage=reported.append)
    assert (await HandlerLLM(f"{name}:answer").run(job, lambda text: None)).result == 500
    assert reported == [Usage(input_tokens=3), Usage(input_tokens=9)]


async def test_a_full_disk_is_told_as_that(module: Write) -> None:
    name = module("def answer(job):\n    open('/dev/full', 'wb', buffering=0).write(b'x')\n")
    with pytest.raises(ModelError) as caught:
        await run(HandlerLLM(f"{name}:answer"))
    assert (caught.value.type, caught.value.retryable) == ("disk_full", True)
