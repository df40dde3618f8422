"""Chat between all addresses while RabbitMQ is killed: is every message shown once, and in order?

python -m tests.programs.chat_load --messages 10000

Of 20 addresses, 16 are people and 4 are LLMs, which answer. Each pair has one conversation. All conversations run at
the same time; each message follows as soon as the one before is confirmed.
"""

import argparse
import asyncio
import io
import itertools
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.support.report import print_table
from broker.amqp.robust_connection import RobustConnection
from broker.protocol.chat import Message, made_from
from broker.protocol.views import MessageView
from fluffle import Client
from tests.support.amqp import amqp
from tests.support.rabbitmq import private_node
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger

PEOPLE = tuple(f"person-{number}" for number in range(16))
LLMS = tuple(f"llm-{number}" for number in range(4))
OF_EACH = len(PEOPLE) * (len(PEOPLE) - 1 + 2 * len(LLMS))  # when all write to all once; LLMs answer
WITHIN = 120.0  # seconds; a message that is later is lost

Line = tuple[str, str]
"""A conversation, and one of the two who talk in it."""


@dataclass
class ChatLoad:
    """Sent and shown messages, and the duration. `problems` lists everything that is wrong."""

    each: int  # messages from everybody to everybody
    sent: dict[Line, list[str]] = field(default_factory=dict)  # ids, in order; those of the answers, too
    shown: dict[str, list[Message]] = field(default_factory=dict)  # by person
    heard: list[str] = field(default_factory=list)  # ids of what LLMs were asked, in order
    history: dict[str, list[MessageView]] = field(default_factory=dict)  # by conversation, oldest first
    left: dict[str, int] = field(default_factory=dict)  # messages by queue
    written: int = 0  # by people
    restarts: int = 0
    seconds: float = 0.0

    @property
    def messages(self) -> int:
        """Return the expected number of messages."""
        return self.each * OF_EACH

    @property
    def to_write(self) -> int:
        """Return how many messages people write. People are shown as many: an LLM answers each of its messages."""
        return self.each * len(PEOPLE) * (len(PEOPLE) - 1 + len(LLMS))

    def problems(self) -> list[str]:
        """Return all violations."""
        shown = Counter(message.id for messages in self.shown.values() for message in messages)
        shown.update(self.heard)
        sent = Counter(itertools.chain.from_iterable(self.sent.values()))
        told = Counter(view.id for views in self.history.values() for view in views)
        return [
            *_some("never shown", sent.keys() - shown.keys()),
            *_some("shown more than once", [id_ for id_, times in shown.items() if times > 1]),
            *_some("shown and never sent", shown.keys() - sent.keys()),
            *_some("shown out of order", self._out_of_order(self._seen())),
            *_some("in the history not once", [id_ for id_ in sent | told if told[id_] != sent[id_]]),
            *_some("out of order in the history", self._out_of_order(self._told())),
            *_some("left in a queue", [f"{queue}: {depth}" for queue, depth in self.left.items() if depth]),
        ]

    def _seen(self) -> dict[Line, list[str]]:
        """Return the messages that the other side received, in order."""
        seen: dict[Line, list[str]] = {}
        for message in itertools.chain.from_iterable(self.shown.values()):
            seen.setdefault((message.conversation_id, message.sender), []).append(message.id)
        lines = {id_: line for line, ids in self.sent.items() for id_ in ids}
        for id_ in self.heard:
            seen.setdefault(lines[id_], []).append(id_)
        return seen

    def _told(self) -> dict[Line, list[str]]:
        return {
            line: [view.id for view in self.history.get(line[0], ()) if view.sender == line[1]] for line in self.sent
        }

    def _out_of_order(self, got: Mapping[Line, list[str]]) -> list[str]:
        return [f"{sender} in {talk}" for (talk, sender), ids in self.sent.items() if ids != got.get((talk, sender))]


def _some(what: str, found: Iterable[str]) -> list[str]:
    those = sorted(found)
    return [f"{len(those)} {what}: {', '.join(those[:5])}"] if those else []


