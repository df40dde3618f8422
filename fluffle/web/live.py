"""What is known at this moment: one client and one subscription, which all open pages share.

Events only say that something has changed; what it is now is asked of the coordinator, and not more often than a
page can show it. So a page costs the same however much is going on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, Unpack

from pydantic_core import from_json

from broker.errors import FluffleError, NoAnswer
from broker.protocol.status import Status
from broker.protocol.topology import EVENTS, Binding
from broker.protocol.views import ConversationView, LLMView, MessageView, Placement, ReportView, TaskPage, TaskView
from fluffle.client.chat import is_identity_required
from fluffle.client.client import Client
from fluffle.client.events import PROGRESS, Gap, sender, subscription
from fluffle.client.kwargs import ReportFields, TaskFields

ANSWER_TIMEOUT = 10.0  # seconds: somebody is waiting

_LOOK_EVERY = 2.0  # seconds between two looks at the LLMs, by which the coordinator's absence is noticed too
_ABSENT_AFTER = 3.0  # seconds without an answer
_SOURCES = (*(Binding(EVENTS, key, "") for key in ("task.#", "llm.#", "message.#")), PROGRESS)

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """The part of the client that only reads."""

    async def task(self, task_id: str) -> TaskView: ...
    def tasks(
        self, *, status: Collection[Status] = (), within: str | None = None, limit: int | None = None
    ) -> AsyncIterator[TaskView]: ...
    async def task_page(
        self,
        *,
        status: Collection[Status] = (),
        llm: str | None = None,
        label: Collection[str] = (),
        text: str | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> TaskPage: ...
    async def placement(self, description: str, /, **fields: Unpack[TaskFields]) -> Placement: ...
    def messages(
        self, *, conversation_id: str | None = None, limit: int | None = None
    ) -> AsyncIterator[MessageView]: ...
    def conversations(self, *, limit: int | None = None) -> AsyncIterator[ConversationView]: ...
    async def report(self, name: str | None = None, **fields: Unpack[ReportFields]) -> ReportView: ...


@dataclass(frozen=True, slots=True)
class Update:
    """Something that was told: `about` is what, and `what` the rest of its kind.

    `task`, `llm` and `message` are events; `progress` is text of a task, `writing` of the answer to a message, and
    `what` is then the LLM that it comes from; `state` is told by us: what is known of the LLMs, or who is away, has
    changed. `subject` is the id of the task or message, or the name of the LLM; `data` is what came with it.
    """

    about: str
    what: str = ""
    subject: str = ""
    event_id: str = ""
    data: Any = None


Hear = Callable[[Update], None]


@dataclass(eq=False, slots=True)
class _Listener:
    hear: Hear
    about: frozenset[str]


@dataclass(slots=True)
class Live:
    """One client, one subscription, and whoever listens. Entering raises ConfigurationError, BrokerUnreachable."""

    url: str
    llms: list[LLMView] = field(default_factory=list)
    trouble: str | None = None
    _client: Client = field(init=False)
    _listeners: set[_Listener] = field(default_factory=set)
    _running: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self._client = Client(self.url, name="fluffle web", answer_timeout=ANSWER_TIMEOUT)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._client)
            listening = subscription(
                self.url, "fluffle web (events)", _SOURCES, require_identity=is_identity_required()
            )
            arrivals = await opening.enter_async_context(listening)
            await self._look()
            for work in (self._hear(arrivals), self._keep_looking()):
                await opening.enter_async_context(_in_background(work))
            self._running = opening.pop_all()
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self._running.aclose()

    # -- what pages use --------------------------------------------------------------------------------------------

    @property
    def books(self) -> Reader:
        """The client, to read with."""
        return self._client

    @property
    def hands(self) -> Client:
        """The client, to change with. Only `Desk.act` takes it, which asks first who wants to."""
        return self._client

    def llm(self, name: str) -> LLMView | None:
        """An LLM as it was at the last look."""
        return next((llm for llm in self.llms if llm.name == name), None)

    def listen(self, about: Collection[str], hear: Hear) -> Callable[[], None]:
        """Call `hear` with all that is told about these. Returns what ends it. `hear` must not block."""
        listener = _Listener(hear, frozenset(about))
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    # -- what comes in ---------------------------------------------------------------------------------------------

    async def _hear(self, arrivals: "asyncio.Queue[Any]") -> None:
        while True:
            arrival = await arrivals.get()
            if isinstance(arrival, Gap):
                self._tell(Update("state", "missed"))
                continue
            arrival.ack()
            try:
                told = read(arrival.exchange, arrival.routing_key, arrival.body)
            except UNREADABLE as error:
                _log.warning("ignored a message of %s that cannot be read: %s", arrival.exchange, error)
            else:
                self._tell(told)

    def _tell(self, told: Update) -> None:
        for listener in list(self._listeners):
            if told.about in listener.about:
                listener.hear(told)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            await self._look()

    async def _look(self) -> None:
        """See how the LLMs are, and so whether anybody answers."""
        llms, trouble = self.llms, None
        try:
            async with asyncio.timeout(_ABSENT_AFTER):
                llms = await self._client.llms()
        except (TimeoutError, NoAnswer):
            trouble = "coordinator" if self._client.connected else "RabbitMQ"
            if blocked := self._client.blocked:
                trouble = f"RabbitMQ takes no messages: {blocked}. What you submit or change waits."
        except FluffleError as error:
            _log.warning("the LLMs cannot be asked for: %s", error)
            trouble = "coordinator"
        back = self.trouble is not None and trouble is None
        changed = llms != self.llms or trouble != self.trouble
        self.llms, self.trouble = llms, trouble
        if changed:
            self._tell(Update("state", "missed" if back else "looked"))


def read(exchange: str, routing_key: str, body: bytes) -> Update:
    """What a message of the subscription tells. Another one raises one of UNREADABLE."""
    content = from_json(body)
    if exchange != EVENTS:
        about, key = ("writing", "message_id") if "message_id" in content else ("progress", "task_id")
        return Update(about, sender(routing_key), str(content[key]), data=content)
    about, _, rest = routing_key.partition(".")
    subject = str(content.get("subject") or "")
    return Update(about, rest.partition(".")[0], subject, str(content.get("id") or ""), content.get("data"))


class Paced:
    """Calls `refresh` after a nudge: at once, but `every` seconds after the last time, and never twice at a time.

    However many nudges come, the last one is always followed by a refresh that begins after it.
    """

    def __init__(self, refresh: Callable[[], Awaitable[None]], every: float) -> None:
        self._refresh = refresh
        self._every = every
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Something has changed."""
        self._nudged.set()

    async def run(self) -> None:
        """Refresh after nudges, without end."""
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
