"""Random faults under load, and no task may be lost: python -m tests.programs.storm --tasks 100000 --faults 500

Prints one table; the exit code is 1 after a violation. `python -m tests.programs.storm.mutations` shows that the storm
finds real defects.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.programs.storm.faults import FAULTS
from tests.programs.storm.storm import Outcome, Plan, run_storm
from tests.support.postgres import postgres
from tests.support.rabbitmq import private_node


def table(outcome: Outcome) -> Table:
    """Return the outcome of a storm as a table."""
    shown = Table(title="Storm", title_justify="left")
    shown.add_column("")
    shown.add_column("", justify="right")
    shown.add_row("tasks", f"{outcome.tasks:,}")
    shown.add_row("faults", f"{outcome.faults.total():,}")
    shown.add_row("  of them in pairs", f"{2 * outcome.pairs:,}", end_section=True)
    for name, count in outcome.faults.most_common():
        shown.add_row(f"  {name.replace('_', ' ')}", f"{count:,}")
    shown.add_section()
    for name, count in outcome.judged().items():
        shown.add_row(name, f"{count:,}")
    shown.add_row("executed more than once", f"{outcome.repeated:,}")
    for how in ("lost", "unclaimed"):
        shown.add_row(f"attempts {how}", f"{outcome.endings.get(how, 0):,}")
    shown.add_row("recovery p50", f"{outcome.recovery(50):.2f} s")
    shown.add_row("recovery p95", f"{outcome.recovery(95):.2f} s")
    shown.add_row("two leases", f"{2 * outcome.lease:g} s")
    return shown


def figures(outcome: Outcome) -> dict[str, object]:
    """Return the outcome of a storm as JSON."""
    return {
        "tasks": outcome.tasks,
        "faults": outcome.faults,
        "pairs": outcome.pairs,
        "violations": outcome.violations,
        "executed_again": outcome.repeated,
        "attempts": outcome.endings,
        "recoveries": {name: sorted(seconds) for name, seconds in outcome.recoveries_by_fault.items()},
        "recovery_p50": outcome.recovery(50),
        "recovery_p95": outcome.recovery(95),
    }


def main() -> None:
    """Parse the options, run the storm, print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=2000, help="at least so many (%(default)s)")
    parser.add_argument("--faults", type=int, default=20, help="at least so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="but no longer than this")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which a task counts as lost")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats the choice of faults")
    parser.add_argument("--only", action="append", default=[], choices=[fault.__name__ for fault in FAULTS])
    parser.add_argument("--postgresql", action="store_true", help="use PostgreSQL as the database")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--log", type=argparse.FileType("w"), default=os.devnull, help="what the processes print last")
    options = parser.parse_args()
    console = Console(file=sys.stdout)
    console.print(f"seed {options.seed}")
    plan = Plan(
        tasks=options.tasks,
        faults=options.faults,
        seconds=options.seconds,
        patience=options.patience,
        seed=options.seed,
        only=options.only,
    )
    with ExitStack() as stack, redirect_stdout(options.log):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="storm-node-"))
        node = stack.enter_context(private_node(Path(folder)))
        server = stack.enter_context(postgres()) if options.postgresql else None
        outcome = run_storm(node, plan, server=server)
    console.print(table(outcome))
    for why in outcome.left_out:
        console.print(f"left out: {why}")
    for violation in outcome.violations:
        console.print(violation, style="red")
    if options.json:
        options.json.write_text(json.dumps(figures(outcome), indent=2) + "\n")
    sys.exit(bool(outcome.violations))


if __name__ == "__main__":
    main()
