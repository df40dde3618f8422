"""Where the time of a task went."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from broker.protocol.status import Status
from broker.protocol.views import AttemptView, TaskView

Kind = Literal["waited", "ran", "asked"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time: the task waited, ran, or asked a person."""

    kind: Kind
    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end - self.begin).total_seconds()


def phases(view: TaskView, now: datetime) -> list[Phase]:
    """What a task did from its submission to its end, or to `now`, without gaps and in order."""
    last = (view.finished_at or now) if view.status.is_final else now
    found: list[Phase] = []
    at = view.submitted_at
    for kind, begin, end in sorted(_busy(view, last), key=lambda part: part[1]):
        begin, end = max(begin, at), min(end, last)
        if end <= begin:
            continue
        if begin > at:
            found.append(Phase("waited", at, begin))
        found.append(Phase(kind, begin, end))
        at = end
    if last > at:
        found.append(Phase("waited", at, last))
    return found


def _busy(view: TaskView, last: datetime) -> Iterator[tuple[Kind, datetime, datetime]]:
    """When attempts ran and when people were asked, in pieces that do not overlap."""
    asked = sorted((question.asked_at, question.answered_at or last) for question in view.questions)
    for attempt in view.attempts:
        at = begin_of(attempt)
        if at is None:
            continue
        end = attempt.finished_at or (last if _is_running(view, attempt) else None)
        if end is None:
            continue
        for begin, answered in asked:
            if begin >= end or answered <= at:
                continue
            yield "ran", at, max(at, begin)
            yield "asked", max(at, begin), min(answered, end)
            at = min(answered, end)
        yield "ran", at, end


def begin_of(attempt: AttemptView) -> datetime | None:
    """When an attempt began. Of one that is over, its length by the worker's clock before its end.

    `started_at` is when the coordinator heard of it: of quick attempts, together with the end.
    """
    if attempt.finished_at is None or attempt.duration is None or attempt.started_at is None:
        return attempt.started_at
    return min(attempt.started_at, attempt.finished_at - timedelta(seconds=attempt.duration))


def _is_running(view: TaskView, attempt: AttemptView) -> bool:
    return attempt is view.attempts[-1] and view.status in (Status.IN_PROGRESS, Status.INPUT_REQUIRED)
