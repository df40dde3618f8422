"""The current state for all open pages: one shared client and one shared subscription.

An event says only that something has changed. A page then asks the coordinator for the new state, at most as often as
the page can show it. So the cost of a page does not depend on the number of events.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol, Self, Unpack

from pydantic_core import from_json

from broker.errors import FluffleError, NoAnswer
from broker.protocol.spending import BudgetList, LimitView
from broker.protocol.status import Status
from broker.protocol.topology import EVENTS, Binding
from broker.protocol.views import ConversationView, LLMView, MessageView, Placement, ReportView, TaskPage, TaskView
from fluffle.client.client import Client
from fluffle.client.events import PROGRESS, Gap, sender, subscription
from fluffle.client.kwargs import ReportFields, TaskFields

ANSWER_TIMEOUT_SECONDS = 10.0  # a person waits for the answer

_POLL_INTERVAL_SECONDS = 2.0  # between two queries for the LLMs, which also show whether a coordinator answers
_ABSENT_AFTER_SECONDS = 3.0  # without an answer
_SOURCES = (*(Binding(EVENTS, key, "") for key in ("task.#", "llm.#", "message.#", "limit.#", "budget.#")), PROGRESS)

DECODE_ERRORS = (ValueError, LookupError, TypeError, AttributeError)

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """The methods of the client that only read."""

    async def task(self, task_id: str) -> TaskView:
        """Return a task."""

    def tasks(
        self, *, status: Collection[Status] = (), within: str | None = None, limit: int | None = None
    ) -> AsyncIterator[TaskView]:
        """Yield tasks, the newest first."""

    async def task_page(
        self,
        *,
        status: Collection[Status] = (),
        llm: str | None = None,
        label: Collection[str] = (),
        text: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> TaskPage:
        """Return one page of tasks."""

    async def placement(self, description: str, /, **fields: Unpack[TaskFields]) -> Placement:
        """Return the LLM that would get such a task now, and the reason."""

    def messages(self, *, conversation_id: str | None = None, limit: int | None = None) -> AsyncIterator[MessageView]:
        """Yield messages, the newest first."""

    def conversations(self, *, limit: int | None = None) -> AsyncIterator[ConversationView]:
        """Yield conversations, the newest first."""

    async def report(self, name: str | None = None, **fields: Unpack[ReportFields]) -> ReportView:
        """Return a report."""

    async def limits(self) -> list[LimitView]:
        """Return the rate limits."""

    async def budgets(self) -> BudgetList:
        """Return the budgets, and whether all spending is stopped."""


@dataclass(frozen=True, slots=True)
class Update:
    """A change that pages can listen for.

    `about` is its kind. `task`, `llm`, `message`, `limit` and `budget` are events, and `what` is the rest of the
    event's type. `progress` is new text of a task and `writing` of the answer to a message; `what` is the LLM that
    wrote it. `state` comes from `Live` itself: the LLMs, or the availability of coordinator and RabbitMQ, have changed.
    `subject` is the id of the task or message, or the name of the LLM, limit or budget. `data` is the content of the
    event.
    """

    about: str
    what: str = ""
    subject: str = ""
    event_id: str = ""
    data: Any = None


Listener = Callable[[Update], None]


@dataclass(eq=False, slots=True)
class _Subscription:
    on_update: Listener
    about: frozenset[str]


@dataclass(slots=True)
class Live:
    """The shared client, its subscription and the listeners of the pages.

    Use it as a context manager. Entering raises ConfigurationError or BrokerUnreachable.
    """

    url: str
    _: KW_ONLY
    require_identity: bool = False
    llms: list[LLMView] = field(default_factory=list)
    trouble: str | None = None
    _client: Client = field(init=False)
    _subscriptions: set[_Subscription] = field(default_factory=set)
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self._client = Client(self.url, name="fluffle web", answer_timeout=ANSWER_TIMEOUT_SECONDS)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._client)
            listening = subscription(self.url, "fluffle web (events)", _SOURCES, require_identity=self.require_identity)
            arrivals = await opening.enter_async_context(listening)
            await self._poll()
            for work in (self._receive(arrivals), self._keep_polling()):
                await opening.enter_async_context(_in_background(work))
            self._running = opening.pop_all()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._running.aclose()

    # -- for pages -------------------------------------------------------------------------------------------------

    @property
    def reader(self) -> Reader:
        """The client, for reading."""
        return self._client

    @property
    def client(self) -> Client:
        """The client, for changes. Only `PageContext.act` uses it, which checks the visitor's role first."""
        return self._client

    def llm(self, name: str) -> LLMView | None:
        """Return an LLM as of the last poll."""
        return next((llm for llm in self.llms if llm.name == name), None)

    def listen(self, about: Collection[str], on_update: Listener) -> Callable[[], None]:
        """Call `on_update`, which must not block, with each update of these kinds. Returns a function that ends it."""
        added = _Subscription(on_update, frozenset(about))
        self._subscriptions.add(added)
        return lambda: self._subscriptions.discard(added)

    # -- updates --------------------------------------------------------------------------------------------------

    async def _receive(self, arrivals: "asyncio.Queue[Any]") -> None:
        while True:
            arrival = await arrivals.get()
            if isinstance(arrival, Gap):
                self._publish(Update("state", "missed"))
                continue
            arrival.ack()
            try:
                update = read(arrival.exchange, arrival.routing_key, arrival.body)
            except DECODE_ERRORS as error:
                _log.warning("ignored an invalid message of %s: %s", arrival.exchange, error)
            else:
                self._publish(update)

    def _publish(self, update: Update) -> None:
        for listener in list(self._subscriptions):
            if update.about in listener.about:
                listener.on_update(update)

    async def _keep_polling(self) -> None:
        while True:
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)
            await self._poll()

    async def _poll(self) -> None:
        """Ask for the LLMs, and so find out whether a coordinator answers."""
        llms, trouble = self.llms, None
        try:
            async with asyncio.timeout(_ABSENT_AFTER_SECONDS):
                llms = await self._client.llms()
        except (TimeoutError, NoAnswer):
            trouble = "coordinator" if self._client.connected else "RabbitMQ"
            if blocked := self._client.blocked:
                trouble = f"RabbitMQ accepts no messages: {blocked}. New tasks and changes wait."
        except FluffleError as error:
            _log.warning("the query for the LLMs failed: %s", error)
            trouble = "coordinator"
        back = self.trouble is not None and trouble is None
        changed = llms != self.llms or trouble != self.trouble
        self.llms, self.trouble = llms, trouble
        if changed:
            self._publish(Update("state", "missed" if back else "polled"))


def read(exchange: str, routing_key: str, body: bytes) -> Update:
    """Return the update in a message of the subscription. An invalid message raises one of DECODE_ERRORS."""
    content = from_json(body)
    if exchange != EVENTS:
        about, key = ("writing", "message_id") if "message_id" in content else ("progress", "task_id")
        return Update(about, sender(routing_key), str(content[key]), data=content)
    about, _, rest = routing_key.partition(".")
    subject = str(content.get("subject") or "")
    return Update(about, rest.partition(".")[0], subject, str(content.get("id") or ""), content.get("data"))


class RateLimitedRefresh:
    """Calls `refresh` after a nudge: at once, or `every` seconds after the last refresh; never twice at the same time.

    After the last nudge, there is always one more refresh.
    """

    def __init__(self, refresh: Callable[[], Awaitable[None]], every: float) -> None:
        self._refresh = refresh
        self._every = every
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Ask for a refresh."""
        self._nudged.set()

    async def run(self) -> None:
        """Refresh after nudges until cancelled."""
        while True:
            await self._nudged.wait()
            self._nudged.clear()
            await self._refresh()
            await asyncio.sleep(self._every)


@asynccontextmanager
async def _in_background(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
