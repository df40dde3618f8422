"""Malformed messages in bulk: against the decoder alone, then against the running system among valid tasks.

python -m tests.programs.fuzz --decode 1000000 --wire 50000 --seed 1
"""

import argparse
import hashlib
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pika
import psutil

from benchmarks.support.report import print_table
from tests.support.amqp import Message, RawProperties, amqp
from tests.support.processes import Process, until
from tests.support.rabbitmq import private_node
from tests.support.random_messages import MalformedMessages, Raw
from tests.support.random_texts import rendered_in_bulk
from tests.support.site import Site, site_on
from tests.support.task_audit import Ledger

ANSWERS = "fuzz.answers"
REJECTED_AT_ONCE = 20_000  # length of the rejected queue at which it is read
GOOD_EVERY = 10  # bad messages per valid task
WITHIN = 600.0  # seconds until the system must be idle


@dataclass(frozen=True, slots=True)
class Decoded:
    """The outcome of messages that were only decoded."""

    made: int
    refused: int
    seconds: float
    grown: int  # bytes of memory, after the first tenth


@dataclass(frozen=True, slots=True)
class Survived:
    """The outcome of messages that were published among valid tasks."""

    published: int
    missing: int  # were not rejected
    unasked: int  # were rejected, and not published so often
    good: int
    good_done: int
    problems: list[str]  # found by the ledger: stuck messages, lost tasks, leases
    restarts: int  # processes that did not survive
    grown: int  # bytes of the coordinator's memory, after the first tenth
    seconds: float


def decode_in_bulk(count: int, seed: int) -> Decoded:
    """Create messages until `count` of them were rejected. Any exception is a bug and ends the run."""
    process, begun = psutil.Process(), time.monotonic()
    made = refused = 0
    before = process.memory_info().rss
    for message in MalformedMessages(seed).messages():
        if refused == count:
            break
        made += 1
        refused += message.is_refused()
        if refused == max(1, count // 10):
            before = process.memory_info().rss
    return Decoded(made, refused, time.monotonic() - begun, process.memory_info().rss - before)


def publish_in_bulk(site: Site, ledger: Ledger, count: int, seed: int) -> Survived:
    """Publish `count` malformed messages and valid tasks between them, and check the final state."""
    begun = time.monotonic()
    published: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    good = [f"good-{number}" for number in range(count // GOOD_EVERY)]
    with amqp(site.url) as client:
        client.queue(name=ANSWERS)
        coordinator, worker = site.coordinator(), _worker(site, ledger)
        memory = psutil.Process(coordinator.pid)
        before = memory.memory_info().rss
        malformed = _malformed(seed)
        for start in range(0, count, REJECTED_AT_ONCE):
            batch = [next(malformed) for _ in range(min(REJECTED_AT_ONCE, count - start))]
            _publish(site.url, batch, good[start // GOOD_EVERY :])
            published.update(map(_key, batch))
            until(lambda: not client.depth("fluffle.coordinator"), "the inbox is empty", within=WITHIN)
            client.take_all(ANSWERS)
            rejected.update(map(_key_of_rejected, client.take_all("fluffle.rejected")))
            if start == 0:
                before = memory.memory_info().rss
        ledger.note(*good)
        until(lambda: ledger.done() >= len(good), "the good tasks are done", within=WITHIN)
        grown = memory.memory_info().rss - before
        restarts = sum(not process.alive for process in (coordinator, worker))
        site.drain(within=WITHIN)
        rejected.update(map(_key_of_rejected, client.take_all("fluffle.rejected")))
    return Survived(
        published=published.total(),
        missing=(published - rejected).total(),
        unasked=(rejected - published).total(),
        good=len(good),
        good_done=ledger.done(),
        problems=ledger.problems(),
        restarts=restarts,
        grown=grown,
        seconds=time.monotonic() - begun,
    )


def _worker(site: Site, ledger: Ledger) -> Process:
    return site.worker("worker", "--handler", "tests.support.recording_llms:work", "--slots", "20", env=ledger.env)


def _malformed(seed: int) -> Iterator[Raw]:
    """Yield messages that RabbitMQ accepts and the coordinator has to reject."""
    return (
        message for message in MalformedMessages(seed, reply_to=ANSWERS.encode()).messages() if message.is_refused()
    )


def _publish(url: str, batch: list[Raw], good: list[str]) -> None:
    """Publish all messages without waiting for each; a valid task follows every tenth."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        for number, message in enumerate(batch):
            channel.basic_publish(message.exchange, message.key, message.body, RawProperties(message.properties))
            if number % GOOD_EVERY == 0 and number // GOOD_EVERY < len(good):
                task = f'{{"id": "{good[number // GOOD_EVERY]}", "description": "-", "assignee": "worker"}}'
                channel.basic_publish("fluffle.tasks", "submit", task.encode())
        channel.queue_declare("fluffle.coordinator", passive=True)  # RabbitMQ has read everything before it answers


def _key(message: Raw) -> str:
    return hashlib.sha256(f"{message.exchange} {message.key} ".encode() + message.body).hexdigest()


def _key_of_rejected(message: Message) -> str:
    exchange, key = message.headers["x-fluffle-origin-exchange"], message.headers["x-fluffle-origin-key"]
    return hashlib.sha256(f"{exchange} {key} ".encode() + message.body).hexdigest()


def main() -> int:
    """Run both, print a table, and exit with 1 when a message is not accounted for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--decode", type=int, default=1_000_000, help="malformed messages to decode")
    options.add_argument("--wire", type=int, default=50_000, help="malformed messages to publish")
    options.add_argument("--markdown", type=int, default=50_000, help="texts to render")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    decoded = decode_in_bulk(given.decode, given.seed)
    characters = rendered_in_bulk(given.markdown, given.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        private_node(Path(folder) / "node") as rabbitmq,
        redirect_stdout(io.StringIO()),  # output of the processes
        site_on(rabbitmq, Path(folder) / "site") as site,
    ):
        survived = publish_in_bulk(site, Ledger(site), given.wire, given.seed)
    print_table(
        f"Malformed messages, seed {given.seed}",
        ("", "decoded alone", "published among good tasks"),
        [
            ("malformed", f"{decoded.refused:,}", f"{survived.published:,}"),
            ("refused with a reason", f"{decoded.refused:,}", f"{survived.published - survived.missing:,}"),
            ("unaccounted for", "0", f"{survived.missing + survived.unasked:,}"),
            ("crashes", "0", f"{survived.restarts}"),
            ("good tasks done", "", f"{survived.good_done:,} of {survived.good:,}"),
            ("problems in the database", "", f"{len(survived.problems)}"),
            ("memory grown by", f"{decoded.grown / 2**20:.1f} MiB", f"{survived.grown / 2**20:.1f} MiB"),
            ("took", f"{decoded.seconds:.0f} s", f"{survived.seconds:.0f} s"),
        ],
    )
    print(f"Markdown: {given.markdown:,} texts, {characters:,} characters, became HTML that neither acts nor loads.")
    fine = survived.missing == survived.unasked == survived.restarts == 0 and not survived.problems
    return 0 if fine and survived.good_done == survived.good else 1


if __name__ == "__main__":
    sys.exit(main())
