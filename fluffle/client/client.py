"""The client: submit tasks, wait for them, ask about them. An AMQP client like any other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from broker.errors import QueryRejected, TaskRejected
from broker.ids import uuid7
from broker.protocol.chat import RecentIds, RepeatedTexts
from broker.protocol.queries import LLMsQuery, PlacementQuery, TaskQuery, TasksQuery
from broker.protocol.status import FINAL, Status
from broker.protocol.task_requests import AnswerQuestion, AssignTask, Cancel, ManageLLM, Retry, Submission, Update
from broker.protocol.topology import Binding
from broker.protocol.traceparent import tracing_for
from broker.protocol.views import LLMList, LLMView, Placement, TaskPage, TaskView
from broker.protocol.worker_reports import Progress
from fluffle.client.chat import Messaging, is_identity_required
from fluffle.client.conversion import made as _made
from fluffle.client.conversion import read as _read
from fluffle.client.events import ENDINGS, PROGRESS, TASK_EVENTS, Event, EventReader, standing, subscription
from fluffle.client.handle import TaskHandle
from fluffle.client.kwargs import Management, RetryChanges, TaskChanges, TaskFields
from fluffle.client.paging import every_llm
from fluffle.client.reports import Reporting
from fluffle.client.requests import AT_ONCE, Command, RequestClient, batched

if TYPE_CHECKING:
    from broker.telemetry.tracing import Tracing

_LIVE = [status for status in Status if status not in FINAL]
_UNANSWERED = 5_000  # most submissions of submit_many that await their answer


class Client(Messaging, Reporting):
    """A client of the coordinator, over RabbitMQ.

        async with Client() as client:
            task = await client.submit("Summarise the incident log", inputs={"text": log}, priority=7)
            print(await task.result())

    `url` is an AMQP URL; without one it is FLUFFLE_AMQP_URL, else the private node. `answer_timeout` is how many
    seconds the coordinator may take to answer before NoAnswer is raised. The connection is rebuilt by itself when
    it is lost, and what was missed meanwhile is asked for. `user` is who sends and gets messages, a name such as `ana`;
    without one it is FLUFFLE_USER, else the login name. Entering raises ConfigurationError, BrokerUnreachable or
    AccessRefused.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str = "fluffle client",
        answer_timeout: float = 30.0,
        user: str | None = None,
    ) -> None:
        self._url = url
        self._user = user
        self._taken = RecentIds()
        self._repeats = RepeatedTexts()
        self._name = name
        self._answer_timeout = answer_timeout
        self._request_client: RequestClient

    async def __aenter__(self) -> Self:
        self._url = self._url or _default_url()
        self._tracing = _tracing()
        tracing = None
        if self._tracing is not None:
            from fluffle.client.tracing import ClientTracing

            tracing = ClientTracing(self._tracing)
        self._request_client = RequestClient(self._url, self._name, self._answer_timeout, tracing)
        await self._request_client.__aenter__()
        return self

    async def __aexit__(self, *reason: Any) -> None:
        await self._request_client.__aexit__(*reason)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    @property
    def connected(self) -> bool:
        """Whether RabbitMQ is there at this moment."""
        return self._request_client.connected

    @property
    def blocked(self) -> str | None:
        """Why RabbitMQ takes no messages at the moment, such as `low on disk`; None as far as it is known to take them.

        What is sent meanwhile waits.
        """
        return self._request_client.link.blocked

    # -- submitting ------------------------------------------------------------------------------------------------

    async def submit(self, task: str | Submission, /, **fields: Unpack[TaskFields]) -> TaskHandle:
        """Submit a task, given by its description or whole, and wait until the coordinator has accepted it.

        An id is made when none is given. Submitting the same task with the same id again is harmless: the handle shows
        it as it stands now, and its `was_known` is true. Another task with a known id is rejected.
        Raises TaskRejected, NoAnswer (which says whether the task is in RabbitMQ and will be done when a coordinator
        comes), BrokerBlocked, PublishRefused, MessageTooLarge.
        """
        await self._request_client.room()
        handle = self._request_client.send(_submission(task, fields))
        await self._request_client.accepted(handle)
        return handle

    async def submit_many(self, tasks: Iterable[str | Submission]) -> AsyncIterator[TaskHandle | TaskRejected]:
        """Submit many tasks, thousands a second. Yields what became of each, in their order, once it is known.

        A task that is rejected is yielded as its TaskRejected, and the others go on. Raises NoAnswer,
        PublishRefused, MessageTooLarge.
        """
        under_way: deque[TaskHandle | TaskRejected] = deque()
        for task in tasks:
            await self._request_client.room()
            try:
                under_way.append(self._request_client.send(_submission(task, {})))
            except TaskRejected as rejected:
                under_way.append(rejected)
            while under_way and (_is_known(under_way[0]) or len(under_way) >= _UNANSWERED):
                yield await self._fate(under_way.popleft())
        while under_way:
            yield await self._fate(under_way.popleft())

    async def submit_plan(self, path: str | Path, *, run: str | None = None, **variables: Any) -> dict[str, TaskHandle]:
        """Submit the tasks of a plan, a TOML or YAML file, with values for its variables; returns them by name.

        Their ids begin with `run`, which is made when it is not given; a run that is submitted again is the same run.
        Raises ConfigurationError for a plan that makes no sense, TaskRejected when one of its tasks is rejected (the
        others are cancelled then), NoAnswer, PublishRefused, MessageTooLarge.
        """
        from fluffle.plans.plan import planned, submit

        _, tasks = await planned(Path(path), run, variables)
        return await submit(self, tasks)

    async def _fate(self, handle: TaskHandle | TaskRejected) -> TaskHandle | TaskRejected:
        if isinstance(handle, TaskRejected):
            return handle
        try:
            await self._request_client.accepted(handle)
        except TaskRejected as rejected:
            return rejected
        return handle

    # -- steering --------------------------------------------------------------------------------------------------

    async def assign(self, task_id: str, llm: str, *, now: bool = False, force: bool = False) -> TaskView:
        """Give a live task to an LLM by hand.

        A task that runs elsewhere is refused, or with `now` stopped there and moved. An LLM that nobody knows is
        refused, or with `force` waited for. Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(AssignTask, id=task_id, llm=llm, now=now, force=force)

    async def unassign(self, task_id: str, *, now: bool = False) -> TaskView:
        """Leave a live task that was given to an LLM by hand to the coordinator.

        An LLM that has it keeps it; with `now` it is stopped there and assigned anew. Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(AssignTask, id=task_id, now=now)

    async def update(self, task_id: str, **changes: Unpack[TaskChanges]) -> TaskView:
        """Change a live task. Fields that are not given stay as they are; `due=None` takes the due date away.

        Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(Update, id=task_id, **changes)

    async def cancel(self, task_id: str, reason: str | None = None) -> TaskView:
        """Cancel a live task; a running call is stopped. Its last attempt and its history tell what was stopped.

        Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(Cancel, id=task_id, reason=reason)

    async def retry(self, task_id: str, **changes: Unpack[RetryChanges]) -> TaskView:
        """Run a task that is over once more, with all its attempts, and with these fields in place of the present ones.

        Raises TaskRejected and NoAnswer.
        """
        return await self._task_command(Retry, id=task_id, changes=changes)

    async def answer(self, task_id: str, answer: str, *, question: str | None = None) -> TaskView:
        """Answer what a task asks a person. `question`, the id of one, is needed when it asks several.

        Raises TaskRejected when it asks nothing, or the answer is none of the choices, and NoAnswer.
        """
        return await self._task_command(AnswerQuestion, id=task_id, question=question, answer=answer)

    async def manage(self, llm: str, **settings: Unpack[Management]) -> LLMView:
        """Pause, resume, drain or forget an LLM, or set its slots and skills. What is not given stays as it is.

        `paused`: it finishes what it has and gets nothing new. `drain`: all its instances finish what they have, and
        leave. `forget`: see `forget`. `slots` is the most that all of them get together, `skills` are levels from 0 to
        1 by tag; None: as they say themselves. Raises TaskRejected and NoAnswer.
        """
        command = _made(ManageLLM, TaskRejected, llm=llm, **settings)
        return _read(LLMView, await self._request_client.command(command))

    async def pause(self, llm: str) -> LLMView:
        """Give an LLM nothing new until it is resumed. Raises TaskRejected and NoAnswer."""
        return await self.manage(llm, paused=True)

    async def resume(self, llm: str) -> LLMView:
        """Give a paused LLM work again. Raises TaskRejected and NoAnswer."""
        return await self.manage(llm, paused=False)

    async def drain(self, llm: str) -> LLMView:
        """Have all instances of an LLM finish what they have, and leave. Raises TaskRejected and NoAnswer."""
        return await self.manage(llm, drain=True)

    async def forget(self, llm: str) -> LLMView:
        """Take an LLM out of the list, with what was set by hand and learned of it; returns it as it was.

        Its tasks and their attempts stay as they are. If it says hello again, it is a new one. Raises TaskRejected for
        one that is not offline or has a task, and NoAnswer.
        """
        return await self.manage(llm, forget=True)

    async def _task_command(self, kind: type[Command], **values: Any) -> TaskView:
        command = _made(kind, TaskRejected, **values)
        return _read(TaskView, await self._request_client.command(command))

    # -- asking ----------------------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> TaskView:
        """One task with everything about it. Raises QueryRejected when there is none, and NoAnswer."""
        return _read(TaskView, await self.task_json(task_id))

    async def task_json(self, task_id: str) -> bytes:
        """One task as JSON, just as the coordinator sent it. Raises QueryRejected when there is none, and NoAnswer."""
        return await self._request_client.ask(_made(TaskQuery, QueryRejected, id=task_id))

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
        """Tasks that fit every filter, newest first, without their inputs and results; page by page, as you iterate.

        They hold the beginnings of long texts, and `left_out` tells what is missing: `task` has all of it.

        `status`: any of these; `llm`: done by it; `label`: having all of these; `text`: in the description;
        `within`: part of this task, or of its parts; `limit`: at most so many. Raises QueryRejected and NoAnswer.
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
        """A page of what `tasks` gives: at most `limit` (1 to 1,000); `before` is the `next` of the page before it.

        A page that holds much ends early: there are more tasks as long as `next` is not None.

        Raises QueryRejected and NoAnswer.
        """
        query = _made(
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
        return _read(TaskPage, await self._request_client.ask(query))

    async def llms(self) -> list[LLMView]:
        """Every LLM that has ever reported, by name. Raises NoAnswer."""
        return [view async for view in every_llm(self._request_client)]

    async def llm(self, name: str) -> LLMView:
        """One LLM. Raises QueryRejected when nobody of that name has ever reported, and NoAnswer."""
        query = _made(LLMsQuery, QueryRejected, name=name)
        return _read(LLMList, await self._request_client.ask(query)).llms[0]

    async def placement(self, description: str, /, **fields: Unpack[TaskFields]) -> Placement:
        """Who would get this task if it were submitted now, and why; or why nobody yet. Nothing is submitted.

        Raises QueryRejected for a task that would be rejected, and NoAnswer.
        """
        query = _made(PlacementQuery, QueryRejected, description=description, **fields)
        return _read(Placement, await self._request_client.ask(query))

    # -- waiting and watching --------------------------------------------------------------------------------------

    async def wait(self, *ids: str, label: str | None = None, timeout: float | None = None) -> list[TaskView]:
        """Wait until all these tasks are over, whoever submitted them; they come in the order of their ends.

        Raises QueryRejected for an unknown id, NoAnswer, and TimeoutError after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            return [view async for view in self.endings(*ids, label=label)]

    async def endings(self, *ids: str, label: str | None = None) -> AsyncIterator[TaskView]:
        """The tasks with these ids and those that have that label now, each as soon as it is over.

        Raises QueryRejected for an unknown id, and NoAnswer.
        """
        if not ids and label is None:
            return
        async with self._told(ENDINGS, ids, label, also_later=False) as events:
            async for event in events:
                if isinstance(event, Event) and event.data.status.is_final:
                    yield event.data

    def watch(
        self, *ids: str, label: str | None = None, progress: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Event | Progress]]:
        """What happens to the tasks with these ids and those with that label, until all are over.

            async with client.watch(label="nightly") as events:
                async for event in events: ...

        It begins with how each of them stands, and tells that again after RabbitMQ was away, so no end is missed,
        though one may be told twice. Where no task has the label yet, it waits for the first. With neither ids nor a
        label it is about all tasks, from now on, without end. With `progress`, it is also what the LLMs report while
        they work. Entering raises QueryRejected for an unknown id, and NoAnswer.
        """
        return self._told((*TASK_EVENTS, PROGRESS) if progress else TASK_EVENTS, ids, label, also_later=True)

    @asynccontextmanager
    async def _told(
        self, sources: Sequence[Binding], ids: Collection[str], label: str | None, *, also_later: bool
    ) -> AsyncIterator[AsyncIterator[Event | Progress]]:
        """With `also_later` also about tasks that get the label later."""
        assert self._url is not None, "a client is used inside `async with`"
        name, identity = f"{self._name} (watch)", is_identity_required()
        async with subscription(self._url, name, sources, require_identity=identity) as arrivals:
            hearing = EventReader(arrivals)
            if not ids and label is None:
                yield self._everything(hearing)
                return
            named = [view async for view in self._views(set(ids))]
            others = set() if label is None else {view.id async for view in self.tasks(label=[label])} - set(ids)
            yield self._chosen(hearing, named, others, label if also_later else None)

    async def _everything(self, hearing: EventReader) -> AsyncIterator[Event | Progress]:
        while True:
            if (told := await hearing.next()) is not None:
                yield told

    async def _chosen(
        self, hearing: EventReader, named: Sequence[TaskView], others: Collection[str], label: str | None
    ) -> AsyncIterator[Event | Progress]:
        live = {view.id for view in named} | set(others)
        begun = bool(live)
        for view in named:
            yield _noted(view, hearing, live)
        async for view in self._views(others):  # all of them would be too much to have at a time
            yield _noted(view, hearing, live)
        while live or (label is not None and not begun):
            told = await hearing.next()
            if told is None:
                if label is not None:
                    live |= {view.id async for view in self.tasks(label=[label], status=_LIVE)}
                async for view in self._views(list(live)):
                    begun = True
                    yield _noted(view, hearing, live)
            elif isinstance(told, Progress):
                if told.task_id in live:
                    yield told
            elif told.subject in live or (label in told.data.labels and not told.data.status.is_final):
                begun = True
                yield told
                (live.discard if told.data.status.is_final else live.add)(told.subject)

    async def _views(self, ids: Iterable[str]) -> AsyncIterator[TaskView]:
        for some in batched(ids, AT_ONCE):
            for view in await asyncio.gather(*(self.task(task_id) for task_id in some)):
                yield view


def _noted(view: TaskView, hearing: EventReader, live: set[str]) -> Event:
    """How a task stands, as an event. One that is over is no longer `live`."""
    hearing.note(view)
    if view.status.is_final:
        live.discard(view.id)
    return standing(view)


def _default_url() -> str:
    from broker.node.locate import amqp_url
    from broker.settings import load_settings

    return amqp_url(load_settings())


def _tracing() -> "Tracing | None":
    from broker.settings import load_settings

    return tracing_for("fluffle-client", wanted=load_settings().traces)


def _is_known(fate: TaskHandle | TaskRejected) -> bool:
    """Whether there is no answer to wait for."""
    return isinstance(fate, TaskRejected) or fate.unanswered is None


def _submission(task: str | Submission, fields: TaskFields) -> Submission:
    if isinstance(task, Submission):
        if not fields:
            return task if task.id is not None else task.model_copy(update={"id": uuid7()})
        values = {**task.model_dump(exclude_unset=True), **fields}
    else:
        values = {"description": task, **fields}
    if values.get("id") is None:
        values["id"] = uuid7()
    return _made(Submission, TaskRejected, **values)
