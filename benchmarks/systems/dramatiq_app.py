"""dramatiq: the actor of its workers and, run as a program, the client."""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# The library is installed apart from what mypy sees.

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.systems.measure import main
from benchmarks.systems.tally import Tally

broker = RabbitmqBroker(url=os.environ["BENCHMARK_AMQP_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)
tally = Tally()


@dramatiq.actor
def noop(number: int) -> None:
    """Do nothing but count."""
    tally.add()


class DramatiqClient:
    """Submits one task after the other, as dramatiq's client does; the tally counts completed tasks."""

    def run(self, count: int) -> None:
        """Submit `count` tasks and wait until all have run. Raises TimeoutError."""
        before = tally.count()
        for number in range(count):
            noop.send(number)
        tally.wait_for(before + count)


if __name__ == "__main__":
    main(DramatiqClient(), "dramatiq")
