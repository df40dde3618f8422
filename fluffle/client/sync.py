"""The client for programs without asyncio: the same client, on an event loop in a separate thread."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from broker.errors import TaskRejected
from broker.protocol.chat import MessageProgress
from broker.protocol.task_requests import Submission
from broker.protocol.views import MessageView, TaskView
from broker.protocol.worker_reports import Progress
from fluffle.client.client import Client
from fluffle.client.events import Event
from fluffle.client.handle import TaskHandle
from fluffle.client.kwargs import TaskFields

A = TypeVar("A", covariant=True)
P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a thread, from `start` to `close`."""

    def __init__(self) -> None:
        self._running: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def start(self) -> None:
        """Start the thread with a new loop."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fluffle client", daemon=True)
        thread.start()
        self._running = loop, thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine on the loop, and wait for its end. An interrupt of the wait cancels the coroutine."""
        if self._running is None:
            coroutine.close()
            raise AssertionError("use the client inside `with`")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running[0])
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Yield the items of an async iterator; each is fetched when it is requested."""

        async def fetch() -> T:
            return await anext(iterator)

        while True:
            try:
                item = self.run(fetch())
            except StopAsyncIteration:
                return
            yield item

    def close(self) -> None:
        """Stop the loop and its thread."""
        assert self._running is not None
        loop, thread = self._running
        self.run(loop.shutdown_asyncgens())
        self.run(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._running = None


class _Face(Generic[A]):
    """Wraps an object of the asynchronous client, with the loop that runs it."""

    def __init__(self, inner: A, loop: _Loop) -> None:
        self._inner = inner
        self._loop = loop


def _blocking(method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[_Face[A], P], T]:
    """Return a method that calls the async method and waits for its end."""

    @wraps(method)
    def call(self: _Face[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(method(self._inner, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Face[A], P], Iterator[T]]:
    """Return a method with an ordinary iterator in place of the async iterator."""

    @wraps(method)
    def call(self: _Face[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._loop.iterate(method(self._inner, *args, **kwargs))

    return call


class SyncTask(_Face[TaskHandle]):
    """A submitted task, for programs without asyncio: a `TaskHandle` whose methods wait."""

    @property
    def id(self) -> str:
        """The task's id."""
        return self._inner.id

    @property
    def view(self) -> TaskView:
        """The task as the coordinator last reported it to this client."""
        return self._inner.view

    result = _blocking(TaskHandle.result)
    end = _blocking(TaskHandle.end)


class SyncClient(_Face[Client]):
    """A `Client` for programs without asyncio: the same methods, each of which waits for its end.

        with SyncClient() as client:
            print(client.submit("Summarise the incident log", inputs={"text": log}).result())

    Several threads may share a client. `submit`, `submit_many` and `submit_plan` return `SyncTask`s.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str = "fluffle client",
        answer_timeout: float = 30.0,
        user: str | None = None,
    ) -> None:
        super().__init__(Client(url, name=name, answer_timeout=answer_timeout, user=user), _Loop())

    def __enter__(self) -> Self:
        self._loop.start()
        try:
            self._loop.run(self._inner.__aenter__())
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(self, *reason: Any) -> None:
        try:
            self._loop.run(self._inner.__aexit__(*reason))
        finally:
            self._loop.close()

    @property
    def connected(self) -> bool:
        """`Client.connected`."""
        return self._inner.connected

    @property
    def blocked(self) -> str | None:
        """`Client.blocked`."""
        return self._inner.blocked

    def submit(self, task: str | Submission, /, **fields: Unpack[TaskFields]) -> SyncTask:
        """`Client.submit`."""
        return SyncTask(self._loop.run(self._inner.submit(task, **fields)), self._loop)

    def submit_many(self, tasks: Iterable[str | Submission]) -> Iterator[SyncTask | TaskRejected]:
        """`Client.submit_many`."""
        for fate in self._loop.iterate(self._inner.submit_many(tasks)):
            yield fate if isinstance(fate, TaskRejected) else SyncTask(fate, self._loop)

    def submit_plan(self, path: str | Path, *, run: str | None = None, **variables: Any) -> dict[str, SyncTask]:
        """`Client.submit_plan`."""
        handles = self._loop.run(self._inner.submit_plan(path, run=run, **variables))
        return {name: SyncTask(handle, self._loop) for name, handle in handles.items()}

    assign = _blocking(Client.assign)
    unassign = _blocking(Client.unassign)
    update = _blocking(Client.update)
    cancel = _blocking(Client.cancel)
    retry = _blocking(Client.retry)
    answer = _blocking(Client.answer)
    manage = _blocking(Client.manage)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)
    drain = _blocking(Client.drain)
    forget = _blocking(Client.forget)
    task = _blocking(Client.task)
    task_json = _blocking(Client.task_json)
    tasks = _iterating(Client.tasks)
    task_page = _blocking(Client.task_page)
    llms = _blocking(Client.llms)
    llm = _blocking(Client.llm)
    placement = _blocking(Client.placement)
    report = _blocking(Client.report)
    reports = _blocking(Client.reports)
    save_report = _blocking(Client.save_report)
    drop_report = _blocking(Client.drop_report)
    limits = _blocking(Client.limits)
    manage_limit = _blocking(Client.manage_limit)
    budgets = _blocking(Client.budgets)
    manage_budget = _blocking(Client.manage_budget)
    stop_spending = _blocking(Client.stop_spending)
    allow_spending = _blocking(Client.allow_spending)
    wait = _blocking(Client.wait)
    endings = _iterating(Client.endings)
    send = _blocking(Client.send)
    ask = _blocking(Client.ask)
    inbox = _iterating(Client.inbox)
    join = _blocking(Client.join)
    leave = _blocking(Client.leave)
    messages = _iterating(Client.messages)
    conversations = _iterating(Client.conversations)

    @property
    def address(self) -> str:
        """`Client.address`."""
        return self._inner.address

    @contextmanager
    def listen(
        self, *, participant: str | None = None, progress: bool = False
    ) -> Iterator[Iterator[MessageView | MessageProgress]]:
        """`Client.listen`."""
        listening = self._inner.listen(participant=participant, progress=progress)
        said = self._loop.run(listening.__aenter__())
        try:
            yield self._loop.iterate(said)
        finally:
            self._loop.run(listening.__aexit__(None, None, None))

    @contextmanager
    def watch(
        self, *ids: str, label: str | None = None, progress: bool = False
    ) -> Iterator[Iterator[Event | Progress]]:
        """`Client.watch`."""
        watching = self._inner.watch(*ids, label=label, progress=progress)
        events = self._loop.run(watching.__aenter__())
        try:
            yield self._loop.iterate(events)
        finally:
            self._loop.run(watching.__aexit__(None, None, None))
