"""Faults: each is a function that injects one fault into a storm and returns when the cause is gone."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from broker.protocol.topology import COORDINATOR, STATUS, UNROUTABLE
from tests.programs.storm.cast import Cast
from tests.support.amqp import amqp
from tests.support.network_hosts import why_not
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.site import why_never_read_only

AN_HOUR, A_DAY = 3_600, 86_400
ALARMED = 1.0  # seconds
LOST_REPLIES = 3
LOOK_BACK = 1_000_000  # bytes of the ledger's file
TO_INBOX = ((STATUS, "#"), (UNROUTABLE, ""))


def kill_worker(cast: Cast, chance: random.Random) -> None:
    """kill -9 of a worker, which restarts at once."""
    cast.restart(chance.choice(cast.workers))


def suspend_worker(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of a worker, often for longer than its lease."""
    process = cast.process(chance.choice(cast.workers))
    process.suspend()
    time.sleep(chance.uniform(0, 2 * cast.lease))
    process.resume()


def wake_worker_when_missed(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of a worker, which resumes exactly when its tasks are assigned to others."""
    name = chance.choice(cast.workers)
    process = cast.process(name)
    process.suspend()
    end = time.monotonic() + 3 * cast.lease
    while _is_there(cast, name) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.1))
    process.resume()


def _is_there(cast: Cast, llm: str) -> bool:
    """Return whether the coordinator considers an instance of the LLM alive."""
    return cast.site.select(f"select instances from llms where name = '{llm}'") != [("{}",)]


def kill_coordinator(cast: Cast, chance: random.Random) -> None:
    """kill -9 of a coordinator, leader or standby, which restarts at once."""
    cast.restart(chance.choice(cast.coordinators))


def crash_coordinator(cast: Cast, chance: random.Random) -> None:
    """A coordinator dies at exactly one of the critical points."""
    point = chance.choice(("before-commit", "after-commit", "after-publish", "after-confirm"))
    cast.crash_at(f"{point}:{chance.randrange(2, 12)}")


def suspend_coordinator(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of a coordinator, often for longer than its lease."""
    process = cast.process(chance.choice(cast.coordinators))
    cast.site.suspend_between_transactions(process)
    time.sleep(chance.uniform(0, 2 * cast.lead))
    process.resume()


def wrong_clock(cast: Cast, chance: random.Random) -> None:
    """kill -9 of a process, which restarts with a clock that is wrong by a day."""
    name = chance.choice([*cast.workers, *cast.coordinators])
    cast.restart(name, changes=[f"clock={chance.choice((-A_DAY, A_DAY))}"])


def set_clock(cast: Cast, chance: random.Random) -> None:
    """The wall clock of a running process jumps forward or back, and later returns to the right time."""
    clock = cast.clocks[chance.choice([*cast.workers, *cast.coordinators])]
    clock.set(chance.choice((-1, 1)) * round(chance.choice((cast.lease + 1, 60, AN_HOUR))))
    time.sleep(chance.uniform(0, 2 * cast.lease))
    clock.set(0)


def kill_node(cast: Cast, chance: random.Random) -> None:
    """kill -9 of RabbitMQ."""
    cast.site.kill_and_restart_rabbitmq()


def restart_node(cast: Cast, chance: random.Random) -> None:
    """RabbitMQ shuts down cleanly and restarts."""
    cast.node.stop()
    cast.node.start()


def suspend_node(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of RabbitMQ: its connections stay open without any traffic."""
    pid = cast.node.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(chance.uniform(0, 2 * cast.lease))
    os.kill(pid, signal.SIGCONT)


def suspend_node_past_lease(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of RabbitMQ, for longer than any worker may be silent."""
    pid = cast.node.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(chance.uniform(1.2, 3) * cast.lease)
    os.kill(pid, signal.SIGCONT)


def close_connections(cast: Cast, chance: random.Random) -> None:
    """The broker closes every connection."""
    rabbitmqctl(cast.node, "close_all_connections", "storm")


def memory_alarm(cast: Cast, chance: random.Random) -> None:
    """A memory alarm of the broker blocks all publishers."""
    rabbitmqctl(cast.node, "set_vm_memory_high_watermark", "0.000001")
    time.sleep(ALARMED)
    rabbitmqctl(cast.node, "set_vm_memory_high_watermark", "0.4")


def disk_alarm(cast: Cast, chance: random.Random) -> None:
    """A disk alarm of the broker blocks all publishers."""
    rabbitmqctl(cast.node, "set_disk_free_limit", "1000GB")
    time.sleep(ALARMED)
    rabbitmqctl(cast.node, "set_disk_free_limit", "50MB")


def delete_work_queue(cast: Cast, chance: random.Random) -> None:
    """The queue of an LLM is deleted with its messages: the broker cancels its consumers."""
    with amqp(cast.site.url) as client:
        client.delete(f"llm.{chance.choice(cast.workers)}.work")


def lock_database(cast: Cast, chance: random.Random) -> None:
    """Another connection holds the lock of the database."""
    with cast.site.locked_database():
        time.sleep(chance.uniform(0, 2 * cast.lead))


def read_only_database(cast: Cast, chance: random.Random) -> None:
    """The database is read-only."""
    with cast.site.read_only_database():
        time.sleep(chance.uniform(0, 2 * cast.lead))


def restart_postgresql(cast: Cast, chance: random.Random) -> None:
    """PostgreSQL is down for a while."""
    assert cast.site.server is not None
    cast.site.server.stop()
    time.sleep(chance.uniform(0, 2 * cast.lead))
    cast.site.server.start()


def lose_replies_to_commit(cast: Cast, chance: random.Random) -> None:
    """The outcome of a commit is unknown: the connection breaks between COMMIT and its reply.

    SQLite has no connection: there, coordinators get an error once it has committed.
    """
    if cast.ways.database is not None:
        for _ in range(LOST_REPLIES):
            cast.ways.database.lose_the_reply_to(b"COMMIT")
            time.sleep(chance.uniform(0, 0.5))
    else:
        cast.restart(*cast.coordinators, changes=[f"lost-replies={LOST_REPLIES}"])


def cut_host(cast: Cast, chance: random.Random) -> None:
    """The network of a host is cut: that of a worker, or of a coordinator that reaches PostgreSQL through it."""
    host = cast.ways.hosts[chance.choice([*cast.ways.hosts])]
    host.cut()
    time.sleep(chance.uniform(0, 2 * cast.lease))
    host.mend()


def unbind_inbox(cast: Cast, chance: random.Random) -> None:
    """Reports of workers find no queue, not even that of unroutable messages; workers have to repeat them."""
    with amqp(cast.site.url) as client, _answers_kept(cast, list(cast.workers)) as finished:
        client.unbind(COORDINATOR, *TO_INBOX)
        time.sleep(chance.uniform(0, 0.2 * cast.lease))
        finished()
        client.bind(COORDINATOR, *TO_INBOX)


def cut_worker(cast: Cast, chance: random.Random) -> None:
    """The network to a worker drops all traffic without an error on either side."""
    proxy = cast.ways.rabbitmq[chance.choice(cast.workers)]
    proxy.hold()
    time.sleep(chance.uniform(0, 2 * cast.lease))
    proxy.resume()


def half_open(cast: Cast, chance: random.Random) -> None:
    """The connections of a process are broken on its side alone: RabbitMQ considers them open for a while."""
    proxy = cast.ways.rabbitmq[chance.choice([*cast.ways.rabbitmq])]
    proxy.break_for_clients()
    time.sleep(chance.uniform(0.5, 3) * cast.lease)
    proxy.break_for_the_broker()


def kill_worker_with_answers(cast: Cast, chance: random.Random) -> None:
    """The network to a worker is cut while it works, and kill -9 follows once it holds unreported answers."""
    name = chance.choice(cast.workers)
    proxy = cast.ways.rabbitmq[name]
    with _answers_kept(cast, [name]) as finished:
        proxy.hold()
        time.sleep(0.4)
        finished()
        time.sleep(0.1)  # an answer is on disk shortly after its effect
        cast.process(name).kill()
        proxy.break_connections()
        proxy.resume()
        cast.restart(name)


@contextmanager
def _answers_kept(cast: Cast, names: list[str]) -> Iterator[Callable[[], None]]:
    """What these workers finish between the beginning and the call has to be the result, whatever happens to it.

    That is so only as long as nobody else can have the task: the last beat counts for a lease, of which a third may be
    over. A block that takes too long proves nothing. Nor does an answer to a task that another attempt has done.
    """
    pids, ledger = {cast.process(name).pid for name in names}, cast.ledger
    began, mark = time.monotonic(), ledger.mark()
    made: list[dict[str, Any]] = []
    yield lambda: made.extend(effect for effect in ledger.effects(since=mark) if effect["pid"] in pids)
    if time.monotonic() - began < 0.6 * cast.lease:
        first: dict[str, str] = {}
        for effect in ledger.effects(since=mark - LOOK_BACK):
            first.setdefault(effect["task"], effect["token"])
        for effect in made:
            if first[effect["task"]] == effect["token"]:
                ledger.keep(effect["task"], effect["token"])


def echo(cast: Cast, chance: random.Random) -> None:
    """Messages of workers and clients are repeated, some twice, in another order and too late."""
    with amqp(cast.site.url) as client:
        copy = client.queue(("fluffle.status", "*.claim"), ("fluffle.status", "*.result"), ("fluffle.tasks", "submit"))
        time.sleep(chance.uniform(0.2, 1.0))
        heard = client.take_all(copy)
        client.delete(copy)
        said_again = chance.sample(heard, len(heard) // 3)
        for message in chance.choices(said_again, k=2 * len(said_again)) if said_again else ():
            message.properties.user_id = None
            message.properties.reply_to = None  # its answers have been given
            client.publish(message.exchange, message.routing_key, message.body, **vars(message.properties))


Fault = Callable[[Cast, random.Random], None]

FAULTS: dict[Fault, int] = {
    kill_worker: 8,
    suspend_worker: 6,
    wake_worker_when_missed: 4,
    kill_coordinator: 8,
    crash_coordinator: 8,
    suspend_coordinator: 6,
    wrong_clock: 4,
    set_clock: 4,
    kill_node: 1,
    restart_node: 1,
    suspend_node: 2,
    suspend_node_past_lease: 2,
    close_connections: 3,
    memory_alarm: 2,
    disk_alarm: 2,
    delete_work_queue: 4,
    unbind_inbox: 4,
    lock_database: 4,
    read_only_database: 4,
    lose_replies_to_commit: 4,
    restart_postgresql: 2,
    cut_host: 6,
    cut_worker: 4,
    half_open: 4,
    kill_worker_with_answers: 4,
    echo: 6,
}
"""Every fault and how often it comes, relative to the others."""

BESIDES: dict[Fault, tuple[Fault, ...]] = {
    kill_worker: (suspend_coordinator, kill_coordinator, lock_database, read_only_database, close_connections),
    suspend_worker: (kill_coordinator, kill_node, disk_alarm, lose_replies_to_commit),
    suspend_coordinator: (kill_node, restart_node, delete_work_queue, echo, close_connections),
    cut_host: (memory_alarm, echo, delete_work_queue, read_only_database, close_connections),
    cut_worker: (crash_coordinator, wrong_clock, lock_database, restart_postgresql),
}
"""What may happen while something else happens: to other processes, and without the one waiting for the other."""


def why_impossible(fault: Fault, cast: Cast) -> str:
    """Return why this fault cannot be injected here, or an empty text."""
    match fault.__name__:
        case "cut_host":
            return why_not()
        case "restart_postgresql":
            return "" if cast.site.server else "the database is SQLite"
        case "read_only_database" if cast.site.server is None:
            return why_never_read_only(cast.site.state)
        case _:
            return ""
