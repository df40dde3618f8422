"""Named points where a test can make the process die, as kill -9 would: `FLUFFLE_CRASH_AT=after-commit`.

`FLUFFLE_CRASH_AT=after-commit:3` dies when it gets there for the third time; `FLUFFLE_CRASH_AT=after-commit:3:STOP`
stands still there, until somebody lets it go on.
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
            # To this thread: it does not go one step further, as it may when another one takes the signal.
            signal.pthread_kill(threading.get_ident(), signal.Signals[f"SIG{_SIGNAL or 'KILL'}"])


def _die_soon_at(point: str) -> None:
    asyncio.get_running_loop().call_soon(_die_at, point)


def _go_on(point: str) -> None:
    pass


crash_point = _die_at if _WHERE else _go_on

crash_point_soon = _die_soon_at if _WHERE else _go_on
"""The same once what was sent so far has gone out to RabbitMQ."""
