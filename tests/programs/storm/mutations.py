"""Switch off each safety mechanism in turn: python -m tests.programs.storm.mutations [MECHANISM…]

The storm must then find a violation. Prints one table; the exit code is 1 when a storm without a mechanism finds
nothing, because such a storm does not prove that the mechanism works.
"""

import argparse
import os
import random
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.programs.storm.storm import Outcome, Plan, run_storm
from tests.support.altered_program import MECHANISMS
from tests.support.rabbitmq import private_node

REVEALING = {
    "outbox": ["crash_coordinator"],
    "manual-ack": ["kill_coordinator", "crash_coordinator"],
    "attempt-fence": ["wake_worker_when_missed"],
    "epoch": ["suspend_coordinator"],
    "dedupe": ["echo"],
    "spool": ["kill_worker_with_answers"],
    "lease": ["kill_worker"],
    "mandatory": ["unbind_inbox"],
}
"""The faults that each mechanism is for."""

PATIENCE = 20.0  # seconds after which a task counts as lost
PATIENT_LEASE = 12.0  # seconds, where a fault has to be over long before the lease: also on a busy machine


def plan_for(mechanism: str, *, seed: int, faults: int, seconds: float) -> Plan:
    """Return a storm of the faults that this mechanism handles."""
    lease = {"lease": PATIENT_LEASE} if mechanism in ("spool", "mandatory") else {}
    return Plan(
        tasks=0,
        faults=faults,
        seconds=seconds,
        patience=PATIENCE,
        seed=seed,
        only=REVEALING[mechanism],
        altered=[mechanism],
        **lease,
    )


def row(mechanism: str, outcome: Outcome) -> tuple[str, ...]:
    """A line of the table."""
    faults = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in outcome.faults.items())
    found = outcome.violations[0] if outcome.violations else "NOTHING: it was not missed"
    return mechanism, f"{outcome.tasks:,}", faults, found.partition(": storm-")[0]


def main() -> None:
    """Parse the options, run the storms, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mechanisms", nargs="*", metavar="MECHANISM", help=f"{', '.join(MECHANISMS)}; all of them")
    parser.add_argument("--faults", type=int, default=60, help="give up after so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=240.0, help="and after so long (%(default)g)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats the choice of faults")
    parser.add_argument("--log", type=argparse.FileType("w"), default=os.devnull, help="what the processes print last")
    options = parser.parse_args()
    console = Console(file=sys.stdout)
    shown = Table(title="Switched off", title_justify="left")
    for heading in ("mechanism", "tasks", "faults", "what the storm found"):
        shown.add_column(heading, justify="right" if heading == "tasks" else "left")
    missed = True
    with (
        tempfile.TemporaryDirectory(prefix="storm-node-") as folder,
        redirect_stdout(options.log),
        private_node(Path(folder)) as node,
    ):
        for mechanism in options.mechanisms or REVEALING:
            plan = plan_for(mechanism, seed=options.seed, faults=options.faults, seconds=options.seconds)
            outcome = run_storm(node, plan)
            shown.add_row(*row(mechanism, outcome))
            console.print(*row(mechanism, outcome), sep=" | ")
            missed = missed and bool(outcome.violations)
    console.print(f"seed {options.seed}", shown)
    sys.exit(not missed)


if __name__ == "__main__":
    main()
