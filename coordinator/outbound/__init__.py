"""From commands of the core to published messages.

`outbox.py` packs the commands of a batch into one database row, `encoder.py` turns them into AMQP messages,
`publisher.py` publishes these until RabbitMQ has confirmed all of them, `size_limits.py` shortens answers and events
that are too large, and `refusal_log.py` logs what was refused or lost.

Imported by `inbound`, `queries` and everything above them. Begin with `encoder.py`.
"""
