"""Named points where a test can make the process die, as kill -9 would: `FLUFFLE_CRASH_AT=after-commit`.

`FLUFFLE_CRASH_AT=after-commit:3` dies when it gets there for the third time.
"""

import os
import signal

_WHERE, _, _COUNT = os.environ.get("FLUFFLE_CRASH_AT", "").partition(":")
_left = int(_COUNT or 1)


def _die_at(point: str) -> None:
    global _left
    if point == _WHERE:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _go_on(point: str) -> None:
    pass


crash_point = _die_at if _WHERE else _go_on
