"""The periods of budgets, in UTC: hours, days, weeks from Monday, and months."""

from datetime import datetime, timedelta

from broker.protocol.spending import Per
from broker.timestamps import Instant, from_datetime, to_datetime


def beginning(per: Per, now: Instant) -> Instant:
    """Return the beginning of the period that contains a moment."""
    moment = to_datetime(now).replace(minute=0, second=0, microsecond=0)
    if per != "hour":
        moment = moment.replace(hour=0)
    if per == "week":
        moment -= timedelta(days=moment.weekday())
    elif per == "month":
        moment = moment.replace(day=1)
    return from_datetime(moment)


def end(per: Per, since: Instant) -> Instant:
    """Return the end of the period that begins then."""
    return from_datetime(_next(per, to_datetime(since)))


def _next(per: Per, since: datetime) -> datetime:
    match per:
        case "hour":
            return since + timedelta(hours=1)
        case "day":
            return since + timedelta(days=1)
        case "week":
            return since + timedelta(days=7)
        case "month":
            return (since + timedelta(days=31)).replace(day=1)
