"""Waiting without a slot: an attempt that waits for a task it has delegated, or for a person, lets others work."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

from broker.futures import resolve
from broker.protocol.worker_reports import Question
from workers.execution.reporter import Reporter


class Slots:
    """The slots of an instance. An attempt that has waited gets one before those that have not begun."""

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        """`on_free` is called when a slot is free and nobody stands in line for it."""
        self._free = count
        self._line: deque[asyncio.Future[None]] = deque()
        self._on_free = on_free

    def take(self) -> bool:
        """Take a slot, if one is free."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take_in_turn(self) -> None:
        """Take a slot, as soon as one is free."""
        if self.take():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it came in the same moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """A slot is not needed any more."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        self._on_free()


class Suspensions:
    """What one attempt waits for, and the slot that it has while it does not wait.

    It may wait for several things at once; it needs a slot again when the last of them has come. The coordinator is
    told of every step, one after the other, so that it never knows of a later one before an earlier one.
    """

    def __init__(
        self,
        key: tuple[str, int],
        slots: Slots,
        reporter: Reporter,
        *,
        on_person: Callable[[bool], None],
    ) -> None:
        """`on_person` is called with True when it begins to wait for people, and with False when it does no longer."""
        self._key = key
        self._slots = slots
        self._reporter = reporter
        self._on_person = on_person
        self._has_slot = False
        self._is_over = False
        self._is_closed = False
        self._waits = 0
        self._turn = asyncio.Lock()
        self._questions: dict[str, tuple[Question, asyncio.Future[str]]] = {}
        self._asked = self._asking = 0
        self._since = self._total = 0.0

    def begin(self) -> None:
        """The attempt begins. A slot was taken for it."""
        self._has_slot = True

    @property
    def total(self) -> float:
        """For how many seconds it has waited."""
        return self._total + (monotonic() - self._since if self._since else 0.0)

    @property
    def asks(self) -> bool:
        """Whether it waits for a person."""
        return self._asking > 0

    @asynccontextmanager
    async def parked(self, question: Question | None = None) -> AsyncIterator[None]:
        """Wait for something inside. Entering gives the slot back, leaving takes one again."""
        await self._begin(question)
        try:
            yield
        finally:
            await self._end()

    async def ask(self, text: str, choices: Sequence[str]) -> str:
        """Ask a person and wait for the answer."""
        self._asked += 1
        question = Question(id=f"{self._key[1]}-{self._asked}", text=text, choices=list(choices))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._questions[question.id] = question, answer
        try:
            async with self.parked(question):
                with self._with_a_person():
                    return await answer
        finally:
            del self._questions[question.id]

    def answered(self, question: str, answer: str) -> None:
        """A person has answered. An answer that comes again changes nothing."""
        if question in self._questions:
            resolve(self._questions[question][1], answer)

    def ask_again(self) -> None:
        """After a reconnect: an answer may have been lost with the control queue."""
        for question, _ in self._questions.values():
            self._reporter.wait(*self._key, question)

    def give_up(self) -> None:
        """The attempt is being stopped: it is not to go on, so it takes no slot again."""
        self._is_over = True

    def close(self) -> None:
        """The attempt is over, and its slot is free."""
        self._is_over = self._is_closed = True
        if self._has_slot:
            self._give_back()

    @contextmanager
    def _with_a_person(self) -> Iterator[None]:
        self._asking += 1
        if self._asking == 1:
            self._on_person(True)
        try:
            yield
        finally:
            self._asking -= 1
            if self._asking == 0:
                self._on_person(False)

    async def _begin(self, question: Question | None) -> None:
        async with self._turn:
            self._waits += 1
            if self._is_over:
                return
            if self._has_slot or question is not None:
                await self._reporter.wait(*self._key, question)
            if self._has_slot:
                self._since = monotonic()
                self._give_back()

    async def _end(self) -> None:
        async with self._turn:
            self._waits -= 1
            if self._waits or self._is_over:
                return
            await self._reporter.resume(*self._key)
            await self._slots.take_in_turn()
            self._has_slot = True
            self._total, self._since = self.total, 0.0
            if self._is_closed:
                self._give_back()

    def _give_back(self) -> None:
        self._has_slot = False
        self._slots.give_back()
