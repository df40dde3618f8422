"""Waits without a slot: an attempt that waits for a delegated task or a person frees its slot for others."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from time import monotonic

from broker.futures import resolve
from broker.protocol.worker_reports import Question
from workers.execution.reporter import Reporter


class Slots:
    """The slots of an instance. An attempt that has waited gets a slot before new attempts."""

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        """`on_free` is called when a new attempt can take a slot and no attempt waits for it."""
        self._count = self._free = count
        self._most: int | None = None
        self._line: deque[asyncio.Future[None]] = deque()
        self._on_free = on_free

    def limit(self, most: int | None) -> None:
        """Let new attempts take a slot only while fewer than `most` are taken; None: as long as one is free."""
        self._most = most
        for _ in range(self._free):
            if not self._has_room:
                return
            self._on_free()

    def take(self) -> bool:
        """Take a slot for a new attempt, if one is free and the limit allows it."""
        if not self._has_room:
            return False
        self._free -= 1
        return True

    @property
    def _has_room(self) -> bool:
        return self._free > 0 and (self._most is None or self._count - self._free < self._most)

    async def take_in_turn(self) -> None:
        """Take a slot for an attempt that has waited, as soon as one is free, whatever the limit."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the slot arrived at the same moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """Return a slot."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
        if self._has_room:
            self._on_free()


class Suspensions:
    """The waits of one attempt, and the slot that it holds while it does not wait.

    An attempt can wait for several results at once; it needs a slot again when the last one arrives. Each step is
    reported to the coordinator before the next one begins.
    """

    def __init__(
        self,
        key: tuple[str, int],
        slots: Slots,
        reporter: Reporter,
        *,
        on_person: Callable[[bool], None],
    ) -> None:
        """`on_person` is called with True when the attempt begins to wait for people, and with False afterwards."""
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
        """Begin the attempt, with a slot that was taken for it."""
        self._has_slot = True

    @property
    def total(self) -> float:
        """The seconds that the attempt has waited."""
        return self._total + (monotonic() - self._since if self._since else 0.0)

    @property
    def asks(self) -> bool:
        """Whether the attempt waits for a person."""
        return self._asking > 0

    @asynccontextmanager
    async def parked(self, question: Question | None = None) -> AsyncIterator[None]:
        """Return the slot while the block waits, and take one again at its end."""
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
        """Take the answer of a person. A repeated answer is ignored."""
        if question in self._questions:
            resolve(self._questions[question][1], answer)

    def ask_again(self) -> None:
        """Report the open questions again: an answer may have been lost with the control queue."""
        for question, _ in self._questions.values():
            self._reporter.wait(*self._key, question)

    def give_up(self) -> None:
        """Take no slot again, because the attempt is being stopped."""
        self._is_over = True

    def close(self) -> None:
        """End the attempt, and return its slot."""
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
