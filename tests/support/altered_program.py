"""`fluffle` with changes in its code: python -m tests.support.altered_program CHANGE… -- ARGUMENTS…

A CHANGE is the name of a safety mechanism, which is switched off; or `clock=SECONDS`, which makes the wall clock of the
process wrong by that much; or `clock-file=PATH`, which makes the clock settable, see Clock; or `lost-replies=COUNT` or
`quiet=SECONDS`, see below. A test that passes without the mechanism does not prove that the mechanism works.
"""

import dataclasses
import mmap
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self


def no_outbox() -> None:
    """Forget messages that were committed and not published before a crash."""
    from coordinator.storage.store import Store

    _replace(Store, "unsent", lambda self: [])


def no_manual_ack() -> None:
    """Acknowledge every message on delivery."""
    from broker.amqp.envelope import Delivery
    from broker.amqp.robust_connection import RobustConnection

    consume = RobustConnection.consume

    async def consume_at_once(self: RobustConnection, *args: Any, **kwargs: Any) -> Any:
        return await consume(self, *args, **{**kwargs, "auto_ack": True})

    _replace(RobustConnection, "consume", consume_at_once)
    for settle in ("ack", "reject", "requeue"):
        _replace(Delivery, settle, lambda self: None)


def no_attempt_fence() -> None:
    """Accept the result of any attempt as that of the current one."""
    from coordinator.core.tasks.attempts import AttemptReports

    reported = AttemptReports.reported

    def reported_anyhow(self: AttemptReports, event: Any, now: Any) -> None:
        task = self._state.tasks.get(event.result.task_id)
        if task is not None and task.in_hand:
            result = event.result.model_copy(update={"attempt": task.attempt})
            event = dataclasses.replace(event, llm=task.llm or event.llm, result=result)
        reported(self, event, now)

    _replace(AttemptReports, "reported", reported_anyhow)


def no_epoch() -> None:
    """Let a coordinator write without checking its lead."""
    from coordinator.storage.store import Store

    _replace(Store, "_extend", lambda self, connection, now, lease: None)


def no_dedupe() -> None:
    """Treat a task that is submitted again as a new one."""
    from coordinator.core.tasks.submit import Submissions

    submitted = Submissions.submitted

    def submitted_anew(self: Submissions, event: Any, now: Any) -> None:
        self._state.tasks.pop(event.task_id, None)
        submitted(self, event, now)

    _replace(Submissions, "submitted", submitted_anew)


def no_spool() -> None:
    """Keep finished answers only in memory until RabbitMQ has them."""
    from workers.execution import spool

    _replace(spool, "_write", lambda file, data: None)


def no_lease() -> None:
    """Let a silent instance keep its tasks."""
    from coordinator.core.tasks.attempts import AttemptReports

    _replace(AttemptReports, "tick", lambda self, now, heard_until: None)


def no_mandatory() -> None:
    """Drop unroutable messages silently."""
    from broker.amqp.session import Session

    publish = Session.publish
    _replace(Session, "publish", lambda self, message: publish(self, dataclasses.replace(message, mandatory=False)))


MECHANISMS: dict[str, Callable[[], None]] = {
    "outbox": no_outbox,
    "manual-ack": no_manual_ack,
    "attempt-fence": no_attempt_fence,
    "epoch": no_epoch,
    "dedupe": no_dedupe,
    "spool": no_spool,
    "lease": no_lease,
    "mandatory": no_mandatory,
}


def lost_replies(count: str) -> None:
    """Let this many commits, with successful ones between them, raise an error although they took effect."""
    from broker.errors import StoreUnavailable
    from coordinator.storage.store import Store

    commit, left = Store.commit, iter(range(int(count)))

    def commit_and_fail(self: Store, *args: Any, **kwargs: Any) -> int | None:
        row = commit(self, *args, **kwargs)
        if random.random() < 0.2 and next(left, None) is not None:
            raise StoreUnavailable("the reply to COMMIT is lost")
        return row

    _replace(Store, "commit", commit_and_fail)


class Clock:
    """The settable wall clock of a process that was started with `clock-file=PATH`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, 8)
        self._ahead = mmap.mmap(self._file, 8)

    @property
    def change(self) -> str:
        """Return the change that gives this clock to a process."""
        return f"clock-file={self.path}"

    @property
    def ahead(self) -> int:
        """Return how many seconds the clock is ahead of the right time."""
        return int(struct.unpack("q", self._ahead[:])[0])

    def set(self, ahead: int) -> None:
        """Set the clock this many seconds ahead of the right time; negative values set it back."""
        self._ahead[:] = struct.pack("q", ahead)


def settable_clock(path: str) -> None:
    """Make the wall clock of this process settable."""
    clock = Clock(Path(path))
    _alter_clock(lambda: clock.ahead)


def wrong_clock(seconds: str) -> None:
    """Make the wall clock of this process wrong."""
    ahead = int(seconds)
    _alter_clock(lambda: ahead)


def _alter_clock(ahead: Callable[[], int]) -> None:
    from broker.messaging import chat_client as chat_client
    from broker.protocol import chat as mail
    from workers.execution import attempt, reporter

    time_, time_ns = time.time, time.time_ns
    time.time = lambda: time_() + ahead()
    time.time_ns = lambda: time_ns() + ahead() * 10**9

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(time.time(), tz)

    for module in (mail, chat_client, attempt, reporter):
        _replace(module, "datetime", Wrong)


def soon_quiet(seconds: str) -> None:
    """Set after how many seconds without text an attempt is quiet."""
    from coordinator.core.tasks import task

    _replace(task, "QUIET_AFTER", int(seconds) * 1_000_000)


TROUBLES: dict[str, Callable[[str], None]] = {
    "clock": wrong_clock,
    "clock-file": settable_clock,
    "lost-replies": lost_replies,
    "quiet": soon_quiet,
}


def _replace(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: this switch switches nothing off"
    setattr(owner, name, value)


def main() -> None:
    """Apply the changes, then run `fluffle`."""
    place = sys.argv.index("--")
    for change in sys.argv[1:place]:
        name, _, value = change.partition("=")
        if name in TROUBLES:
            TROUBLES[name](value)
        else:
            MECHANISMS[name]()
    sys.argv = ["fluffle", *sys.argv[place + 1 :]]
    from fluffle.cli.main import main as fluffle

    fluffle()


if __name__ == "__main__":
    main()
