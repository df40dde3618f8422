"""The asynchronous client: submit tasks, wait for them, steer them, query. It speaks AMQP like any other client."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Unpack

from broker.errors import QueryRejected, TaskRejected
from broker.ids import uuid7
from broker.protocol.queries import LLMsQuery, PlacementQuery, TaskQuery, TasksQuery
from broker.protocol.status import Status
from broker.protocol.task_requests import (
    AnswerQuestion,
    AssignTask,
    Cancel,
    ManageLLM,
    Retry,
    Submission,
    Update,
)
from broker.protocol.topology import Binding
from broker.protocol.views import LLMList, LLMView, Placement, TaskPage, TaskView
from broker.protocol.worker_reports import Progress
from fluffle.client.events import ENDINGS, PROGRESS, TASK_EVENTS, Event, TaskWatch, subscription
from fluffle.client.handle import Submitted, TaskHandle
from fluffle.client.kwargs import LLMChanges, RetryChanges, TaskChanges, TaskFields
from fluffle.client.methods.chat import ChatMethods
from fluffle.client.methods.reports import ReportMethods
from fluffle.client.methods.spending import SpendingMethods
from fluffle.client.requests import Command, every_llm, made, read

_MAX_UNANSWERED = 5_000  # submissions of submit_many


class Client(ChatMethods, ReportMethods, SpendingMethods):
    """A client of the coordinator, over RabbitMQ.

        async with Client() as client:
            task = await client.submit("Summarise the incident log", inputs={"text": log}, priority=7)
            print(await task.result())

    `url` is an AMQP URL, by default FLUFFLE_AMQP_URL, else the private node. `answer_timeout` is the number of seconds
    after which a request without an answer raises NoAnswer. `user` is the name under which messages are sent and
    received, such as `ana`, by default FLUFFLE_USER, else the login name. A lost connection is opened again, and the
    client queries what it missed. Entering raises ConfigurationError, BrokerUnreachable or AccessRefused.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str = "fluffle client",
        answer_timeout: float = 30.0,
        user: str | None = None,
    ) -> None:
        super().__init__(url, name=name, answer_timeout=answer_timeout, user=user)

    # -- submitting ------------------------------------------------------------------------------------------------

    async def submit(self, task: str | Submission, /, **fields: Unpack[TaskFields]) -> TaskHandle:
        """Submit a task, a description with fields or a Submission, and wait until the coordinator accepts it.

        A task without an ID gets one. To submit the same task with the same ID again is harmless: the handle shows the
        task as it is now, and `was_known` is true. Another task with a known ID is rejected. Raises TaskRejected,
        NoAnswer (whose text says whether the task is in RabbitMQ and will be done later), BrokerBlocked, PublishRefused
        and MessageTooLarge.
        """
        await self._request_client.room()
        handle = self._request_client.send(_submission(task, fields))
        await self._request_client.accepted(handle)
        return handle

    async def submit_many(self, tasks: Iterable[str | Submission]) -> AsyncIterator[TaskHandle | TaskRejected]:
        """Submit many tasks, thousands per second. Yields a handle or TaskRejected for each task, in their order.

        A rejected task does not stop the others. Raises NoAnswer, PublishRefused and MessageTooLarge.
        """
        under_way: deque[Submitted | TaskRejected] = deque()
        for task in tasks:
            await self._request_client.room()
            try:
                under_way.append(self._request_client.send(_submission(task, {})))
            except TaskRejected as rejected:
                under_way.append(rejected)
            while under_way and (_is_answered(under_way[0]) or len(under_way) >= _MAX_UNANSWERED):
                yield await self._answered(under_way.popleft())
        while under_way:
            yield await self._answered(under_way.popleft())

    async def submit_plan(self, path: str | Path, *, run: str | None = None, **variables: Any) -> dict[str, TaskHandle]:
        """Submit the tasks of a plan, a TOML or YAML file, with values for its variables. Returns the handles by name.

        The IDs of the tasks begin with `run`, by default a new one; to submit the same run again is harmless. Raises
        ConfigurationError for a wrong plan, TaskRejected when one of its tasks is rejected (the others are cancelled
        then), NoAnswer, PublishRefused and MessageTooLarge.
        """
        from fluffle.plans.plan import planned
        from fluffle.plans.submission import submit

        _, tasks = await planned(Path(path), run, variables)
        return await submit(self, tasks)

    async def _answered(self, handle: Submitted | TaskRejected) -> TaskHandle | TaskRejected:
        if isinstance(handle, TaskRejected):
            return handle
        try:
            await self._request_client.accepted(handle)
        except TaskRejected as rejected:
            return rejected
        return handle

    # -- steering --------------------------------------------------------------------------------------------------

    async def assign(self, task_id: str, llm: str, *, now: bool = False, force: bool = False) -> TaskView:
        """Assign a live task to an LLM by hand.

        A task that another LLM runs is stopped there and moved with `now`, and rejected without it. A task for an
        unknown LLM waits for it with `force`, and is rejected without it. Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(AssignTask, id=task_id, llm=llm, now=now, force=force)

    async def unassign(self, task_id: str, *, now: bool = False) -> TaskView:
        """Let the coordinator choose the LLM for a live task that was assigned by hand.

        An LLM that already runs the task keeps it; with `now`, the task is stopped there and assigned again. Raises
        TaskRejected and NoAnswer.
        """
        return await self._task_command(AssignTask, id=task_id, now=now)

    async def update(self, task_id: str, **changes: Unpack[TaskChanges]) -> TaskView:
        """Change a live task. Other fields keep their values; `due=None` removes the due date.

        Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(Update, id=task_id, **changes)

    async def cancel(self, task_id: str, reason: str | None = None) -> TaskView:
        """Cancel a live task, and stop its running attempt. The last attempt and the history show what was stopped.

        Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(Cancel, id=task_id, reason=reason)

    async def retry(self, task_id: str, **changes: Unpack[RetryChanges]) -> TaskView:
        """Run a finished task again, with all its attempts. `changes` replace fields of the task.

        Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(Retry, id=task_id, changes=changes)

    async def answer(self, task_id: str, answer: str, *, question: str | None = None) -> TaskView:
        """Answer the question of a task to a person. `question` is its ID, required when the task asks several.

        Raises TaskRejected when the task asks nothing or the answer is none of the choices, and NoAnswer.
        """
        return await self._task_command(AnswerQuestion, id=task_id, question=question, answer=answer)

    async def manage(self, llm: str, **settings: Unpack[LLMChanges]) -> LLMView:
        """Pause, resume, drain or forget an LLM, or set its properties. Other settings keep their values.

        `paused`: the LLM finishes its tasks and gets no others; false also closes its circuit breaker. `drain`: all its
        instances finish their tasks and leave. `forget`: see `forget`. `slots` limits all instances together; `skills`
        maps tags to levels from 0 to 1. `local`: it sends no data to other machines. `reserve`, `spill` and
        `spill_after` in seconds: when it gets tasks. None restores the values that the instances report. Raises
        TaskRejected and NoAnswer.
        """
        command = made(ManageLLM, TaskRejected, llm=llm, **settings)
        return read(LLMView, await self._request_client.command(command))

    async def pause(self, llm: str) -> LLMView:
        """Assign no more tasks to an LLM until it is resumed. Raises TaskRejected and NoAnswer."""
        return await self.manage(llm, paused=True)

    async def resume(self, llm: str) -> LLMView:
        """Assign tasks to a paused LLM again, and close its circuit breaker. Raises TaskRejected and NoAnswer."""
        return await self.manage(llm, paused=False)

    async def drain(self, llm: str) -> LLMView:
        """Let all instances of an LLM finish their tasks and leave. Raises TaskRejected and NoAnswer."""
        return await self.manage(llm, drain=True)

    async def forget(self, llm: str) -> LLMView:
        """Delete an LLM from the list, with its settings and learned figures. Returns its last state.

        Its tasks and their attempts stay in the database. If the LLM connects again, it is a new one. Raises
        TaskRejected for an LLM that is not offline or has a task, and NoAnswer.
        """
        return await self.manage(llm, forget=True)

    async def _task_command(self, kind: type[Command], **values: Any) -> TaskView:
        command = made(kind, TaskRejected, **values)
        return read(TaskView, await self._request_client.command(command))

    # -- asking ----------------------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> TaskView:
        """Return a task with all its fields. Raises QueryRejected for an unknown ID, and NoAnswer."""
        return read(TaskView, await self.task_json(task_id))

    async def task_json(self, task_id: str) -> bytes:
        """Return a task as the JSON that the coordinator sent. Raises QueryRejected for an unknown ID, and NoAnswer."""
        return await self._request_client.ask(made(TaskQuery, QueryRejected, id=task_id))

    async def tasks(
        self,
        *,
        status: Collection[Status] = (),
        llm: str | None = None,
        label: Collection[str] = (),
        text: str | None = None,
        within: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[TaskView]:
        """Yield the tasks that match all filters, newest first. Pages are fetched as needed.

        The tasks have no inputs and results, and long texts are cut; `left_out` names what is missing, and `task`
        returns all of it.

        Filters: `status`, any of these; `llm`, the LLM that does the task; `label`, all of these; `text`, a part of
        the description; `within`, the descendants of this task. `limit` is the most tasks to yield. Raises
        QueryRejected and NoAnswer.
        """
        left, before = limit, None
        while left is None or left > 0:
            size = 1000 if left is None else min(left, 1000)
            page = await self.task_page(
                status=status, llm=llm, label=label, text=text, within=within, limit=size, before=before
            )
            for view in page.tasks:
                yield view
            if (before := page.next) is None:
                return
            left = None if left is None else left - len(page.tasks)

    async def task_page(
        self,
        *,
        status: Collection[Status] = (),
        llm: str | None = None,
        label: Collection[str] = (),
        text: str | None = None,
        within: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> TaskPage:
        """Return a page of the tasks that `tasks` yields: at most `limit`, 1 to 1,000.

        `before` is the `next` of the previous page. A page of large tasks ends early: more tasks follow as long as
        `next` is not None. Raises QueryRejected and NoAnswer.
        """
        query = made(
            TasksQuery,
            QueryRejected,
            status=list(status),
            llm=llm,
            label=list(label),
            text=text,
            within=within,
            limit=limit,
            before=before,
        )
        return read(TaskPage, await self._request_client.ask(query))

    async def llms(self) -> list[LLMView]:
        """Return every LLM that has ever reported, by name. Raises NoAnswer."""
        return [view async for view in every_llm(self._request_client)]

    async def llm(self, name: str) -> LLMView:
        """Return an LLM. Raises QueryRejected when no LLM of that name has ever reported, and NoAnswer."""
        query = made(LLMsQuery, QueryRejected, name=name)
        return read(LLMList, await self._request_client.ask(query)).llms[0]

    async def placement(self, description: str, /, **fields: Unpack[TaskFields]) -> Placement:
        """Return which LLM would get this task now, and why; or why none would. The task is not submitted.

        Raises QueryRejected for a task that would be rejected, and NoAnswer.
        """
        query = made(PlacementQuery, QueryRejected, description=description, **fields)
        return read(Placement, await self._request_client.ask(query))

    # -- waiting and watching --------------------------------------------------------------------------------------

    async def wait(self, *ids: str, label: str | None = None, timeout: float | None = None) -> list[TaskView]:
        """Wait until all these tasks are over, and return them in the order of their ends.

        Any program may have submitted them. Raises QueryRejected for an unknown ID, NoAnswer, and TimeoutError after
        `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            return [view async for view in self.endings(*ids, label=label)]

    async def endings(self, *ids: str, label: str | None = None) -> AsyncIterator[TaskView]:
        """Yield the tasks with these IDs, and those that have the label now, each when it is over.

        Raises QueryRejected for an unknown ID, and NoAnswer.
        """
        if not ids and label is None:
            return
        async with self._watching(ENDINGS, ids, label, also_later=False) as events:
            async for event in events:
                if isinstance(event, Event) and event.data.status.is_final:
                    yield event.data

    def watch(
        self, *ids: str, label: str | None = None, progress: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Event | Progress]]:
        """Receive the events of the tasks with these IDs and of those with the label, until all are over.

            async with client.watch(label="nightly") as events:
                async for event in events: ...

        The first events show the present status of each task. They are repeated after RabbitMQ was away, so that no
        end is missed; an end can arrive twice. If no task has the label yet, the watch waits for the first. Without IDs
        and label, it yields the events of all tasks from now on, without end. With `progress`, it also yields what the
        LLMs report while they work. Entering raises QueryRejected for an unknown ID, and NoAnswer.
        """
        return self._watching((*TASK_EVENTS, PROGRESS) if progress else TASK_EVENTS, ids, label, also_later=True)

    @asynccontextmanager
    async def _watching(
        self, sources: Sequence[Binding], ids: Collection[str], label: str | None, *, also_later: bool
    ) -> AsyncIterator[AsyncIterator[Event | Progress]]:
        name, identity = f"{self._name} (watch)", self._settings.require_identity
        async with subscription(self._url, name, sources, require_identity=identity) as arrivals:
            yield await TaskWatch(self, arrivals, ids, label, also_later=also_later).events()


def _is_answered(submitted: Submitted | TaskRejected) -> bool:
    """Return whether there is no answer to wait for."""
    return isinstance(submitted, TaskRejected) or submitted.unanswered is None


def _submission(task: str | Submission, fields: TaskFields) -> Submission:
    if isinstance(task, Submission):
        if not fields:
            return task if task.id is not None else task.model_copy(update={"id": uuid7()})
        values = {**task.model_dump(exclude_unset=True), **fields}
    else:
        values = {"description": task, **fields}
    if values.get("id") is None:
        values["id"] = uuid7()
    return made(Submission, TaskRejected, **values)
