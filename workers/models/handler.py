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
from functools import partial
from types import ModuleType
from typing import Any

from broker.errors import ConfigurationError, did_you_mean
from workers.models.base import Answer, Job, ModelError, Progress
from workers.models.output import check_schema, validate_output
from workers.tools.toolbox import Toolbox, ToolError

_log = logging.getLogger(__name__)


class HandlerLLM:
    """Calls `function(job)` once per job, or `function(job, tools)` when it has a parameter named `tools`.

    The function takes a Job, and a Desk (a BlockingDesk if it is not async), and returns what JSON has a form for, or
    an Answer when it knows its usage. It says that another attempt cannot help by raising ModelError with
    retryable=False; any other exception is logged and is a failure, named by its class, that another attempt may mend.

    An async function runs on the worker's event loop and is cancelled when the job is stopped. Any other runs in
    a thread. Python cannot stop a thread: when the job is stopped, the function goes on in the background until
    it returns, and what it returns is dropped. It does not hold up the end of the worker.
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
        """`handler:` and the function's place."""
        return f"handler:{self._spec}"

    async def run(self, job: Job, progress: Progress, toolbox: Toolbox | None = None) -> Answer:
        """The function's answer, checked against the output schema.

        Raises ModelError: the function's own, one named after the exception it raised, `not_json` or
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
        return Answer(await validate_output(answer.result, job.output_schema), answer.usage)

    async def _call(self, job: Job, toolbox: Toolbox | None) -> Any:
        if not self._takes_tools:
            return await (self._function(job) if self._is_async else _in_thread(self._function, job))
        if self._is_async or toolbox is None:
            function = partial(self._function, tools=toolbox)
            return await (function(job) if self._is_async else _in_thread(function, job))
        with toolbox.blocking() as blocking:
            return await _in_thread(partial(self._function, tools=blocking), job)


async def _in_thread(function: Callable[[Job], Any], job: Job) -> Any:
    """Like asyncio.to_thread, but a call that never returns keeps neither a pool's thread nor the process."""
    outcome: Future[Any] = Future()
    outcome.set_running_or_notify_cancel()

    def call() -> None:
        try:
            outcome.set_result(function(job))
        except ModelError as error:
            outcome.set_exception(error)
        except BaseException as error:
            # Mapped here because asyncio cannot carry every exception, StopIteration for one.
            failure = _failure(error, job)
            failure.__cause__ = error
            outcome.set_exception(failure)

    threading.Thread(target=contextvars.copy_context().run, args=(call,), name=job.task_id, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def _failure(error: BaseException, job: Job) -> ModelError:
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
        pass  # some callables written in C do not tell their signature
    function: Callable[..., Any] = found
    return function


def _takes_tools(function: Callable[..., Any]) -> bool:
    try:
        tools = inspect.signature(function).parameters.get("tools")
    except ValueError:
        return False  # some callables written in C do not tell their signature
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
