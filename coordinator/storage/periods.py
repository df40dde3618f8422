"""Closed periods: the spans of time whose finished tasks reports have already added up."""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, select

from broker.timestamps import EPOCH, Instant
from coordinator.storage import schema

_periods = schema.periods


def closed_until(connection: Connection) -> Instant:
    """Return the end of the newest closed period."""
    return Instant(connection.scalar(select(func.max(_periods.c.until))) or EPOCH)


def reopen(connection: Connection, moments: Iterable[Instant]) -> None:
    """Delete the sums of the closed periods that contain these moments, because a task in them has changed."""
    for moment in moments:
        contains = (_periods.c.start <= moment) & (_periods.c.until > moment)
        start = connection.scalar(select(_periods.c.start).where(contains))
        if start is not None:
            connection.execute(delete(_periods).where(_periods.c.start == start))
            for table in (schema.task_sums, schema.attempt_sums, schema.durations):
                connection.execute(delete(table).where(table.c.period == start))
