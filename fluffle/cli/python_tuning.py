"""How Python is set up in a process that runs for days and carries thousands of messages a second."""

import gc
import sys

YOUNG = 50_000  # objects; by default 700, fewer than a single batch of messages makes and drops again
SWITCH = 0.001  # seconds


def set_up_for_long() -> None:
    """Call this once everything is imported."""
    gc.freeze()  # modules stay: nobody has to look through them for garbage again
    gc.set_threshold(YOUNG, 20, 20)
    sys.setswitchinterval(SWITCH)  # messages come in and go out while another thread works
