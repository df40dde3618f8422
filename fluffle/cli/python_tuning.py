"""Settings of the Python runtime for a process that runs for days and handles thousands of messages a second."""

import gc
import sys

GENERATION_0_OBJECTS = 50_000  # by default 700, fewer than one batch of messages allocates
SWITCH_INTERVAL_SECONDS = 0.001


def set_up_for_long() -> None:
    """Tune garbage collection and thread switching. Call this after all imports."""
    gc.freeze()  # the collector need not scan the imported modules again
    gc.set_threshold(GENERATION_0_OBJECTS, 20, 20)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)  # the thread of the connection gets its turn sooner
