"""A Python function as an LLM."""

import asyncio
import contextvars
import importlib
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

from broker.errors import ConfigurationError, did_you_mean
from workers.models.base import DISK_FULL, Answer, Job, ModelError, TextCallback, Usage, UsageCallback, is_disk_full
from workers.models.output import check_schema, validate_output
from workers.tools.toolbox import Toolbox, ToolError

_log = logging.getLogger(__name__)


class HandlerLLM:
    """Calls `function(job)` once per job, or `function(job, tools)` when it has a parameter named `tools`.

    `tools` is a Toolbox, or a SyncToolbox if the function is not async. The function returns a value for JSON, or an
    Answer if it knows its usage. If another attempt cannot succeed, it raises ModelError with retryable=False. Every
    other exception is logged and becomes a retryable failure with the name of its class.

    An async function runs on the event loop of the worker and is cancelled when the job is stopped. Another function
    runs in a thread. Python cannot stop a thread: after a stop, the function runs on until it returns, and its result
    is dropped. It does not delay the end of the worker.
    """

    def __init__(self, spec: str) -> None:
        """`spec` is `package.module:function`, importable from the current directory too.

        Raises ConfigurationError if there is no such module or function, or if it does not take one argument.
        """
        self._function = _load(spec)
        self._is_async = any(map(inspect.iscoroutinefunction, (self._function, type(self._function).__call__)))
        self._takes_tools = _takes_tools(self._function)
        self._spec = spec

    @property
    def model(self) -> str:
        """`handler:` and the name of the function."""
        return f"handler:{self._spec}"

    async def run(self, job: Job, progress: TextCallback, toolbox: Toolbox | None = None) -> Answer:
        """Call the function, and check its result against the output schema.

        Raises ModelError: that of the function, or one with the name of another exception, `not_json` or
        `output_schema`.
        """
        check_schema(job.output_schema)
        try:
            returned = await self._call(job, toolbox)
        except ModelError:
            raise
        except (Exception, SystemExit) as error:
            raise _failure(error, job) from error
        answer = returned if isinstance(returned, Answer) else Answer(returned)
        return replace(answer, result=await validate_output(answer.result, job.output_schema))

    async def _call(self, job: Job, toolbox: Toolbox | None) -> Any:
        if not self._takes_tools:
            return await (self._function(job) if self._is_async else _in_thread(self._function, job))
        if self._is_async or toolbox is None:
            function = partial(self._function, tools=toolbox)
            return await (function(job) if self._is_async else _in_thread(function, job))
        with toolbox.blocking() as blocking:
            return await _in_thread(partial(self._function, tools=blocking), job)


async def _in_thread(function: Callable[[Job], Any], job: Job) -> Any:
    """Call the function in a thread that, unlike those of asyncio.to_thread, does not keep the process alive."""
    loop, report = asyncio.get_running_loop(), job.report_usage
    job = replace(job, report_usage=lambda usage: _report_soon(loop, report, usage))
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()

    def call() -> None:
        try:
            outcome.set_result(function(job))
        except ModelError as error:
            outcome.set_exception(error)
        except BaseException as error:
            # Converted here, because asyncio cannot transfer every exception, such as StopIteration.
            failure = _failure(error, job)
            failure.__cause__ = error
            outcome.set_exception(failure)

    threading.Thread(target=contextvars.copy_context().run, args=(call,), name=job.task_id, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _report_soon(loop: asyncio.AbstractEventLoop, report: UsageCallback, usage: Usage) -> None:
    """Report a usage from another thread. After the end of the loop, it is dropped."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(report, usage)


def _failure(error: BaseException, job: Job) -> ModelError:
    if is_disk_full(error):
        return ModelError(DISK_FULL, f"the function cannot write: {error}", retryable=True)
    if isinstance(error, ToolError):
        return ModelError("tool_failed", str(error), retryable=True)
    name = type(error).__name__
    _log.error("the handler raised %s on task %s", name, job.task_id, exc_info=error)
    return ModelError(name, str(error) or name, retryable=True)


def _load(spec: str) -> Callable[..., Any]:
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise ConfigurationError(f"--handler: expected package.module:function, got {spec!r}")
    found: Any = _import(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"--handler: {module_name} has no {path}{did_you_mean(name, dir(found))}")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigurationError(f"--handler: {spec} is of type {type(found).__name__} and cannot be called")
    tools = {"tools": object()} if _takes_tools(found) else {}
    try:
        inspect.signature(found).bind(object(), **tools)
    except TypeError as error:
        raise ConfigurationError(
            f"--handler: {spec} must take one argument, the job, and may take another one named tools: {error}"
        ) from error
    except ValueError:
        pass  # some callables written in C have no signature
    function: Callable[..., Any] = found
    return function


def _takes_tools(function: Callable[..., Any]) -> bool:
    try:
        tools = inspect.signature(function).parameters.get("tools")
    except ValueError:
        return False  # some callables written in C have no signature
    return tools is not None and tools.kind in (tools.POSITIONAL_OR_KEYWORD, tools.KEYWORD_ONLY)


def _import(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigurationError(f"--handler: no module named {error.name!r} (looked in {here} too)") from error
        raise ConfigurationError(f"--handler: importing {name} failed: {error}") from error
    except Exception as error:
        message = f"--handler: importing {name} failed: {type(error).__name__}: {error}"
        raise ConfigurationError(message) from error
