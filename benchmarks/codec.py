"""The speed of broker/amqp/codec.py against pika's own encoder and decoder.

    .venv/bin/python benchmarks/codec.py --messages 50000

Both encode a message for publishing, decode the same message as a delivery, encode its acknowledgement and decode a
confirm: the frames of one message on its way through a process. The program prints the messages per second of both and
their ratio. The rounds alternate; the best round of each counts.
"""

import time
from collections.abc import Callable

import pika
from pika import frame, spec

from benchmarks.support.command import command
from benchmarks.support.report import console, print_table, write_json
from broker.amqp import codec
from broker.amqp.pika_connection import decode_properties

ROUNDS = 5
BODY = b'{"description": "Summarise the text", "skills": ["write"], "priority": 7}' * 4
FRAME_BYTES = 131_064  # the largest body of a frame that RabbitMQ agrees to
EXCHANGE, ROUTING_KEY = "fluffle.tasks", "submit"
CONFIRM = bytes(frame.Method(1, spec.Basic.Ack(7)).marshal())


def delivery(number: int) -> bytes:
    """Return a message with that number as RabbitMQ delivers it: three frames."""
    deliver = spec.Basic.Deliver("consumer 1", number, False, EXCHANGE, ROUTING_KEY)
    parts = frame.Method(1, deliver), frame.Header(1, len(BODY), pika_properties(number)), frame.Body(1, BODY)
    return b"".join(bytes(part.marshal()) for part in parts)


def pika_properties(number: int) -> pika.BasicProperties:
    """Return the properties of a message with that number."""
    return pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=f"task-{number}", reply_to="answers", type="task"
    )


def by_codec(deliveries: list[bytes]) -> None:
    """Encode and decode each message with broker/amqp/codec.py."""
    for number, data in enumerate(deliveries, 1):
        properties = codec.properties(
            content_type="application/json",
            headers=b"",
            persistent=True,
            priority=None,
            correlation_id=None,
            reply_to="answers",
            expiration=None,
            message_id=f"task-{number}",
            kind="task",
            user_id=None,
        )
        codec.publish(1, EXCHANGE, ROUTING_KEY, True)
        codec.content(1, properties, BODY, FRAME_BYTES)
        message = codec.read_message(data, 0)
        assert message is not None
        decode_properties(message[2])
        codec.ack(1, number, multiple=False)
        codec.read_confirms(CONFIRM, 0)


def by_pika(deliveries: list[bytes]) -> None:
    """Encode and decode each message with pika."""
    for number, data in enumerate(deliveries, 1):
        frame.Method(1, spec.Basic.Publish(exchange=EXCHANGE, routing_key=ROUTING_KEY, mandatory=True)).marshal()
        frame.Header(1, len(BODY), pika_properties(number)).marshal()
        frame.Body(1, BODY).marshal()
        rest = data
        while rest:
            size, _ = frame.decode_frame(rest)
            rest = rest[size:]
        frame.Method(1, spec.Basic.Ack(number)).marshal()
        frame.decode_frame(CONFIRM)


def seconds(work: Callable[[list[bytes]], None], deliveries: list[bytes]) -> float:
    """Return how long the work takes."""
    began = time.perf_counter()
    work(deliveries)
    return time.perf_counter() - began


def main() -> None:
    parser = command(__doc__, broker=False)
    parser.add_argument("--messages", type=int, default=50_000, help="messages in each round")
    options = parser.parse_args()
    count = options.messages
    deliveries = [delivery(number) for number in range(1, count + 1)]
    rounds = [(seconds(by_codec, deliveries), seconds(by_pika, deliveries)) for _ in range(ROUNDS)]
    codec_seconds, pika_seconds = (min(times) for times in zip(*rounds, strict=True))
    rates, ratio = {"codec.py": count / codec_seconds, "pika": count / pika_seconds}, pika_seconds / codec_seconds
    print_table("codec", ("", "messages/s"), [(name, f"{rate:,.0f}") for name, rate in rates.items()])
    console.print(f"ratio: {ratio:.1f}")
    if options.json:
        write_json(options.json, "codec", {**rates, "ratio": ratio}, [])


if __name__ == "__main__":
    main()
