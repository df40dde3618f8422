"""Everything dies at any time, and nothing may be lost: python -m tests.storm --tasks 100000 --faults 500

Prints one table; exit code 1 when there was a violation. With `--switch-off`, every mechanism that keeps the books
right is switched off in turn, and it is the storm that passes which is the failure.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.storm.cast import LEASE, SETTINGS, cast_on
from tests.storm.faults import FAULTS
from tests.storm.storm import Outcome, Storm, chosen
from tests.support.altered import MECHANISMS
from tests.support.ledger import Ledger
from tests.support.node import NodeInfo, private_node
from tests.support.postgres import postgres
from tests.support.site import site_on

REVEALING = {
    "outbox": ["crash_coordinator"],
    "manual-ack": ["kill_coordinator", "crash_coordinator"],
    "attempt-fence": ["suspend_worker", "cut_worker"],
    "epoch": ["suspend_coordinator"],
    "dedupe": ["echo"],
    "spool": ["kill_worker_with_answers"],
    "lease": ["kill_worker"],
}
"""The faults that each mechanism is for."""


def storm_on(node: NodeInfo, options: argparse.Namespace, faults: list[str], altered: Sequence[str] = ()) -> Outcome:
    """One storm in a place of its own."""
    with tempfile.TemporaryDirectory(prefix="storm-") as folder, redirect_stdout(options.log):
        settings = SETTINGS | ({"FLUFFLE_DATABASE_URL": options.database} if options.database else {})
        with site_on(node, Path(folder), **settings) as site:
            ledger = Ledger(site)
            with cast_on(site, ledger, altered) as cast:
                kinds = chosen(faults)
                storm = Storm(cast, ledger, seed=options.seed, patience=options.patience, faults=kinds)
                return asyncio.run(storm.run(tasks=options.tasks, faults=options.faults, seconds=options.seconds))


def table(outcome: Outcome) -> Table:
    """What a storm has seen, for people."""
    shown = Table(title="Storm", title_justify="left")
    shown.add_column("")
    shown.add_column("", justify="right")
    shown.add_row("tasks", f"{outcome.tasks:,}")
    shown.add_row("faults", f"{outcome.faults.total():,}", end_section=True)
    for name, count in outcome.faults.most_common():
        shown.add_row(f"  {name.replace('_', ' ')}", f"{count:,}")
    shown.add_section()
    shown.add_row("violations: lost, recorded twice, …", f"{len(outcome.violations):,}")
    shown.add_row("executed more than once", f"{outcome.repeated:,}")
    shown.add_row("recovery p50", f"{outcome.recovery(50):.2f} s")
    shown.add_row("recovery p95", f"{outcome.recovery(95):.2f} s")
    shown.add_row("two leases", f"{2 * LEASE:g} s")
    return shown


def rage(node: NodeInfo, options: argparse.Namespace, console: Console) -> bool:
    """One storm with everything in its place. Whether it found nothing."""
    outcome = storm_on(node, options, options.only)
    console.print(table(outcome))
    for violation in outcome.violations:
        console.print(violation, style="red")
    if options.json:
        figures = {
            "tasks": outcome.tasks,
            "faults": outcome.faults,
            "violations": outcome.violations,
            "executed_again": outcome.repeated,
            "recovery_p50": outcome.recovery(50),
            "recovery_p95": outcome.recovery(95),
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return not outcome.violations


def switch_off(node: NodeInfo, options: argparse.Namespace, console: Console) -> bool:
    """A storm without each mechanism. Whether every one of them was missed."""
    missed = True
    for mechanism in options.switch_off or REVEALING:
        outcome = storm_on(node, options, REVEALING[mechanism], [mechanism])
        found = outcome.violations[0] if outcome.violations else "nothing: the storm does not see that it is off"
        console.print(f"{mechanism} off, {outcome.tasks:,} tasks, {outcome.faults.total()} faults: {found}")
        missed = missed and bool(outcome.violations)
    return missed


def main() -> None:
    """Parse the options, rage, tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=2000, help="at least so many (%(default)s)")
    parser.add_argument("--faults", type=int, default=20, help="at least so many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="but no longer than this")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which a task counts as lost")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="repeats the choice of faults")
    parser.add_argument("--only", action="append", default=[], choices=[fault.__name__ for fault in FAULTS])
    parser.add_argument("--postgresql", action="store_true", help="keep the books in PostgreSQL")
    parser.add_argument("--switch-off", nargs="*", choices=list(MECHANISMS), help="mechanisms, or all of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--log", type=argparse.FileType("w"), default=os.devnull, help="what the processes print last")
    options = parser.parse_args()
    console = Console(file=sys.stdout)
    console.print(f"seed {options.seed}")
    run = rage if options.switch_off is None else switch_off
    with tempfile.TemporaryDirectory(prefix="storm-node-") as folder, private_node(Path(folder)) as node:
        if options.postgresql:
            with postgres() as server:
                options.database = server.create("books")
                sys.exit(not run(node, options, console))
        options.database = None
        sys.exit(not run(node, options, console))


if __name__ == "__main__":
    main()
