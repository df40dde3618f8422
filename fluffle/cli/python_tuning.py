"""How Python is set up in a process that runs for days and carries thousands of messages a second."""

import gc
import sys

GENERATION_0_OBJECTS = 50_000  # objects; by default 700, fewer than a single batch of messages makes and drops again
SWITCH_INTERVAL_SECONDS = 0.001  # seconds


def set_up_for_long() -> None:
    """Call this once everything is imported."""
    gc.freeze()  # modules stay: nobody has to look through them for garbage again
    gc.set_threshold(GENERATION_0_OBJECTS, 20, 20)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)  # messages come in and go out while another thread works
