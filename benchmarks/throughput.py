"""No-op tasks per second, and the round trip of a single one: Fluffle beside Celery, taskiq and dramatiq.

    .venv/bin/python benchmarks/throughput.py --tasks 5000 --rounds 3

All of them run on the same RabbitMQ in the same run. benchmarks/README.md tells what each one does for a task.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.broker import Broker, broker
from benchmarks.support.command import command
from benchmarks.support.figures import COLUMNS, Comparison, Measured
from benchmarks.support.processes import PROGRAMS, ROOT, BenchmarkFailed, Processes, run_program
from benchmarks.support.report import console, print_bars, print_table, write_json
from benchmarks.systems.catalogue import System, fluffle, peers


def in_turn(systems: Sequence[System], rounds: int) -> Iterator[System]:
    """Yield every system once per round, every second round in reverse order, to spread busy moments."""
    for number in range(rounds):
        yield from reversed(systems) if number % 2 else systems


def measure(system: System, sizes: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    """Run one system once, with separate processes and data in `folder`; return the output of its client.

    Raises BenchmarkFailed.
    """
    environment = {
        "FLUFFLE_AMQP_URL": url,
        "FLUFFLE_STATE_DIR": str(folder),
        "FLUFFLE_LOG_LEVEL": "WARNING",  # as few log lines as the other systems
        "BENCHMARK_AMQP_URL": url,
        "BENCHMARK_TALLY": str(folder / "tally"),
    }
    options = ("--tasks", sizes.tasks, "--warm-up", sizes.warm_up, "--latency-samples", sizes.latency_samples)
    with Processes(folder, environment) as processes:
        for command in system.processes:
            processes.start(command)
        printed = processes.output_of([*system.client, *map(str, options)], timeout=60 + sizes.tasks / 20)
    figures: dict[str, Any] = json.loads(printed)
    return figures


def compare(sizes: argparse.Namespace, on: Broker, folder: Path) -> Comparison:
    """Run all rounds of all systems; drop a peer that fails. Raises BenchmarkFailed when Fluffle fails."""
    ours = fluffle(PROGRAMS)
    systems = [ours, *(peer for peer in peers(sizes.peers_env / "bin") if peer.name in sizes.peers)]
    measured = {system: Measured(system) for system in systems}
    failed: set[System] = set()
    for number, system in enumerate(in_turn(systems, sizes.rounds), start=1):
        if system in failed:
            continue
        console.print(f"[dim]{number}/{len(systems) * sizes.rounds} {system.name}[/dim]")
        turn = folder / f"{number}-{system.name}"
        turn.mkdir()
        try:
            measured[system].add(sizes.tasks, measure(system, sizes, on.url, turn))
        except BenchmarkFailed as error:
            if system is ours:
                raise
            console.print(f"{system.name} takes no further part: {error}", markup=False)
            failed.add(system)
    return Comparison(measured.pop(ours), [other for other in measured.values() if other.rates])


def arguments() -> argparse.Namespace:
    """Return the sizes given on the command line."""
    names = [peer.name for peer in peers(Path())]
    parser = command(__doc__)
    parser.add_argument("--tasks", type=int, default=5_000, help="tasks of each system in a round (5000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all systems (3)")
    parser.add_argument("--warm-up", type=int, default=500, help="tasks before each measurement (500)")
    parser.add_argument("--latency-samples", type=int, default=200, help="single tasks of a system in a round (200)")
    parser.add_argument(
        "--peers",
        type=lambda text: [name for name in text.split(",") if name],
        default=names,
        metavar="NAME,…",
        help=f"the systems to compare with, '' for none (all: {','.join(names)})",
    )
    parser.add_argument(
        "--peers-env",
        type=Path,
        default=ROOT / ".venv" / "peers",
        help="the environment that has benchmarks/requirements.txt (.venv/peers)",
    )
    sizes = parser.parse_args()
    if unknown := set(sizes.peers) - set(names):
        parser.error(f"--peers: unknown: {', '.join(sorted(unknown))}")
    if sizes.peers and not sizes.peers_env.is_dir():
        env = sizes.peers_env
        parser.error(
            f"{env} does not exist. Make it with `python3 -m venv {env}` and `{env}/bin/pip install -r "
            "benchmarks/requirements.txt`, or measure Fluffle alone with --peers ''"
        )
    return sizes


def main() -> None:
    """Measure, print the tables, write the file."""
    sizes = arguments()
    with tempfile.TemporaryDirectory() as folder, broker(sizes.amqp_url, Path(folder)) as on:
        found = compare(sizes, on, Path(folder))
    print_table(f"{sizes.tasks:,} no-op tasks on {on.name}", COLUMNS, found.rows())
    console.print("tasks/s is the median of the rounds. x: Fluffle's figure divided by this row's.\n")
    print_bars("Bars", found.bars())
    if sizes.json:
        figures = {
            "broker": on.name,
            "tasks": sizes.tasks,
            "rounds": sizes.rounds,
            "latency_samples": sizes.latency_samples,
            "systems": found.figures(),
        }
        write_json(sizes.json, "throughput", figures, found.bars())


if __name__ == "__main__":
    run_program(main)
