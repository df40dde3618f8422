"""Named points at which a test kills the process, as kill -9 would: `FLUFFLE_CRASH_AT=after-commit`.

With `FLUFFLE_CRASH_AT=after-commit:3` the process dies when it reaches the point for the third time; with
`FLUFFLE_CRASH_AT=after-commit:3:STOP` it stops there until SIGCONT.
"""

import asyncio
import os
import signal
import threading

_WHERE, _, _HOW = os.environ.get("FLUFFLE_CRASH_AT", "").partition(":")
_COUNT, _, _SIGNAL = _HOW.partition(":")
_left = int(_COUNT or 1)


def _die_at(point: str) -> None:
    global _left
    if point == _WHERE:
        _left -= 1
        if _left == 0:
            # To this thread: when another thread takes the signal, this one may continue for a moment.
            signal.pthread_kill(threading.get_ident(), signal.Signals[f"SIG{_SIGNAL or 'KILL'}"])


def _die_soon_at(point: str) -> None:
    asyncio.get_running_loop().call_soon(_die_at, point)


def _go_on(point: str) -> None:
    pass


crash_point = _die_at if _WHERE else _go_on

crash_point_soon = _die_soon_at if _WHERE else _go_on
"""Like `crash_point`, but after the data sent so far has reached RabbitMQ's socket."""
