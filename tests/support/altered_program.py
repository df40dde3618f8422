"""`fluffle` with something about it altered: python -m tests.support.altered_program CHANGE… -- ARGUMENTS…

A CHANGE is the name of a mechanism that keeps the books right, which is switched off; or `clock=SECONDS`, which makes
the wall clock of the process wrong by that much; or `clock-file=PATH`, by which it can be set, see Clock; or
`lost-replies=COUNT` or `quiet=SECONDS`, see below. A proof that finds nothing when a mechanism is off proves nothing.
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
from typing import Any


def no_outbox() -> None:
    """What was committed and not published before a crash is forgotten."""
    from coordinator.storage.store import Store

    _replace(Store, "unsent", lambda self: [])


def no_manual_ack() -> None:
    """A message counts as done as soon as it is delivered."""
    from broker.amqp.envelope import Delivery
    from broker.amqp.robust_connection import RobustConnection

    consume = RobustConnection.consume

    async def consume_at_once(self: RobustConnection, *args: Any, **kwargs: Any) -> Any:
        return await consume(self, *args, **{**kwargs, "auto_ack": True})

    _replace(RobustConnection, "consume", consume_at_once)
    for settle in ("ack", "reject", "requeue"):
        _replace(Delivery, settle, lambda self: None)


def no_attempt_fence() -> None:
    """The result of any attempt counts as that of the present one."""
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
    """A coordinator writes whether it still leads or not."""
    from coordinator.storage.store import Store

    _replace(Store, "_extend", lambda self, connection, now, lease: None)


def no_dedupe() -> None:
    """A task that is submitted again is a new one."""
    from coordinator.core.tasks.submit import Submissions

    submitted = Submissions.submitted

    def submitted_anew(self: Submissions, event: Any, now: Any) -> None:
        self._state.tasks.pop(event.task_id, None)
        submitted(self, event, now)

    _replace(Submissions, "submitted", submitted_anew)


def no_spool() -> None:
    """A finished answer is nowhere but in memory until RabbitMQ has it."""
    from workers.execution import spool

    _replace(spool, "_write", lambda file, data: None)


def no_lease() -> None:
    """Whoever has a task keeps it, however silent."""
    from coordinator.core.tasks.attempts import AttemptReports

    _replace(AttemptReports, "tick", lambda self, now, heard_until: None)


def no_mandatory() -> None:
    """What no queue takes is gone without a word."""
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
    """So many commits, with some that work between them, end with an error although they were made."""
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
    """The wall clock of a process that was started with `clock-file=PATH`, which others can set while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, 8)
        self._ahead = mmap.mmap(self._file, 8)

    @property
    def change(self) -> str:
        """What a process is started with that has this clock."""
        return f"clock-file={self.path}"

    @property
    def ahead(self) -> int:
        """How many seconds it is ahead of the right time."""
        return int(struct.unpack("q", self._ahead[:])[0])

    def set(self, ahead: int) -> None:
        """Set it so many seconds ahead of the right time; negative: behind."""
        self._ahead[:] = struct.pack("q", ahead)


def settable_clock(path: str) -> None:
    """Let others set the wall clock of this process."""
    clock = Clock(Path(path))
    _alter_clock(lambda: clock.ahead)


def wrong_clock(seconds: str) -> None:
    """Make the wall clock of this process wrong."""
    ahead = int(seconds)
    _alter_clock(lambda: ahead)


def _alter_clock(ahead: Callable[[], int]) -> None:
    from broker import chat_client as chat_client
    from broker.protocol import chat as mail
    from workers.execution import attempt, reporter

    time_, time_ns = time.time, time.time_ns
    time.time = lambda: time_() + ahead()
    time.time_ns = lambda: time_ns() + ahead() * 10**9

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.fromtimestamp(time.time(), tz)

    for module in (mail, chat_client, attempt, reporter):
        _replace(module, "datetime", Wrong)


def soon_quiet(seconds: str) -> None:
    """Attempts that have sent no text for so long are quiet."""
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
    """Alter what is to be altered, then be `fluffle`."""
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