async def run_chat_load(site: Site, ledger: Ledger, messages: int) -> ChatLoad:
    """Exchange at least this many messages while all addresses are connected; kill the broker halfway."""
    it = ChatLoad(each=-(-messages // OF_EACH))
    site.coordinator()
    for name in LLMS:
        site.worker(name, "--handler", "tests.support.recording_llms:echo", env=ledger.env)
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        people = {name: await stack.enter_async_context(Client(site.url, user=site.person(name))) for name in PEOPLE}
        for name, client in people.items():  # all mailboxes exist before the first message
            it.shown[name] = [message async for message in client.inbox(wait=False)]
        reading = [asyncio.create_task(_read(client, it.shown[name])) for name, client in people.items()]
        await _everybody_reads(site, people.values())
        half = asyncio.Event()
        writing = [
            asyncio.create_task(_write(it, client, name, other, half))
            for name, client in people.items()
            for other in (*PEOPLE, *LLMS)
            if other != name
        ]
        await half.wait()
        await asyncio.to_thread(site.kill_and_restart_rabbitmq)
        it.restarts += 1
        await asyncio.gather(*writing)
        await _until_nothing_comes(it, site)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for name, client in people.items():
            it.shown[name] += [message async for message in client.inbox(wait=False)]
        asking = people[PEOPLE[0]]
        for talk, _ in it.sent:
            it.history[talk] = [view async for view in asking.messages(conversation_id=talk)][::-1]
    it.seconds = time.monotonic() - begun
    it.heard = [effect["task"] for effect in ledger.effects("asked")]
    site.drain(within=WITHIN)
    with amqp(site.url) as plain:
        it.left = {queue: plain.depth(queue) for queue in site.queues}
    return it


async def _read(client: Client, shown: list[Message]) -> None:
    async for message in client.inbox():
        shown.append(message)  # noqa: PERF401 - it does not end


async def _everybody_reads(site: Site, people: Iterable[Client]) -> None:
    async with asyncio.timeout(WITHIN), RobustConnection(site.url, name="test") as link:
        for client in people:
            while not await link.has_consumers(client.address):  # noqa: ASYNC110 - RabbitMQ has no event for it
                await asyncio.sleep(0.02)


async def _write(it: ChatLoad, client: Client, name: str, other: str, half: asyncio.Event) -> None:
    """Write one side of a conversation; set `half` after half of all messages."""
    to = f"user.{other}" if other in PEOPLE else f"llm.{other}"
    talk = ".".join(sorted((name, other)))
    mine = it.sent.setdefault((talk, client.address), [])
    for number in range(it.each):
        message = await client.send(to, str(number), conversation_id=talk)
        mine.append(message.id)
        it.written += 1
        if it.written >= it.to_write // 2:
            half.set()
        if other in LLMS:
            it.sent.setdefault((talk, to), []).append(made_from(message.id, to))


async def _until_nothing_comes(it: ChatLoad, site: Site) -> None:
    """Wait until all messages are shown and in the history, or none has arrived for WITHIN seconds."""

    def came() -> int:
        [(recorded,)] = site.select("select count(*) from messages")
        return sum(map(len, it.shown.values())) + int(recorded)

    before, since = -1, time.monotonic()
    while (now := await asyncio.to_thread(came)) < it.to_write + it.messages:
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since > WITHIN:
            return
        await asyncio.sleep(0.1)


def main() -> int:
    """Run the load, print a table, and exit with 1 when there is a problem."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--messages", type=int, default=10_000, help="at least so many (%(default)s)")
    given = options.parse_args()
    logging.disable()  # every client logs that RabbitMQ is unreachable
    with (
        tempfile.TemporaryDirectory() as folder,
        private_node(Path(folder) / "node") as rabbitmq,
        redirect_stdout(io.StringIO()),  # output of the processes
        site_on(rabbitmq, Path(folder) / "site") as site,
    ):
        it = asyncio.run(run_chat_load(site, Ledger(site), given.messages))
    problems = it.problems()
    print_table(
        "Messages",
        ("", ""),
        [
            ("addresses", f"{len(PEOPLE) + len(LLMS)}"),
            ("conversations", f"{len(it.history)}"),
            ("sent", f"{sum(map(len, it.sent.values())):,}"),
            ("shown", f"{sum(map(len, it.shown.values())) + len(it.heard):,}"),
            ("in the history", f"{sum(map(len, it.history.values())):,}"),
            ("RabbitMQ killed", f"{it.restarts}"),
            ("problems", f"{len(problems)}"),
            ("took", f"{it.seconds:.0f} s"),
        ],
    )
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
