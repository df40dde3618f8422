"""What can go wrong, each as a function that makes it happen to a storm and returns when the cause is gone."""

import random
import time
from collections.abc import Callable

from tests.storm.cast import Cast
from tests.support.amqp import amqp
from tests.support.rabbitmqctl import rabbitmqctl

A_DAY = 86_400
ALARMED = 1.0  # seconds


def kill_worker(cast: Cast, chance: random.Random) -> None:
    """kill -9 of a worker; it is started again at once."""
    cast.restart(chance.choice(cast.workers))


def suspend_worker(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of a worker, often for longer than its lease."""
    process = cast.process(chance.choice(cast.workers))
    process.suspend()
    time.sleep(chance.uniform(0, 2 * cast.lease))
    process.resume()


def kill_coordinator(cast: Cast, chance: random.Random) -> None:
    """kill -9 of a coordinator, leading or standing by; it is started again at once."""
    cast.restart(chance.choice(cast.coordinators))


def crash_coordinator(cast: Cast, chance: random.Random) -> None:
    """A coordinator dies at exactly one of the worst moments."""
    point = chance.choice(("before-commit", "after-commit", "after-publish", "after-confirm"))
    cast.crash_at(f"{point}:{chance.randrange(2, 12)}")


def suspend_coordinator(cast: Cast, chance: random.Random) -> None:
    """SIGSTOP of a coordinator, often for longer than its lease."""
    process = cast.process(chance.choice(cast.coordinators))
    cast.site.suspend_between_transactions(process)
    time.sleep(chance.uniform(0, 2 * cast.lead))
    process.resume()


def wrong_clock(cast: Cast, chance: random.Random) -> None:
    """kill -9 of a process that is started again with a clock that is a day wrong."""
    cast.restart(chance.choice([*cast.workers, *cast.coordinators]), f"clock={chance.choice((-A_DAY, A_DAY))}")


def kill_node(cast: Cast, chance: random.Random) -> None:
    """kill -9 of RabbitMQ."""
    cast.site.kill_and_restart_rabbitmq()


def restart_node(cast: Cast, chance: random.Random) -> None:
    """RabbitMQ is stopped in good order and started again."""
    cast.node.stop()
    cast.node.start()


def close_connections(cast: Cast, chance: random.Random) -> None:
    """The broker closes every connection."""
    rabbitmqctl(cast.node, "close_all_connections", "storm")


def memory_alarm(cast: Cast, chance: random.Random) -> None:
    """The broker takes nothing, for want of memory."""
    rabbitmqctl(cast.node, "set_vm_memory_high_watermark", "0.000001")
    time.sleep(ALARMED)
    rabbitmqctl(cast.node, "set_vm_memory_high_watermark", "0.4")


def disk_alarm(cast: Cast, chance: random.Random) -> None:
    """The broker takes nothing, for want of disk."""
    rabbitmqctl(cast.node, "set_disk_free_limit", "1000GB")
    time.sleep(ALARMED)
    rabbitmqctl(cast.node, "set_disk_free_limit", "50MB")


def delete_work_queue(cast: Cast, chance: random.Random) -> None:
    """An LLM's queue is deleted with what is in it: its consumers are cancelled by the broker."""
    with amqp(cast.site.url) as client:
        client.delete(f"llm.{chance.choice(cast.workers)}.work")


def lock_database(cast: Cast, chance: random.Random) -> None:
    """Somebody else holds the database's lock."""
    with cast.site.locked_database():
        time.sleep(chance.uniform(0, 2 * cast.lead))


def cut_worker(cast: Cast, chance: random.Random) -> None:
    """The network to a worker passes nothing on, without a word to either end."""
    proxy = cast.proxies[chance.choice(cast.workers)]
    proxy.hold()
    time.sleep(chance.uniform(0, 2 * cast.lease))
    proxy.resume()


def kill_worker_with_answers(cast: Cast, chance: random.Random) -> None:
    """The network to a worker is cut while it works, and kill -9 once it has answers that nobody has heard."""
    name = chance.choice(cast.workers)
    pid, proxy = cast.process(name).pid, cast.proxies[name]
    cut = time.monotonic()
    proxy.hold()
    time.sleep(0.1)  # what RabbitMQ had sent is done with, or held
    seen = len(cast.ledger.effects())
    time.sleep(0.3)
    cast.process(name).suspend()
    answers = [effect for effect in cast.ledger.effects()[seen:] if effect["pid"] == pid]
    cast.process(name).kill()
    proxy.break_connections()
    proxy.resume()
    cast.restart(name)
    if time.monotonic() - cut < 0.6 * cast.lease:  # its last beat counts for longer: nobody else had the tasks
        for effect in answers[:-1]:  # the last may not have reached the disk
            cast.ledger.keep(effect["task"], effect["token"])


def echo(cast: Cast, chance: random.Random) -> None:
    """What workers and clients say is said again, some of it twice, in another order and too late."""
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
    kill_coordinator: 8,
    crash_coordinator: 8,
    suspend_coordinator: 6,
    wrong_clock: 4,
    kill_node: 1,
    restart_node: 1,
    close_connections: 2,
    memory_alarm: 2,
    disk_alarm: 2,
    delete_work_queue: 4,
    lock_database: 4,
    cut_worker: 6,
    kill_worker_with_answers: 4,
    echo: 6,
}
"""Every fault and how often it comes, relative to the others."""
